# Copyright 2026 The wavtokenizer_hf authors. All rights reserved.
#
# Licensed under the MIT License; see the LICENSE file of the project.
"""How the nearest entry of a codebook is found: exactly, and on a CPU without comparing all entries of a large one.

Shapes: N vectors, K entries, D width, P pairs of a vector and an entry.
"""

import math
import weakref
from typing import cast

import torch
from torch import nn

from .arithmetic_wavtokenizer import can_look_at, numbers_at_once

# A float32 score of an entry, a product of a vector and an entry of some hundred numbers, is off by no more than this
# part of the product of their norms. What is as near as that is compared in float64.
_SCORE_NOISE = 2**-17

# From so many entries on, the search on a CPU looks along principal axes first: so many at most, or as few as leave
# this share of the variance; for so many entries at a time. Comparing all is faster where the axes leave much of the
# variance, or more than a small share of all entries has to be compared in full.
INDEXED_FROM = 2**14
_MAX_AXES = 64
_VARIANCE_LEFT = 0.01
_VARIANCE_LEFT_AT_MOST = 0.25
_BOUNDS_IN_GROUP = 64
_COMPARED_AT_MOST = 1 / 256
_ENTRIES_AT_ONCE = 2**10
# Within this span of norms, no sum of float32 here overflows or loses bits to underflow.
_SAFE_NORMS = (1e-15, 1e15)


def nearest_entries(codebook: nn.Module, vectors: torch.Tensor) -> torch.Tensor:
    """The nearest entry by Euclidean distance; of equals the first.

    While a compiler or an export traces, all entries are compared in float32.

    Args:
        codebook: A module with the entries in `embed`, float32 (K, D).
        vectors: Float32 (B, L, D).

    Returns:
        int64 (B, L).
    """
    embed = cast(torch.Tensor, codebook.embed)
    index = _index_of(codebook)
    found = None if index is None else index.nearest(vectors.detach().flatten(0, 1), embed)
    if found is not None:
        return found.unflatten(0, vectors.shape[:2])
    # |v - e|^2 = |v|^2 - 2 (v e - |e|^2 / 2), and the vector's own norm moves all its distances alike.
    squares = embed.square().sum(dim=-1)
    offsets = -0.5 * squares
    if torch.compiler.is_compiling():
        return (vectors @ embed.T + offsets).argmax(dim=-1)
    longest = squares.max().sqrt()
    at_once = max(1, numbers_at_once(vectors.device) // offsets.shape[0])
    flat = vectors.detach().flatten(0, 1)
    codes = [_compared_with_all(some, embed, offsets, longest) for some in flat.split(at_once)]
    return torch.cat(codes).unflatten(0, vectors.shape[:2])


def _compared_with_all(
    vectors: torch.Tensor, embed: torch.Tensor, offsets: torch.Tensor, longest: torch.Tensor
) -> torch.Tensor:
    """Nearest entries (N,) of vectors (N, D), told apart in float64 where float32 cannot; the first of equals."""
    scores = torch.addmm(offsets, vectors, embed.T)  # (N, K)
    best, codes = scores.max(dim=-1)
    second = scores.scatter(-1, codes[:, None], -math.inf).amax(dim=-1)
    noise = _SCORE_NOISE * longest * torch.maximum(torch.linalg.vector_norm(vectors, dim=-1), longest)
    is_close = best - second <= noise
    if not can_look_at(codes) or not is_close.any():
        return codes
    may_be_nearest = (scores[is_close] >= (best - noise)[is_close, None]).any(dim=0).nonzero()[:, 0]
    entries = embed[may_be_nearest].double()
    scores = torch.addmm(-0.5 * entries.square().sum(dim=-1), vectors[is_close].double(), entries.T)
    is_best = scores >= scores.amax(dim=-1, keepdim=True) - 2**-23 * noise[is_close, None].double()
    codes[is_close] = may_be_nearest[is_best.byte().argmax(dim=-1)]
    return codes


class CodebookIndex:
    """Finds the entries that a comparison with all entries finds, and compares a few of them only.

    The score of an entry e is v e - |e|^2 / 2, with both vectors taken from the middle of the codebook. Along the
    codebook's principal axes the product is known from a few numbers; the rest of it is at most the product of the
    norms of what is left of the two. An entry whose score cannot reach the best one found so far is passed over, and
    what is not is compared in float64. Bounds are in float32, and their rounding errors allowed for.

    Args:
        embed: The entries, float32 (K, D), on a CPU. Once they change, the index is of no use: see `is_of`.

    Source: The bound is that of Cauchy and Schwarz.
    """

    def __init__(self, embed: torch.Tensor):
        self._embed, self._state = weakref.ref(embed), (embed.data_ptr(), embed._version)
        size, width = embed.shape
        self._step = max(1, size // 256)
        self._some = embed[:: self._step].clone()
        squares = [some.square().sum(dim=-1).max() for some in embed.split(_ENTRIES_AT_ONCE)]
        self._longest = torch.stack(squares).max().sqrt()
        self._is_useful = bool(_SAFE_NORMS[0] < self._longest < _SAFE_NORMS[1])
        if not self._is_useful:
            return
        sample = embed[:: max(1, size // 2048)].double()
        self._centre = sample.mean(dim=0)
        sample -= self._centre
        variances, axes = torch.linalg.eigh(sample.T @ sample)  # from the least to the greatest
        few = int((variances.cumsum(dim=0) > _VARIANCE_LEFT * variances.sum()).sum())
        num_axes = min(-(-few // 16) * 16, _MAX_AXES, width)
        self._is_useful = bool(variances[: width - num_axes].sum() <= _VARIANCE_LEFT_AT_MOST * variances.sum())
        if not self._is_useful:
            return
        self._axes = axes[:, width - num_axes :].contiguous()
        # What fills up the last group scores below every entry.
        num_rows = -(-size // _BOUNDS_IN_GROUP) * _BOUNDS_IN_GROUP
        self._coordinates = embed.new_zeros(num_rows, min(num_axes + 1, width))
        self._offsets = embed.new_full((num_rows,), -math.inf)
        rows = zip(
            *(tensor.split(_ENTRIES_AT_ONCE) for tensor in (embed, self._coordinates, self._offsets)), strict=True
        )
        for entries, coordinates, offsets in rows:
            along_axes, squares_here = self._along_axes(entries.double())
            coordinates[: len(entries)] = along_axes
            offsets[: len(entries)] = -0.5 * squares_here
        self._radius = (-2 * self._offsets[:size].min()).sqrt().double()

    @property
    def num_axes(self) -> int | None:
        """Axes that it looks along, `None` where comparing all entries is faster."""
        return self._axes.shape[1] if self._is_useful else None

    def is_of(self, embed: torch.Tensor) -> bool:
        """Whether it was made of these entries, which have not changed since.

        torch counts changes, but not those through `.data` or a NumPy view; if these changed all entries, some tell.
        """
        is_same = self._embed() is embed and self._state == (embed.data_ptr(), embed._version)
        return is_same and torch.equal(self._some, embed[:: self._step])

    def nearest(self, vectors: torch.Tensor, embed: torch.Tensor) -> torch.Tensor | None:
        """Nearest entries (N,) of vectors (N, D); `None` where comparing all entries is faster, or is needed.

        It is needed where numbers are not finite, or so large or small that their squares are none of float32.
        """
        norms = torch.linalg.vector_norm(vectors, dim=-1)
        if not self._is_useful or not len(vectors) or not (norms < _SAFE_NORMS[1]).all():
            return None
        noise = _SCORE_NOISE * self._longest * torch.maximum(norms, self._longest)
        parts = []
        for some, ties in zip(vectors.split(256), (2**-23 * noise.double()).split(256), strict=True):
            codes = self._nearest(some.double(), ties, embed)
            if codes is None:
                return None
            parts.append(codes)
        return torch.cat(parts)

    def _nearest(self, vectors: torch.Tensor, ties: torch.Tensor, embed: torch.Tensor) -> torch.Tensor | None:
        """As `nearest`, of float64 vectors; of entries whose scores differ by no more than `ties`, the first."""
        coordinates, squares = self._along_axes(vectors)
        coordinates = coordinates.float()
        # What a score from the middle of the codebook lacks, and how far float32 may be off: fewer than 2^8 roundings.
        shift = vectors @ self._centre - 0.5 * self._centre.square().sum()
        slack = 2**-16 * self._radius * torch.maximum(squares.sqrt(), self._radius) + 2 * ties
        every_row = torch.arange(len(vectors))
        best = vectors.new_full((len(vectors),), -math.inf)
        found, num_compared = [], 0
        at_once = max(1, numbers_at_once(vectors.device) // (len(vectors) * _BOUNDS_IN_GROUP)) * _BOUNDS_IN_GROUP
        for begin in range(0, len(self._coordinates), at_once):
            stretch = slice(begin, begin + at_once)
            bounds = torch.addmm(self._offsets[stretch], coordinates, self._coordinates[stretch].T)
            bounds = bounds.unflatten(-1, (-1, _BOUNDS_IN_GROUP))  # (N, entries) -> (N, groups, group)
            highest = bounds.amax(dim=-1)
            group = highest.argmax(dim=-1)
            likely = begin + group * _BOUNDS_IN_GROUP + bounds[every_row, group].argmax(dim=-1)
            best = torch.maximum(best, _scores(vectors, every_row, embed, likely.clamp(max=len(embed) - 1)))
            reach = (best - shift - slack).float()
            rows, groups = (highest >= reach[:, None]).nonzero(as_tuple=True)
            which, place = (bounds[rows, groups] >= reach[rows, None]).nonzero(as_tuple=True)
            rows, entries = rows[which], begin + groups[which] * _BOUNDS_IN_GROUP + place
            num_compared += len(rows)
            if num_compared > len(vectors) * max(_BOUNDS_IN_GROUP, len(embed) * _COMPARED_AT_MOST):
                return None
            scores = _scores(vectors, rows, embed, entries)
            best = best.scatter_reduce(0, rows, scores, "amax")
            found.append((rows, entries, scores))
        rows, entries, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        is_best = scores >= (best - ties)[rows]
        return torch.full_like(every_row, len(embed)).scatter_reduce(0, rows[is_best], entries[is_best], "amin")

    def _along_axes(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of float64 (N, D): coordinates and the norm of the rest, a hair too long; the square of the whole norm."""
        centred = vectors - self._centre
        coordinates, squares = centred @ self._axes, centred.square().sum(dim=-1)
        if self._axes.shape[0] > self._axes.shape[1]:
            rest = (squares - coordinates.square().sum(dim=-1)).clamp(min=0).sqrt() * (1 + 2**-20)
            coordinates = torch.cat([coordinates, rest[:, None]], dim=-1)
        return coordinates, squares


def _scores(vectors: torch.Tensor, rows: torch.Tensor, embed: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
    """v e - |e|^2 / 2 of pairs of a vector and an entry, (P,) indices each, in float64."""
    scores = []
    at_once = max(1, numbers_at_once(embed.device) // embed.shape[1])
    for some, which in zip(rows.split(at_once), entries.split(at_once), strict=True):
        entry = embed[which].double()
        scores.append(((vectors[some] - 0.5 * entry) * entry).sum(dim=-1))
    return torch.cat(scores)


_indices: weakref.WeakKeyDictionary[nn.Module, CodebookIndex] = weakref.WeakKeyDictionary()


def _index_of(codebook: nn.Module) -> CodebookIndex | None:
    """The index of a codebook, made when it is first asked for and when entries have changed; `None` of small ones.

    It is no part of the module: copies and files do without it.
    """
    embed = cast(torch.Tensor, codebook.embed)
    if len(embed) < INDEXED_FROM or torch.compiler.is_compiling():
        return None
    if embed.device.type != "cpu" or embed.dtype != torch.float32 or embed.is_inference():
        return None
    index = _indices.get(codebook)
    if index is None or not index.is_of(embed):
        index = _indices[codebook] = CodebookIndex(embed)
    return index
