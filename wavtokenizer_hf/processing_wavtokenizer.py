# Copyright 2026 The wavtokenizer_hf authors. All rights reserved.
#
# Licensed under the MIT License; see the LICENSE file of the project.
"""WavTokenizer's codes as tokens of a language model: their vocabulary, and a processor that mixes them with text."""

import inspect
import json
import os
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AddedToken, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.modeling_utils import PreTrainedAudioTokenizerBase, PreTrainedModel
from transformers.utils import PaddingStrategy, TensorType

from .codec_files import copy_code_files
from .configuration_wavtokenizer import fingerprint
from .feature_extraction_wavtokenizer import WavTokenizerFeatureExtractor
from .modeling_wavtokenizer import (
    WavTokenizerCausalModel,
    WavTokenizerDecoderModel,
    WavTokenizerEncoderModel,
    WavTokenizerModel,
)

# Under this name the settings of the vocabulary stand in tokenizer_config.json.
_SETTINGS_NAME = "audio_vocabulary"

_TEXT, _AUDIO, _BEGIN, _END = range(4)
_KIND_NAMES = ("text", "audio", "begin", "end")

# What a label is where nothing is to be learned, as all losses of transformers have it.
_IGNORED = -100

_AUTO_MAP = {"AutoProcessor": "processing_wavtokenizer.WavTokenizerProcessor"}
_FEATURE_EXTRACTOR_MAP = {"AutoFeatureExtractor": "feature_extraction_wavtokenizer.WavTokenizerFeatureExtractor"}
# Where a codec that is not on the Hub lies in the processor's folder.
_CODEC_FOLDER = "audio_tokenizer"
# transformers' own name for this entry, `audio_tokenizer`, would have AutoProcessor load the codec by itself, which it
# can do for its own codecs only.
_CODEC_ENTRY = "audio_codec"
_CODEC_CLASSES = (
    WavTokenizerModel,
    WavTokenizerCausalModel,
    WavTokenizerEncoderModel,
    WavTokenizerDecoderModel,
)


# -------------------------------------------------------------------------------------------------------- vocabulary


@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch of text or one span of audio in a sequence of token ids.

    Args:
        is_audio: Whether it is audio.
        start: Position of its first id in the sequence; that of an audio span is its begin token.
        stop: Position after its last id; that of an audio span is its end token.
        values: int64 (n,), the ids of text, or the codes of audio without begin and end.
    """

    is_audio: bool
    start: int
    stop: int
    values: np.ndarray


class AudioVocabulary:
    """The codes of a codec as token ids of a language model.

    Made with `add_to`, or read back from a tokenizer that has it with `from_tokenizer`: the settings are saved and
    pushed with the tokenizer, in `tokenizer_config.json`. A span of audio is the begin token, a token for each code,
    and the end token. Conversions take NumPy arrays, torch tensors and lists; a tensor gives a tensor on its device,
    anything else an array.

    Args:
        tokenizer: Knows the begin, end and placeholder tokens, and those of the codes unless they go by offset.
        settings: As `add_to` stores them.

    Attributes:
        codebook_size: Of all codebooks together. The codes of a codec with several are one sequence, in which each
            codebook's are numbered behind those before it; see `CodecSpec.flatten`.
        token_ids: int64 (codebook_size,), the id of each code.
        begin_token_id: Opens a span; likewise `end_token_id` closes it.
        placeholder_token_id: Stands for a recording in text that the processor has not seen yet; never a model's
            input.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: Mapping[str, Any]):
        self.settings = dict(settings)
        self.token: str = settings["token"]
        self.begin_token: str = settings["begin_token"]
        self.end_token: str = settings["end_token"]
        self.placeholder_token: str = settings["placeholder_token"]
        self.codebook_size: int = settings["codebook_size"]
        self.codebook_sizes: tuple[int, ...] = tuple(settings.get("codebook_sizes", [self.codebook_size]))
        self.hop_length: int | None = settings["hop_length"]
        self.sampling_rate: int = settings["sampling_rate"]
        ids = tokenizer.get_vocab()
        first = settings["first_token_id"]
        names = [] if first is not None else self._token_names()
        absent = [
            name for name in (self.begin_token, self.end_token, self.placeholder_token, *names) if name not in ids
        ]
        if absent:
            raise ValueError(
                f"The tokenizer lacks {len(absent)} tokens of its audio vocabulary, {absent[0]!r} first. Add it again "
                "with AudioVocabulary.add_to."
            )
        self.begin_token_id: int = ids[self.begin_token]
        self.end_token_id: int = ids[self.end_token]
        self.placeholder_token_id: int = ids[self.placeholder_token]
        if first is None:
            self.token_ids = np.array([ids[name] for name in names], dtype=np.int64)
        else:
            self.token_ids = np.arange(first, first + self.codebook_size, dtype=np.int64)
        self.token_ids.setflags(write=False)
        if len(np.unique(self._all_ids())) != self.codebook_size + 3:
            raise ValueError(
                f"The ids of {self.codebook_size} codes, begin {self.begin_token_id}, end {self.end_token_id} and "
                f"placeholder {self.placeholder_token_id} must all differ. Name other begin, end and placeholder "
                "tokens, or another `first_token_id`."
            )
        self._order = np.argsort(self.token_ids)

    @classmethod
    def add_to(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        config: Any,
        *,
        token: str = "<|audio_{}|>",
        begin_token: str = "<|audio_start|>",
        end_token: str = "<|audio_end|>",
        placeholder_token: str = "<|audio|>",
        first_token_id: int | None = None,
    ) -> "AudioVocabulary":
        """Gives a tokenizer the tokens of a codec, or adopts those that it has.

        Only tokens that the tokenizer lacks are added, all as special tokens, so a second call changes nothing.

        Args:
            tokenizer: Of any language model; it is changed in place.
            config: Of the codec: its configuration where it has one codebook, or its `CodecSpec`.
            token: Name of a code's token, with `{}` where the code stands.
            begin_token: Opens a span of audio; one that the tokenizer has may be named.
            end_token: Closes it.
            placeholder_token: Stands for a recording in the text that `WavTokenizerProcessor` takes.
            first_token_id: The id of code 0, where the model reserves ids for the codes one after the other, whatever
                its tokenizer knows of them; 262344 for Apertus 1.5. No tokens are added for the codes then.

        Raises:
            ValueError: If the tokenizer has an audio vocabulary with other settings, or ids would collide.
        """
        if token.count("{}") != 1:
            raise ValueError(f"`token` must hold {{}} once, where the code stands, got {token!r}.")
        is_spec = hasattr(config, "num_entries")
        sizes: Sequence[int] = config.codebook_sizes if is_spec else [config.codebook_size]
        settings = {
            "token": token,
            "begin_token": begin_token,
            "end_token": end_token,
            "placeholder_token": placeholder_token,
            "codebook_size": sum(sizes),
            "hop_length": config.hop_length,
            "sampling_rate": config.sampling_rate,
            "first_token_id": first_token_id,
        }
        settings |= {"codebook_sizes": list(sizes)} if len(sizes) > 1 else {}
        stored = tokenizer.init_kwargs.get(_SETTINGS_NAME)
        if stored is not None:
            differing = [name for name, value in settings.items() if stored.get(name) != value]
            if differing:
                name = differing[0]
                raise ValueError(
                    f"The tokenizer has an audio vocabulary with {name} = {stored[name]!r}, and {settings[name]!r} is "
                    "asked for. Take it with AudioVocabulary.from_tokenizer, or add to a tokenizer without one."
                )
            return cls(tokenizer, stored)
        names = [begin_token, end_token, placeholder_token]
        if first_token_id is None:
            names += [token.format(code) for code in range(sum(sizes))]
        known = tokenizer.get_vocab()
        missing = [name for name in names if name not in known]
        next_id = max(known.values()) + 1
        if first_token_id is not None and missing:
            reserved_end = first_token_id + sum(sizes)
            if next_id < reserved_end and first_token_id < next_id + len(missing):
                raise ValueError(
                    f"The tokenizer lacks {', '.join(missing)} and would add it at id {next_id}, among the ids "
                    f"{first_token_id} to {reserved_end - 1} that are reserved for codes. Name tokens that it has."
                )
        # Those that it has as ordinary entries become added ones, too, so that text finds them whole.
        added = tokenizer.get_added_vocab()
        tokenizer.add_tokens(
            [AddedToken(name, special=True, normalized=False) for name in names if name not in added],
            special_tokens=True,
        )
        ids = tokenizer.get_vocab()
        settings["first_added_id"] = min((ids[name] for name in missing), default=None)
        vocabulary = cls(tokenizer, settings)
        tokenizer.init_kwargs[_SETTINGS_NAME] = settings
        return vocabulary

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> "AudioVocabulary":
        """The audio vocabulary of a tokenizer that was given one, also after saving and loading.

        Raises:
            ValueError: If it has none.
        """
        settings = tokenizer.init_kwargs.get(_SETTINGS_NAME)
        if settings is None:
            raise ValueError(
                "The tokenizer has no audio vocabulary. Give it one with AudioVocabulary.add_to, which also adopts "
                "tokens that it has, by their names or by `first_token_id`."
            )
        return cls(tokenizer, settings)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.token.format(0)} ... {self.token.format(self.codebook_size - 1)} at "
            f"{self.token_ids.min()} to {self.token_ids.max()}, {self.begin_token} at {self.begin_token_id}, "
            f"{self.end_token} at {self.end_token_id})"
        )

    def num_tokens(self, num_samples: Any) -> Any:
        """Tokens of a span of audio, begin and end included: ceil(num_samples / hop_length) + 2.

        Args:
            num_samples: Length at the codec's rate; a number, or an array or tensor of them.

        Raises:
            ValueError: Of a codec whose number of codes does not follow from the length.
        """
        if self.hop_length is None:
            raise ValueError("How many tokens a recording has is known only once it is encoded, of this codec.")
        return len(self.codebook_sizes) * -(-num_samples // self.hop_length) + 2

    def to_token_ids(self, audio_codes: Any) -> Any:
        """The token id of each code, without begin and end; any shape, which is kept.

        Raises:
            ValueError: If a code is not in 0..codebook_size - 1, with its position.
        """
        codes = _as_integers(audio_codes, "audio_codes")
        self._refuse_strange_codes(codes)
        return _like(self.token_ids[codes], audio_codes)

    def to_codes(self, token_ids: Any) -> Any:
        """The code of each token id; any shape, which is kept. All must be codes: `split` takes mixed sequences.

        Raises:
            ValueError: If an id is not one of a code, with its position.
        """
        ids = _as_integers(token_ids, "token_ids")
        codes = self._codes_of(ids)
        self._refuse(ids, codes < 0, "only ids of codes have one; `split` tells them from text")
        return _like(codes, token_ids)

    def to_spans(self, audio_codes: Any, audio_codes_mask: Any = None) -> list:
        """The ids of each clip of a batch with begin and end, as they stand in a sequence.

        Args:
            audio_codes: (B, 1, L) or (B, L).
            audio_codes_mask: Of the same shape, non-zero where valid, as `encode` returns it; `None` takes all.

        Returns:
            B arrays or tensors (num_codes + 2,).

        Raises:
            ValueError: For another shape, or a valid code that is not in 0..codebook_size - 1, with its position.
        """
        codes = _as_integers(audio_codes, "audio_codes")
        if codes.ndim not in (2, 3) or (codes.ndim == 3 and codes.shape[1] != 1):
            raise ValueError(f"`audio_codes` must have shape (B, 1, L) or (B, L), got {codes.shape}.")
        mask = np.ones_like(codes) if audio_codes_mask is None else _as_array(audio_codes_mask)
        if mask.shape != codes.shape:
            raise ValueError(f"`audio_codes_mask` must have the codes' shape {codes.shape}, got {mask.shape}.")
        self._refuse_strange_codes(codes, mask != 0)
        spans = []
        for row, valid in zip(codes.reshape(len(codes), -1), mask.reshape(len(codes), -1) != 0, strict=True):
            ids = self.token_ids[row[valid]]
            spans.append(_like(np.concatenate([[self.begin_token_id], ids, [self.end_token_id]]), audio_codes))
        return spans

    def to_text(self, audio_codes: Any) -> Any:
        """A clip's codes (L,) as text, begin and end included; a batch (B, 1, L) or (B, L), or a list, gives a list.

        A tokenizer reads it back as the same ids only if it has the codes' tokens, which it may lack where they go by
        `first_token_id`.

        Raises:
            ValueError: If a code is not in 0..codebook_size - 1, with its position.
        """
        if isinstance(audio_codes, Sequence) and any(np.ndim(item) for item in audio_codes):
            return [_numbered(f"Clip {index}", self.to_text, codes) for index, codes in enumerate(audio_codes)]
        codes = _as_integers(audio_codes, "audio_codes")
        if codes.ndim not in (1, 2, 3) or (codes.ndim == 3 and codes.shape[1] != 1):
            raise ValueError(f"`audio_codes` must have shape (L,), (B, L) or (B, 1, L), got {codes.shape}.")
        self._refuse_strange_codes(codes)
        texts = [
            "".join([self.begin_token, *map(self.token.format, row), self.end_token])
            for row in np.atleast_2d(codes.squeeze(axis=1) if codes.ndim == 3 else codes).tolist()
        ]
        return texts[0] if codes.ndim == 1 else texts

    def from_text(self, text: Any) -> Any:
        """The codes (L,) that text spells; the reverse of `to_text`, also of a list.

        Begin and end may be left out, and white space may stand between tokens.

        Raises:
            ValueError: If there is anything else in it, with its position.
        """
        if not isinstance(text, str):
            return [_numbered(f"Text {index}", self.from_text, item) for index, item in enumerate(text)]
        start = len(text) - len(text.lstrip())
        start += len(self.begin_token) * text.startswith(self.begin_token, start)
        stop = len(text.rstrip())
        stop -= len(self.end_token) * text.endswith(self.end_token, start, stop)
        name = re.compile(re.escape(self.token).replace(re.escape("{}"), "(0|[1-9][0-9]*)"))
        numbers, position = [], start
        for found in name.finditer(text, start, stop):
            self._refuse_strange_text(text, position, found.start())
            numbers.append(int(found[1]))
            position = found.end()
        self._refuse_strange_text(text, position, stop)
        codes = np.array(numbers, dtype=np.int64)
        self._refuse_strange_codes(codes)
        return codes

    def split(self, token_ids: Any, repair: bool = False) -> list[Segment]:
        """Splits a sequence into its stretches of text and its spans of audio.

        Args:
            token_ids: (n,).
            repair: Whether to read a malformed sequence as if the begin and end tokens that it lacks stood there.
                Codes outside a span make one; text or another begin inside a span ends it, as the end of the sequence
                does; and an end outside is passed over. No code and no text is lost.

        Raises:
            ValueError: If the sequence is malformed and `repair` is off; the message names the position.
        """
        ids = _as_integers(token_ids, "token_ids")
        if ids.ndim != 1:
            raise ValueError(f"`split` takes one sequence (n,), got shape {ids.shape}.")
        codes = self._codes_of(ids)
        kinds = self._kinds(ids, codes)
        segments: list[Segment] = []
        opened: int | None = None

        def problem(position: int, what: str) -> None:
            if not repair:
                found = f" (id {ids[position]})" if position < len(ids) else ""
                raise ValueError(f"Position {position}{found}: {what}. `repair=True` reads what can be read.")

        def close(stop: int) -> None:
            inside = codes[opened:stop]
            segments.append(Segment(True, opened or 0, stop, inside[inside >= 0]))

        for start, stop in _runs(kinds):
            kind = kinds[start]
            if kind == _AUDIO:
                if opened is None:
                    problem(start, "a code outside a span; no begin token stands before it")
                    opened = start
                continue
            if opened is not None and kind != _END:
                problem(
                    start, f"{_KIND_NAMES[kind]} in the span that began at {opened}; no end token stands before it"
                )
                close(start)
                opened = None
            if kind == _TEXT:
                segments.append(Segment(False, start, stop, ids[start:stop]))
            elif kind == _BEGIN:
                opened = start
            elif opened is not None:
                close(stop)
                opened = None
            else:
                problem(start, "an end token outside a span")
        if opened is not None:
            problem(len(ids), f"the sequence ends in the span that began at {opened}")
            close(len(ids))
        return segments

    def is_audio(self, token_ids: Any) -> Any:
        """Whether each id is a code's, or begin or end; any shape, which is kept."""
        ids = _as_integers(token_ids, "token_ids")
        return _like(self._kinds(ids, self._codes_of(ids)) != _TEXT, token_ids)

    @torch.no_grad()
    def resize_embeddings(
        self,
        model: PreTrainedModel,
        codec: Any = None,
        *,
        pad_to_multiple_of: int | None = None,
        redraw: bool | None = None,
        seed: int = 0,
    ) -> None:
        """Gives a language model a row for every id, in its input and output embeddings.

        A new row is drawn from a normal distribution with the mean and the deviation that each column has over the old
        rows, so new tokens start where the old ones lie. With a codec, the rows of codes are a random projection of
        its codebook, brought to that mean and deviation: codes that sound alike start out alike, and a model learns
        them much faster. Weights that are tied stay tied, a bias of the output gets entries in the same way, and old
        rows stay as they are. A second call changes nothing.

        Args:
            model: A model with input and, where it generates, output embeddings, whose weights are in memory.
            codec: The codec, or its decoder or encoder.
            pad_to_multiple_of: As in `resize_token_embeddings`.
            redraw: Whether tokens that this vocabulary added get new rows where the model has rows for them, as models
                do that are wider than their tokenizer; `None` means if the model has to grow. Ids that were adopted
                keep theirs.
            seed: Of the draw, so that all processes of a run draw the same.

        Raises:
            ValueError: If the embeddings are on the meta device, as those are that accelerate has offloaded.
        """
        embeddings: Any = model.get_input_embeddings()
        if embeddings.weight.is_meta:
            raise ValueError(
                "The model's embeddings have no values here (device meta): it was built without weights, or they are "
                "offloaded. Load it without `device_map`, resize and save it, and load it from there."
            )
        num_rows = embeddings.weight.shape[0]
        num_needed = int(self._all_ids().max()) + 1
        if num_needed > num_rows:
            model.resize_token_embeddings(num_needed, pad_to_multiple_of=pad_to_multiple_of, mean_resizing=False)
        first_added = self.settings["first_added_id"]
        if first_added is None or not (num_needed > num_rows if redraw is None else redraw):
            first_added = num_needed
        embeddings = model.get_input_embeddings()
        output: Any = model.get_output_embeddings()
        drawn = torch.zeros(embeddings.weight.shape[0], dtype=torch.bool)
        drawn[num_rows:] = True
        drawn[[token_id for token_id in self._own_ids() if token_id >= first_added]] = True
        tensors = [embeddings.weight]
        if output is not None and output.weight is not embeddings.weight:
            tensors.append(output.weight)
        if getattr(output, "bias", None) is not None:
            tensors.append(output.bias)
        if not drawn.any():
            return
        generator = torch.Generator().manual_seed(seed)
        for tensor in tensors:
            noise = torch.randn(int(drawn.sum()), *tensor.shape[1:], generator=generator)
            if codec is not None and tensor.ndim == 2:
                codes = torch.from_numpy(self._codes_of(drawn.nonzero().flatten().numpy()))
                noise[codes >= 0] = self._projected(codec, tensor.shape[1], generator)[codes[codes >= 0]]
            is_drawn = drawn.to(tensor.device)
            variance, mean = torch.var_mean(tensor[~is_drawn].float(), dim=0, correction=0)
            tensor[is_drawn] = (mean + variance.sqrt() * noise.to(tensor.device)).to(tensor.dtype)

    def _projected(self, codec: Any, width: int, generator: torch.Generator) -> torch.Tensor:
        """The codebook's entries (codebook_size, width), each column with mean 0 and deviation 1."""
        every_code = torch.arange(self.codebook_size, device=codec.device)[None, None]
        entries = codec.codes_to_latents(every_code)[0].T.float().cpu()  # (1, D, K) -> (K, D)
        rows = (entries - entries.mean(dim=0)) @ torch.randn(entries.shape[1], width, generator=generator)
        return rows / rows.std(dim=0, correction=0).clamp(min=torch.finfo(rows.dtype).tiny)

    def _token_names(self) -> list[str]:
        return [self.token.format(code) for code in range(self.codebook_size)]

    def _all_ids(self) -> np.ndarray:
        return np.append(self.token_ids, [self.begin_token_id, self.end_token_id, self.placeholder_token_id])

    def _own_ids(self) -> list[int]:
        """Ids that may have been added; those of codes that go by offset are the model's."""
        ids = self._all_ids() if self.settings["first_token_id"] is None else self._all_ids()[self.codebook_size :]
        return ids.tolist()

    def _codes_of(self, ids: np.ndarray) -> np.ndarray:
        """The code of each id, -1 for what is none."""
        ranks = np.searchsorted(self.token_ids, ids, sorter=self._order)
        codes = self._order[np.minimum(ranks, self.codebook_size - 1)]
        return np.where(self.token_ids[codes] == ids, codes, -1)

    def _kinds(self, ids: np.ndarray, codes: np.ndarray) -> np.ndarray:
        kinds = np.where(codes >= 0, _AUDIO, _TEXT)
        kinds[ids == self.begin_token_id] = _BEGIN
        kinds[ids == self.end_token_id] = _END
        return kinds

    def _refuse_strange_codes(self, codes: np.ndarray, is_valid: Any = True) -> None:
        is_strange = (codes < 0) | (codes >= self.codebook_size)
        self._refuse(codes, is_strange & is_valid, f"codes lie in 0..{self.codebook_size - 1}")

    def _refuse_strange_text(self, text: str, start: int, stop: int) -> None:
        strange = text[start:stop].lstrip()
        if strange:
            raise ValueError(
                f"Expected tokens such as {self.token.format(0)!r} only, found {strange.rstrip()[:40]!r} at position "
                f"{stop - len(strange)}. `split` takes the token ids of mixed text."
            )

    @staticmethod
    def _refuse(values: np.ndarray, is_wrong: np.ndarray, why: str) -> None:
        if is_wrong.any():
            position = np.argwhere(is_wrong)[0].tolist()
            value = values[tuple(position)]
            raise ValueError(f"Found {value} at position {', '.join(map(str, position)) or '0'}: {why}.")


def _runs(kinds: np.ndarray) -> list[tuple[int, int]]:
    """Bounds of the runs of equal kinds, in which each begin and end is by itself."""
    is_new = np.ones(len(kinds), dtype=bool)
    is_new[1:] = (kinds[1:] != kinds[:-1]) | (kinds[1:] == _BEGIN) | (kinds[1:] == _END)
    return list(pairwise([*np.flatnonzero(is_new).tolist(), len(kinds)]))


def _as_array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _numbered(what: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returns; its errors say which one of a list it was for."""
    try:
        return call(*arguments)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def _as_integers(values: Any, name: str) -> np.ndarray:
    if isinstance(values, torch.Tensor) and values.is_floating_point():
        if values.numel():
            raise ValueError(f"`{name}` must be whole numbers, got {values.dtype}.")
        values = values.long()
    try:
        array = _as_array(values)
    except ValueError as error:
        raise ValueError(
            f"`{name}` must be numbers in one shape ({error}). Pass rows of different lengths one by one."
        ) from None
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"`{name}` must be whole numbers, got {array.dtype}.")
    return array.astype(np.int64, copy=False)


def _like(array: np.ndarray, original: Any) -> Any:
    if isinstance(original, torch.Tensor):
        return torch.from_numpy(np.ascontiguousarray(array)).to(original.device)
    return array


# --------------------------------------------------------------------------------------------------------- processor


@dataclass(frozen=True, eq=False)
class DecodedSequence:
    """What a sequence of token ids says.

    Args:
        text: The text, with the placeholder token for each span of audio.
        audio_codes: The codes of each span, int64 (L,).
        audio_values: The waveform of each span, float32 (L * hop_length,) on the CPU; `None` without a codec.
    """

    text: str
    audio_codes: list[torch.Tensor]
    audio_values: list[torch.Tensor] | None


class WavTokenizerProcessor(ProcessorMixin):
    """Turns text with recordings in it into the inputs of a language model, and what it generates into text and sound.

    Text holds the placeholder `<|audio|>` wherever a recording belongs. The codec encodes the recordings, and each
    placeholder becomes a span of their codes' ids.

    A saved folder holds the code, too, because no release of transformers has this class: it loads through
    `AutoProcessor` with `trust_remote_code=True` where this package is not installed. A codec from the Hub is stored
    by its id, any other with its weights, within the folder; so is one whose `name_or_path` was cleared, as it must be
    where the weights were changed after loading.

    Args:
        feature_extractor: The codec's.
        tokenizer: The language model's. It gets an audio vocabulary with the default tokens if it has none.
        audio_tokenizer: The codec, or its decoder or encoder; `None` where codes come from elsewhere and no sound is
            wanted.
        chat_template: For `apply_chat_template`; `None` means the tokenizer's.

    Raises:
        ValueError: If the three do not belong together.
    """

    def __init__(
        self,
        feature_extractor: WavTokenizerFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        audio_tokenizer: Any = None,
        chat_template: str | dict[str, str] | None = None,
    ):
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)
        self._take_feature_extractor(feature_extractor)
        if audio_tokenizer is not None and _SETTINGS_NAME not in tokenizer.init_kwargs:
            AudioVocabulary.add_to(tokenizer, audio_tokenizer.config)
        self.vocabulary = AudioVocabulary.from_tokenizer(tokenizer)
        self._require_equal("feature extractor", self.feature_extractor, ("hop_length", "sampling_rate"))
        self._take_codec(audio_tokenizer)

    @property
    def audio_token(self) -> str:
        """The placeholder of a recording in text."""
        return self.vocabulary.placeholder_token

    @property
    def _special_ids(self) -> set[int]:
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return special | set(self.tokenizer.all_special_ids)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask"]

    def __call__(
        self,
        text: str | Sequence[str],
        audio: Any = None,
        *,
        audio_codes: Any = None,
        audio_codes_mask: Any = None,
        sampling_rate: int | None = None,
        resample: bool = False,
        allow_incomplete: bool = False,
        loss_on: str | None = None,
        continue_audio: bool = False,
        padding: bool | str | PaddingStrategy = True,
        padding_side: str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | TensorType | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepares one text or a batch.

        Args:
            text: Each with any number of placeholders; the recordings fill them in order.
            audio: A clip or a list of clips as the feature extractor takes them, one per placeholder of all texts.
            audio_codes: In place of `audio`, their codes: (N, 1, L) or (N, L), or a list of (L,). A single clip may be
                given as (L,), or as a list of numbers.
            audio_codes_mask: With an array of `audio_codes` of different lengths, as `encode` returns it.
            sampling_rate: Rate of the given arrays in Hz; see the feature extractor.
            resample: Whether to resample clips of another rate.
            allow_incomplete: Whether to take what there is of files that break off; see the feature extractor.
            loss_on: Makes labels: `"all"`, or only `"audio"` (codes, begin and end) or `"text"`; the rest is -100.
            continue_audio: Whether the span that ends each text stays open, so that generation goes on with it.
            padding: `True` or `"longest"` pads to the longest, `"max_length"` to `max_length`; `False` does not pad,
                and the rows are lists.
            padding_side: `"left"` or `"right"`; `None` is the tokenizer's.
            max_length: Most ids of a row. A longer one is an error, because cutting it would cut spans of audio.
            pad_to_multiple_of: What the padded length is a multiple of.
            return_tensors: `"pt"`, `"np"` or `None` for lists.
            kwargs: For the tokenizer, such as `add_special_tokens`. It must not truncate.

        Returns:
            `input_ids` and `attention_mask`, (B, n), and `labels` with `loss_on`.

        Raises:
            ValueError: If placeholders and recordings differ in number, texts of different lengths cannot be padded,
                or a row is longer than `max_length`.
            TypeError: For an argument that the tokenizer does not know.
        """
        if loss_on not in (None, "all", "audio", "text"):
            raise ValueError(f"`loss_on` must be 'all', 'audio', 'text' or None, got {loss_on!r}.")
        if padding_side not in (None, "left", "right"):
            raise ValueError(f"`padding_side` must be 'left', 'right' or None, got {padding_side!r}.")
        strategy = _padding_strategy(padding)
        if strategy == PaddingStrategy.MAX_LENGTH and max_length is None:
            raise ValueError("`padding='max_length'` needs `max_length`, the number of ids of a row.")
        if kwargs.pop("truncation", None):
            raise ValueError("`truncation` would cut spans of audio. Shorten the recordings or the text instead.")
        if audio is not None and audio_codes is not None:
            raise ValueError("Got both `audio` and `audio_codes`; pass one.")
        unknown = kwargs.keys() - inspect.signature(PreTrainedTokenizerBase.__call__).parameters.keys()
        if unknown:
            # Tokenizers pass over what they do not know.
            raise TypeError(
                f"Unexpected argument {min(unknown)!r}: neither this processor nor its tokenizer takes it."
            )
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            raise ValueError("Expected at least one text, got an empty batch.")
        kwargs = {**kwargs, "padding": False, "return_attention_mask": False}
        rows = [np.asarray(row, dtype=np.int64) for row in self.tokenizer(texts, **kwargs)["input_ids"]]
        for index, row in enumerate(rows):
            self._refuse_tail_in_span(row, index)
        if audio is None:
            spans = self._given_spans(audio_codes, audio_codes_mask)
        else:
            encoded = self._encode(audio, sampling_rate, resample, allow_incomplete)
            spans = self.vocabulary.to_spans(encoded.audio_codes.cpu(), encoded.audio_codes_mask.cpu())
        filled = self._fill(rows, [_as_array(span) for span in spans])
        if continue_audio:
            filled = [self._opened(row, index) for index, row in enumerate(filled)]
        too_long = next((index for index, row in enumerate(filled) if max_length and len(row) > max_length), None)
        if too_long is not None:
            raise ValueError(
                f"Text {too_long} makes {len(filled[too_long])} ids, more than `max_length` = {max_length}. Shorten "
                "it or its recordings; `vocabulary.num_tokens` counts theirs."
            )
        outputs = {"input_ids": filled, "attention_mask": [np.ones_like(row) for row in filled]}
        if loss_on is not None:
            outputs["labels"] = [self._labels(row, loss_on) for row in filled]
        if strategy != PaddingStrategy.DO_NOT_PAD:
            least = max_length if strategy == PaddingStrategy.MAX_LENGTH else 0
            outputs = self._padded(
                outputs, least or 0, pad_to_multiple_of or 1, padding_side or self.tokenizer.padding_side
            )
        if return_tensors is None:
            outputs = {name: [row.tolist() for row in rows] for name, rows in outputs.items()}
        return BatchFeature(outputs, tensor_type=return_tensors)

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | TensorType | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Renders a conversation, or a batch of them, whose messages may hold recordings.

        A message's content is a string, or a list of parts: `{"type": "text", "text": ...}` and
        `{"type": "audio", "audio": clip}`, or with `"path"` in place of `"audio"`, or without either where
        `processor_kwargs` has `audio_codes`. A template that does not write the placeholder for such a part, as those
        of text models do not, gets the parts joined into one string, or into one part of text if it takes parts only.

        Args:
            tokenize: Whether to return ids rather than text.
            return_dict: With `tokenize`, whether to return all that a call of the processor returns.
            processor_kwargs: With `tokenize`, arguments of that call, such as `loss_on`.
            kwargs: `add_generation_prompt` and others of transformers' `apply_chat_template`, and the template's own.

        Raises:
            ValueError: For a part of another type, or if the template leaves a recording out or writes it twice.
        """
        if kwargs.pop("return_assistant_tokens_mask", False):
            raise ValueError("`return_assistant_tokens_mask` is not supported; `loss_on` makes labels.")
        if self.chat_template is None:
            chat_template = self.tokenizer.get_chat_template(chat_template)
        conversations = [conversation] if isinstance(conversation[0], Mapping) else list(conversation)
        clips = [clip for messages in conversations for message in messages for clip in _clips_of(message)]
        conversations = self._in_the_form_of(chat_template, conversations)
        prompts = super().apply_chat_template(conversations, chat_template, tokenize=False, **kwargs)
        for index, (messages, prompt) in enumerate(zip(conversations, prompts, strict=True)):
            expected = sum(self._num_placeholders(message) for message in messages)
            if prompt.count(self.audio_token) != expected:
                raise ValueError(
                    f"The messages of conversation {index} hold {expected} recordings or placeholders "
                    f"{self.audio_token}, and the chat template wrote {prompt.count(self.audio_token)}. It must write "
                    "each once, in messages of every role."
                )
        if not tokenize:
            return prompts[0] if isinstance(conversation[0], Mapping) else prompts
        output = self(
            prompts,
            clips or None,
            return_tensors=return_tensors,
            # The template writes them.
            **{"add_special_tokens": False, **(processor_kwargs or {})},
        )
        return output if return_dict else output["input_ids"]

    def batch_decode(
        self, token_ids: Any, skip_special_tokens: bool = True, repair: bool = False, **kwargs: Any
    ) -> list[DecodedSequence]:
        """Splits generated sequences into text and sound.

        Args:
            token_ids: (B, n), or a list of sequences.
            skip_special_tokens: Whether to leave the tokenizer's special tokens out of the text.
            repair: See `AudioVocabulary.split`. A sequence that stopped at its greatest length within a span needs it.
            kwargs: For the tokenizer's `decode`.

        Raises:
            ValueError: If a sequence is malformed and `repair` is off; the message names sequence and position.
        """
        special = self._special_ids
        texts, codes = [], []
        for index, sequence in enumerate(token_ids):
            try:
                segments = self.vocabulary.split(sequence, repair)
            except ValueError as error:
                raise ValueError(f"Sequence {index}: {error}") from None
            ids = []
            for segment in segments:
                if segment.is_audio:
                    ids.append(self.vocabulary.placeholder_token_id)
                else:
                    ids += [i for i in segment.values.tolist() if not (skip_special_tokens and i in special)]
            texts.append(self.tokenizer.decode(ids, skip_special_tokens=False, **kwargs))
            codes.append([torch.from_numpy(segment.values) for segment in segments if segment.is_audio])
        waveforms = self._decode([span for spans in codes for span in spans])
        return [
            DecodedSequence(text, spans, None if waveforms is None else [next(waveforms) for _ in spans])
            for text, spans in zip(texts, codes, strict=True)
        ]

    def decode(self, token_ids: Any, *args: Any, **kwargs: Any) -> DecodedSequence:
        """Splits one sequence (n,); see `batch_decode`."""
        return self.batch_decode([token_ids], *args, **kwargs)[0]

    # ------------------------------------------------------------------------------------------- saving and loading

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """As in transformers, but for the codec, where that knows its own by name only."""
        if argument_name != "audio_tokenizer":
            return super().check_argument_for_proper_class(argument_name, argument)
        # By its configuration, because the code of a folder on the Hub has a class of its own.
        model_type = getattr(getattr(argument, "config", None), "model_type", "")
        if not isinstance(argument, PreTrainedAudioTokenizerBase) or not model_type.startswith("wavtokenizer"):
            raise TypeError(f"`audio_tokenizer` must be a WavTokenizerModel, got {type(argument).__name__}.")
        if not hasattr(argument, "codes_to_latents"):
            raise TypeError(
                f"`audio_tokenizer` is the {type(argument).__name__} of {type(argument).__module__}, which gives "
                "clips of a batch other codes than alone. Load its folder with wavtokenizer_hf.WavTokenizerModel."
            )
        return PreTrainedAudioTokenizerBase

    @staticmethod
    def get_possibly_dynamic_module(module_name: str) -> Any:
        """As in transformers, which looks third-party classes up in tables that need torchvision."""
        own = {codec_class.__name__: codec_class for codec_class in _CODEC_CLASSES}
        return own[module_name] if module_name in own else ProcessorMixin.get_possibly_dynamic_module(module_name)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoProcessor") -> None:
        """Does nothing: the code travels with every folder anyway."""

    def to_dict(self) -> dict[str, Any]:
        """What goes into `processor_config.json`."""
        values = {
            "processor_class": type(self).__name__,
            "auto_map": dict(_AUTO_MAP),
            "feature_extractor": self.feature_extractor.to_dict() | {"auto_map": dict(_FEATURE_EXTRACTOR_MAP)},
        }
        if self.audio_tokenizer is not None:
            values[_CODEC_ENTRY] = {"class": type(self.audio_tokenizer).__name__, "name_or_path": self._hub_id}
            if self._hub_id is not None and not isinstance(self.audio_tokenizer, WavTokenizerDecoderModel):
                values[_CODEC_ENTRY] |= {
                    "dtype": str(self.audio_tokenizer.dtype),
                    "fingerprint": fingerprint(self.audio_tokenizer),
                }
        return values

    def to_json_string(self) -> str:
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(tokenizer={type(self.tokenizer).__name__}, "
            f"audio_tokenizer={type(self.audio_tokenizer).__name__}, vocabulary={self.vocabulary})"
        )

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """As in transformers, with the code, and with the codec unless it came from the Hub.

        Raises:
            RuntimeError: If the codec would be saved and is fused.
        """
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        if self.audio_tokenizer is not None and self._hub_id is None:
            self.audio_tokenizer.save_pretrained(directory / _CODEC_FOLDER)
        copy_code_files(directory, _AUTO_MAP)
        saved = super().save_pretrained(os.fspath(directory))
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", directory.name), **kwargs)
        return saved

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        audio_tokenizer: Any = None,
        dtype: Any = None,
        device_map: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Loads what `save_pretrained` wrote, from a folder or the Hub.

        Args:
            audio_tokenizer: The codec, if it is loaded already.
            dtype: Number format of the codec, as in a model's `from_pretrained`.
            device_map: Where the codec goes, as in a model's `from_pretrained`.

        Raises:
            ValueError: If there is no saved processor, or the codec is not the one that it was saved with.
        """
        name = os.fspath(pretrained_model_name_or_path)
        values, _ = cls.get_processor_dict(name, **kwargs)
        if "processor_class" not in values:
            if kwargs.get("_from_auto"):
                # AutoProcessor on the folder of a codec alone gives what it gives for the codecs of transformers.
                return WavTokenizerFeatureExtractor.from_pretrained(name, **kwargs)
            raise ValueError(
                f"{name} holds no saved processor. Make one of its parts, WavTokenizerProcessor(feature_extractor, "
                "tokenizer, codec), and save it with `save_pretrained`."
            )
        processor: Any = super().from_pretrained(name, **kwargs)
        stored = values.get(_CODEC_ENTRY)
        if audio_tokenizer is None and stored is not None:
            placement = {
                key: value for key, value in (("dtype", dtype), ("device_map", device_map)) if value is not None
            }
            audio_tokenizer = cls._load_codec(name, stored, kwargs | placement)
        processor._take_codec(audio_tokenizer)
        return processor

    @classmethod
    def _load_codec(cls, name: str, stored: Mapping[str, Any], kwargs: Mapping[str, Any]) -> Any:
        accepted = ("cache_dir", "force_download", "proxies", "token", "local_files_only", "dtype", "device_map")
        options = {key: kwargs[key] for key in accepted if key in kwargs}
        codec_class = cls.get_possibly_dynamic_module(stored["class"])
        if stored["name_or_path"] is None:
            options["subfolder"] = posixpath.join(kwargs.get("subfolder") or "", _CODEC_FOLDER)
            codec = codec_class.from_pretrained(name, revision=kwargs.get("revision") or "main", **options)
            # The root of that folder is no codec, so its name must not be stored as one's.
            codec.name_or_path = ""
            return codec
        codec = codec_class.from_pretrained(stored["name_or_path"], **options)
        if stored.get("dtype") == str(codec.dtype) and stored["fingerprint"] != fingerprint(codec):
            raise ValueError(
                f"The codec at {stored['name_or_path']} is not the one that {name} was saved with: their fingerprints "
                "differ, so the same ids mean other sounds. Load the right revision of it and pass it as "
                "`audio_tokenizer`."
            )
        return codec

    def _take_feature_extractor(self, given: Any) -> None:
        # transformers has one of this name, too, which knows neither files nor rates. Its Auto class gives that one
        # where this file is loaded without the package.
        if isinstance(given, WavTokenizerFeatureExtractor):
            return
        if type(given).__name__ != WavTokenizerFeatureExtractor.__name__:
            raise TypeError(f"`feature_extractor` must be a WavTokenizerFeatureExtractor, got {type(given).__name__}.")
        self.feature_extractor = WavTokenizerFeatureExtractor.from_dict(given.to_dict())

    def _take_codec(self, codec: Any) -> None:
        self.audio_tokenizer: Any = codec
        self._hub_codec: Any = None
        if codec is None:
            return
        self.check_argument_for_proper_class("audio_tokenizer", codec)
        self._require_equal("codec", codec.config, ("codebook_size", "hop_length", "sampling_rate"))
        is_named_as_on_the_hub = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", codec.name_or_path or "")
        if is_named_as_on_the_hub and not os.path.exists(codec.name_or_path):
            self._hub_codec = codec

    @property
    def _hub_id(self) -> str | None:
        """Under which the codec came from the Hub; `None` for one from elsewhere, put in later or without a name."""
        return self.audio_tokenizer.name_or_path or None if self.audio_tokenizer is self._hub_codec else None

    def _require_equal(self, what: str, of: Any, names: Sequence[str]) -> None:
        for name in names:
            if getattr(of, name) != getattr(self.vocabulary, name):
                raise ValueError(
                    f"The {what} has {name} = {getattr(of, name)}, and the tokenizer's audio vocabulary was made for "
                    f"{getattr(self.vocabulary, name)}. Take those that belong to one codec."
                )

    # ----------------------------------------------------------------------------------------------- parts of a call

    def _codec(self, purpose: str) -> Any:
        if self.audio_tokenizer is None:
            raise ValueError(f"{purpose} needs a codec, and this processor has none. Set it with `audio_tokenizer=`.")
        return self.audio_tokenizer

    def _encode(self, audio: Any, sampling_rate: int | None, resample: bool, allow_incomplete: bool) -> Any:
        codec = self._codec("Encoding recordings")
        inputs = self.feature_extractor(
            audio,
            sampling_rate=sampling_rate,
            resample=resample,
            allow_incomplete=allow_incomplete,
            return_tensors="pt",
        ).to(codec.device)
        # Not in inference mode, whose tensors an embedding that is trained refuses.
        with torch.no_grad():
            return codec.encode(**inputs)

    def _given_spans(self, audio_codes: Any, audio_codes_mask: Any) -> list:
        if audio_codes_mask is not None and (audio_codes is None or isinstance(audio_codes, (list, tuple))):
            raise ValueError(
                "`audio_codes_mask` goes with an array or tensor of `audio_codes`; clips of a list need none."
            )
        if audio_codes is None or len(audio_codes) == 0:
            return []
        to_spans = self.vocabulary.to_spans
        if isinstance(audio_codes, (list, tuple)) and any(np.ndim(codes) for codes in audio_codes):
            return [
                _numbered(f"Clip {index} of `audio_codes`", lambda codes: to_spans(_as_row(codes))[0], codes)
                for index, codes in enumerate(audio_codes)
            ]
        return to_spans(_as_row(audio_codes) if np.ndim(audio_codes) == 1 else audio_codes, audio_codes_mask)

    def _decode(self, spans: list[torch.Tensor]) -> Any:
        """Yields the waveform of each span, decoded in one batch; `None` without a codec."""
        codec = self.audio_tokenizer
        if codec is None:
            return None
        lengths = torch.tensor([len(span) for span in spans], dtype=torch.int64)
        sounding = [span for span in spans if len(span)]
        waveforms = iter(())
        if sounding:
            codes = torch.nn.utils.rnn.pad_sequence(sounding, batch_first=True)[:, None].to(codec.device)  # (N, 1, L)
            mask = torch.arange(codes.shape[-1]) < lengths[lengths > 0][:, None, None]
            with torch.no_grad():
                audio_values = codec.decode(codes, audio_codes_mask=mask.to(codec.device)).audio_values
            waveforms = iter(audio_values[:, 0].cpu())
        return (
            next(waveforms)[: length * self.vocabulary.hop_length] if length else torch.zeros(0)
            for length in lengths.tolist()
        )

    def _fill(self, rows: list[np.ndarray], spans: list[np.ndarray]) -> list[np.ndarray]:
        """Puts the spans in place of the placeholders."""
        counts = [int((row == self.vocabulary.placeholder_token_id).sum()) for row in rows]
        if sum(counts) != len(spans):
            raise ValueError(
                f"The texts hold {sum(counts)} placeholders {self.audio_token} ({', '.join(map(str, counts))} each), "
                f"and there are {len(spans)} recordings. Each recording needs one."
            )
        waiting = iter(spans)
        filled = []
        for row in rows:
            pieces = np.split(row, np.flatnonzero(row == self.vocabulary.placeholder_token_id))
            parts = [pieces[0]]
            for piece in pieces[1:]:
                parts += [next(waiting), piece[1:]]
            filled.append(np.concatenate(parts))
        return filled

    def _refuse_tail_in_span(self, row: np.ndarray, index: int) -> None:
        """Refuses special tokens, as tokenizers append them, behind a span of audio that a text leaves open."""
        begins = np.flatnonzero(row == self.vocabulary.begin_token_id)
        inside = row[begins[-1] :] if len(begins) else row[:0]
        tail = inside[~self.vocabulary.is_audio(inside)]
        special = self._special_ids - {self.vocabulary.placeholder_token_id} if len(tail) else set()
        if len(tail) and self.vocabulary.end_token_id not in inside and special.issuperset(tail.tolist()):
            raise ValueError(
                f"Text {index} ends in an open span of audio, and the tokenizer appended id {tail[0]}, so that "
                "nothing can go on with the span. Pass `add_special_tokens=False`, or close the span with "
                f"{self.vocabulary.end_token}."
            )

    def _opened(self, row: np.ndarray, index: int) -> np.ndarray:
        if len(row) == 0 or row[-1] != self.vocabulary.end_token_id:
            raise ValueError(
                f"`continue_audio` needs a recording at the end of each text, and text {index} ends otherwise. Put "
                f"{self.audio_token} last, and pass `add_special_tokens=False` if the tokenizer adds any."
            )
        return row[:-1]

    def _labels(self, row: np.ndarray, loss_on: str) -> np.ndarray:
        if loss_on == "all":
            return row.copy()
        return np.where(self.vocabulary.is_audio(row) == (loss_on == "audio"), row, _IGNORED)

    def _padded(
        self, outputs: dict[str, list[np.ndarray]], least: int, multiple: int, padding_side: str
    ) -> dict[str, Any]:
        lengths = [len(row) for row in outputs["input_ids"]]
        width = -(-max(*lengths, least) // multiple) * multiple
        pad_token_id = self.tokenizer.pad_token_id
        if pad_token_id is None:
            if min(lengths) != width:
                raise ValueError(
                    "The tokenizer has no padding token, which texts of different lengths need. Set one, for example "
                    "`tokenizer.pad_token = tokenizer.eos_token`, or pass `padding=False`."
                )
            pad_token_id = 0
        fills = {"input_ids": pad_token_id, "attention_mask": 0, "labels": _IGNORED}
        padded = {}
        for name, rows in outputs.items():
            padded[name] = np.full((len(rows), width), fills[name], dtype=np.int64)
            for row, values in zip(padded[name], rows, strict=True):
                row[width - len(values) if padding_side == "left" else 0 :][: len(values)] = values
        return padded

    def _in_the_form_of(self, chat_template: str | None, conversations: list) -> list:
        """The conversations with contents such as the template understands, found out by trying it."""
        takes_strings = self._writes(chat_template, self.audio_token)
        if self._writes(chat_template, [{"type": "audio"}]):
            if takes_strings:
                return conversations
            adapted: Callable[[Any], Any] = _as_parts
        elif takes_strings:
            adapted = self._as_string
        else:

            def adapted(content: Any) -> Any:
                return _as_parts(self._as_string(content))

        return [
            [
                {**message, "content": adapted(message["content"])} if "content" in message else message
                for message in messages
            ]
            for messages in conversations
        ]

    def _writes(self, chat_template: str | None, content: Any) -> bool:
        probe: Any = [{"role": "user", "content": content}]
        try:
            return self.audio_token in super().apply_chat_template(probe, chat_template, tokenize=False)
        except Exception:  # whatever a template does with a content that it does not expect
            return False

    def _as_string(self, content: Any) -> Any:
        if not isinstance(content, (list, tuple)):
            return content
        return "".join(self.audio_token if part["type"] == "audio" else part["text"] for part in content)

    def _num_placeholders(self, message: Mapping[str, Any]) -> int:
        content = self._as_string(message.get("content"))
        return content.count(self.audio_token) if isinstance(content, str) else 0


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _padding_strategy(padding: bool | str | PaddingStrategy) -> PaddingStrategy:
    if isinstance(padding, bool):
        return PaddingStrategy.LONGEST if padding else PaddingStrategy.DO_NOT_PAD
    return PaddingStrategy(padding)


def _as_row(codes: Any) -> np.ndarray:
    """One clip's codes, (L,) or with leading axes of one, as (1, L)."""
    array = np.atleast_1d(_as_array(codes))
    if array.size != array.shape[-1]:
        raise ValueError(f"expected the codes (L,) of one clip, got shape {array.shape}.")
    return array.reshape(1, -1)


def _clips_of(message: Mapping[str, Any]) -> list[Any]:
    content = message.get("content")
    parts = content if isinstance(content, (list, tuple)) else ()
    strange = [part.get("type") for part in parts if part.get("type") not in ("text", "audio")]
    if strange:
        raise ValueError(f"A message's parts are of type 'text' or 'audio', got {strange[0]!r}.")
    return [part[key] for part in parts if part["type"] == "audio" for key in ("audio", "path", "url") if key in part]


__all__ = ["AudioVocabulary", "DecodedSequence", "Segment", "WavTokenizerProcessor"]
