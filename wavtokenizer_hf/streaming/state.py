"""What a stream remembers, row by row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class StreamState:
    """All that a stream remembers.

    No tensor of a state is ever changed, so that a state stays what it was; what a stream does next goes into a copy.

    Args:
        settings: What another stream must have in common to go on from here, `batch_size` B among it.
        counts: Of each row, int64 or bool (B,), on the CPU; `has_ended` is always among them.
        layers: What layers remember, by their names: tensors with an axis of rows, and time on the last axis where it
            grows.

    A new row's counts and tensors are zeros, and what grows is empty in a new state.
    """

    settings: dict[str, int]
    counts: dict[str, torch.Tensor]
    layers: dict[str, torch.Tensor]

    @classmethod
    def new(
        cls, batch_size: int, count_names: Sequence[str], layers: dict[str, torch.Tensor], **settings: int
    ) -> StreamState:
        """That of a stream that has begun."""
        counts = {name: torch.zeros(batch_size, dtype=torch.int64) for name in count_names}
        counts["has_ended"] = torch.zeros(batch_size, dtype=torch.bool)
        return cls({"batch_size": batch_size, **settings}, counts, layers)

    def copy(self) -> StreamState:
        """A state that may get other tensors than this one."""
        return StreamState(self.settings, dict(self.counts), dict(self.layers))

    def to_dict(self) -> dict[str, Any]:
        """Tensors and ints by name, which `torch.save` writes and `torch.load(weights_only=True)` reads."""
        return {**self.settings, **self.counts, **self.layers}

    def read(self, given: Any) -> StreamState:
        """The state that `to_dict` made a dict of, for a stream whose new state this one is.

        A count that is an int stands for all rows.

        Raises:
            ValueError: If it is not a state of such a stream.
        """
        own = self.to_dict()
        if not isinstance(given, dict) or given.keys() != own.keys():
            raise ValueError(
                f"A state of this stream has the keys {', '.join(own)}; got "
                f"{', '.join(map(str, given)) if isinstance(given, dict) else type(given).__name__}."
            )
        for name, expected in self.settings.items():
            if given[name] != expected:
                raise ValueError(f"`{name}` of a state of this stream is {expected}, got {given[name]!r}.")
        tensors: dict[str, torch.Tensor] = {}
        for name, new in (self.counts | self.layers).items():
            value: Any = given[name]
            if name in self.counts and isinstance(value, int):
                value = torch.full_like(new, value)
            grows = not new.shape[-1]
            shape = tuple(new.shape[:-1]) if grows else tuple(new.shape)
            is_tensor = isinstance(value, torch.Tensor)
            if not is_tensor or tuple(value.shape[:-1] if grows else value.shape) != shape or value.dtype != new.dtype:
                raise ValueError(
                    f"`{name}` of a state must be {new.dtype} {(*shape, 'any') if grows else shape}, got "
                    f"{f'{value.dtype} {tuple(value.shape)}' if is_tensor else type(value).__name__}."
                )
            if name in self.counts and (value < 0).any():
                raise ValueError(f"`{name}` of a state must be 0 or more, got {value.tolist()}.")
            tensors[name] = value.to(new.device)
        return StreamState(
            self.settings,
            {name: tensors[name] for name in self.counts},
            {name: tensors[name] for name in self.layers},
        )

    def without(self, rows: list[int]) -> StreamState:
        """The state in which some rows are new."""
        chosen = torch.tensor(rows, dtype=torch.int64)
        return StreamState(
            self.settings,
            {name: value.index_fill(0, chosen, 0) for name, value in self.counts.items()},
            {
                name: value.index_fill(row_axis(name), chosen.to(value.device), 0)
                for name, value in self.layers.items()
            },
        )


class RowStream:
    """A stream of rows that begin, pause and end together or each by itself: its state, and what it takes.

    Args:
        batch_size: Number of rows.

    Raises:
        ValueError: If `batch_size` is below 1.
    """

    _state: StreamState

    def __init__(self, batch_size: int):
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be 1 or more, got {batch_size}.")
        self.batch_size = batch_size

    def _fresh_state(self) -> StreamState:
        raise NotImplementedError

    @property
    def state(self) -> dict[str, Any]:
        """All that the stream remembers, as tensors and ints; assign it to go on from there.

        Raises:
            ValueError: On assigning what is not a state of a stream of this model, batch size and settings.
        """
        return self._state.to_dict()

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._state = self._fresh_state().read(state)

    def reset(self, rows: Sequence[int] | torch.Tensor | None = None) -> None:
        """Makes rows begin anew, all of them where `rows` is `None`; what they held is dropped.

        Raises:
            ValueError: If a row does not exist.
        """
        self._state = self._fresh_state() if rows is None else self._state.without(self._checked_rows(rows))

    def _checked_counts(self, mask: torch.Tensor | None, length: int, name: str, call: str) -> torch.Tensor:
        """How much of a push belongs to each row, (B,), from a mask of padding on the right.

        Args:
            mask: (B, length) or (B, 1, length), non-zero where something belongs to the row; None where all does.
            length: Of the push.
            name: What is pushed, for errors.
            call: The push without a mask, for errors.
        """
        if mask is None:
            self._require_together(call, f"{call.removesuffix(')')}, mask)")
            counts = torch.full((self.batch_size,), length)
        else:
            flat = mask[:, 0] if mask.ndim == 3 and mask.shape[1] == 1 else mask
            if tuple(flat.shape) != (self.batch_size, length):
                raise ValueError(
                    f"`mask` must have shape {(self.batch_size, length)}, one value for each of the {name}, got "
                    f"{tuple(mask.shape)}."
                )
            flat = (flat != 0).cpu()
            counts = flat.sum(dim=-1)
            wrong = flat != (torch.arange(length) < counts[:, None])
            if wrong.any():
                row = int(wrong.any(dim=-1).nonzero()[0])
                raise ValueError(f"`mask` of row {row} has a gap: a row's {name} stand at the left, padding follows.")
        ended = (self._state.counts["has_ended"] & (counts > 0)).nonzero()
        if len(ended):
            row = int(ended[0])
            raise RuntimeError(f"Row {row} was flushed and takes no more {name} before `reset([{row}])`.")
        return counts

    def _checked_rows(self, rows: Sequence[int] | torch.Tensor) -> list[int]:
        indices = [int(row) for row in rows]
        for row in indices:
            if not 0 <= row < self.batch_size:
                raise ValueError(f"Rows of this stream are 0..{self.batch_size - 1}, got {row}.")
        if len(set(indices)) < len(indices):
            raise ValueError(f"Each row can be named once, got {indices}.")
        return indices

    def _ended(self, rows: Sequence[int] | torch.Tensor | None) -> tuple[StreamState, list[int]]:
        """The state in which rows have ended, all of them where `rows` is `None`, and these rows."""
        if rows is None:
            self._require_together("flush()", "flush(rows)")
        ending = list(range(self.batch_size)) if rows is None else self._checked_rows(rows)
        has_ended = self._state.counts["has_ended"].clone()
        if has_ended[ending].any():
            row = next(row for row in ending if has_ended[row])
            raise RuntimeError(f"Row {row} was flushed before; `reset([{row}])` begins anew.")
        has_ended[ending] = True
        state = self._state.copy()
        state.counts["has_ended"] = has_ended
        return state, ending

    def _require_together(self, call: str, instead: str) -> None:
        for name, values in self._state.counts.items():
            if (values != values[0]).any():
                raise ValueError(
                    f"`{call}` is for rows that begin and end together, and their `{name}` differ: "
                    f"{values.tolist()}. Call `{instead}`, which returns a mask besides."
                )


# --------------------------------------------------------------------------------------------------- tensors of rows


def row_axis(name: str) -> int:
    """The axis of rows of what a layer remembers; `nn.LSTM` has its own layers before it."""
    return 1 if name.startswith("lstm_") else 0


def alike(keys: Sequence[Key | None]) -> Iterator[tuple[list[int], Key]]:
    """Rows of equal keys, one for each row, so that they are computed as one batch; rows of `None` are left out."""
    groups: dict[Key, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        if key is not None:
            groups[key].append(row)
    return ((rows, key) for key, rows in groups.items())


def rows_of(tensor: torch.Tensor, rows: list[int], axis: int = 0) -> torch.Tensor:
    """Some rows of a tensor."""
    if len(rows) == tensor.shape[axis]:
        return tensor
    return tensor.index_select(axis, torch.tensor(rows, device=tensor.device))


def with_rows(tensor: torch.Tensor, rows: list[int], values: torch.Tensor, axis: int = 0) -> torch.Tensor:
    """A copy of `tensor` in which some rows are replaced."""
    if len(rows) == tensor.shape[axis]:
        return values
    return tensor.index_copy(axis, torch.tensor(rows, device=tensor.device), values)


def put(buffer: torch.Tensor, new: torch.Tensor, held: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Each row's first `held` values of `buffer`, then its first `counts` of `new`: (B, C, longest row)."""
    if (held == held[0]).all() and (counts == counts[0]).all():
        return torch.cat([buffer[..., : held[0]], new[..., : counts[0]]], dim=-1)
    position = torch.arange(int((held + counts).max()))
    held = held[:, None]
    index = torch.where(position < held, position, buffer.shape[-1] + position - held)
    joined = torch.cat([buffer, new], dim=-1)
    return _gather(joined, index.clamp(max=joined.shape[-1] - 1))


def drop(buffer: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Each row without its first `counts` values."""
    if (counts == counts[0]).all():
        return buffer[..., counts[0] :].clone() if counts[0] else buffer
    position = torch.arange(buffer.shape[-1] - int(counts.min()))
    return _gather(buffer, (position + counts[:, None]).clamp(max=buffer.shape[-1] - 1))


def _gather(buffer: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return buffer.gather(-1, index.to(buffer.device)[:, None].expand(-1, buffer.shape[1], -1))


class Output:
    """What the rows of a push get, one after the other.

    Args:
        nothing: (B, C, 0), of the dtype and device of the output.
    """

    def __init__(self, nothing: torch.Tensor):
        self.values = nothing
        self.counts = torch.zeros(len(nothing), dtype=torch.int64)

    def add(self, rows: list[int], values: torch.Tensor) -> None:
        """Puts `values` (rows, C, n) behind what these rows have."""
        counts = torch.zeros_like(self.counts)
        counts[rows] = values.shape[-1]
        new = values.new_zeros(len(counts), *values.shape[1:])
        self.values = put(self.values, with_rows(new, rows, values), self.counts, counts)
        self.counts = self.counts + counts

    def masked(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (B, C, n), 0 where they belong to no row, and where they do, bool (B, 1, n)."""
        position = torch.arange(self.values.shape[-1], device=self.values.device)
        mask = position < self.counts.to(position.device)[:, None, None]
        return self.values.masked_fill(~mask, 0), mask
