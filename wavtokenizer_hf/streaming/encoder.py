"""Encoding while the audio arrives, with the codes of the whole clip."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import torch

from wavtokenizer_hf.arithmetic_wavtokenizer import Piece, computed_weights
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerEncoderModel, WavTokenizerPreTrainedModel


class StreamingEncoder:
    """Turns streams of samples into codes that equal those of the whole clips, for any partition of the input.

    The convolutions look ahead by a few frames, so codes come with that delay; the LSTM carries its state. While all
    rows of the batch begin and end together, `push` and `flush` return codes alone. Rows that do not are told apart by
    a mask of samples and by the rows that are flushed, and the codes then come with a mask, too.

    Args:
        model: A `WavTokenizerModel` or `WavTokenizerEncoderModel` in eval mode. Its weights are read once, now.
        batch_size: Number of rows, B, each a stream of its own.

    Raises:
        ValueError: If the model has no encoder, or `batch_size` is below 1.

    Example:

    ```python
    >>> stream = StreamingEncoder(model)
    >>> for samples in microphone:  # float (1, 1, n)
    ...     use(stream.push(samples))  # int64 (1, 1, k)
    >>> use(stream.flush())
    ```
    """

    def __init__(self, model: WavTokenizerPreTrainedModel, batch_size: int = 1):
        encoder_model = getattr(model, "encoder_model", model)
        if not isinstance(encoder_model, WavTokenizerEncoderModel):
            raise ValueError(
                f"A StreamingEncoder needs a model with an encoder, got {type(model).__name__}. Load a "
                "WavTokenizerModel or a WavTokenizerEncoderModel."
            )
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be 1 or more, got {batch_size}.")
        self.batch_size = batch_size
        self.config = encoder_model.config
        self._encoder = encoder_model.encoder
        self._quantizer = encoder_model.quantizer
        with torch.no_grad():
            self._weights = computed_weights(self._encoder)
        last = self._encoder.last_convolution.padding
        self._frames_before, self._frames_after = last.left, last.right
        self._hop_length = self.config.hop_length
        # Frames that the last convolution must have before it can reflect the start.
        self._first_frames = last.left + 1 if last.reflects else 1
        # What a row keeps of its past: context, and what a short end piece computes again.
        reach = self._encoder.reach
        self._samples_kept = reach.samples_before + (reach.min_frames - 1) * self._hop_length
        self._state: dict[str, Any] = self._fresh_state()

    @property
    def latency_s(self) -> float:
        """Seconds from the last sample of a frame to its code, for a stream that is pushed without delay."""
        samples = self._frames_after * self._hop_length + self._encoder.reach.samples_after
        return samples / self.config.sampling_rate

    # Per row, in the state:
    #   num_samples   received;
    #   num_frames    that went through the convolutions and the LSTM;
    #   num_codes     returned;
    #   has_ended     flushed;
    #   samples       (B, 1, n), from sample `max(0, num_frames * hop_length - samples_kept)` on;
    #   hidden        (B, C, l), what the LSTM put out, from frame `max(0, num_codes - frames_before)` on;
    #   lstm_hidden, lstm_cell  (layers, B, C).
    # The tensors of counts lie on the CPU. No tensor of a state is ever changed, so that a state stays what it was.

    @property
    def state(self) -> dict[str, Any]:
        """All that the stream remembers, as tensors and ints; assign it to go on from there.

        Raises:
            ValueError: On assigning what is not a state of a stream of this model and batch size.
        """
        return dict(self._state)

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        if not isinstance(state, dict) or state.keys() != self._state.keys():
            raise ValueError(
                f"A state of this stream has the keys {', '.join(self._state)}; got "
                f"{', '.join(map(str, state)) if isinstance(state, dict) else type(state).__name__}."
            )
        for name, own in self._state.items():
            given = state[name]
            if isinstance(own, int):
                if given != own:
                    raise ValueError(f"`{name}` of this stream is {own}, and {given} in the state.")
                continue
            grows = name in ("samples", "hidden")
            shape, is_tensor = tuple(own.shape), isinstance(given, torch.Tensor)
            fits = is_tensor and tuple(given.shape)[: -1 if grows else None] == shape[: -1 if grows else None]
            if not fits or given.dtype != own.dtype:
                raise ValueError(
                    f"`{name}` of a state must be {own.dtype} {(*shape[:-1], 'any') if grows else shape}, got "
                    f"{f'{given.dtype} {tuple(given.shape)}' if is_tensor else type(given).__name__}."
                )
        self._state = dict(state)

    def reset(self, rows: Sequence[int] | torch.Tensor | None = None) -> None:
        """Makes rows begin anew, all of them where `rows` is `None`; what they held is dropped.

        Raises:
            ValueError: If a row does not exist.
        """
        fresh = self._fresh_state()
        if rows is None:
            self._state = fresh
            return
        chosen = torch.zeros(self.batch_size, dtype=torch.bool)
        chosen[self._checked_rows(rows)] = True
        for name in ("num_samples", "num_frames", "num_codes", "has_ended"):
            fresh[name] = torch.where(chosen, fresh[name], self._state[name])
        for name in ("lstm_hidden", "lstm_cell"):
            # (layers, B, C)
            fresh[name] = torch.where(chosen[:, None].to(fresh[name].device), fresh[name], self._state[name])
        fresh["samples"], fresh["hidden"] = self._state["samples"], self._state["hidden"]
        self._state = fresh

    def _fresh_state(self) -> dict[str, Any]:
        lstm = self._encoder.lstm.lstm
        parameter = next(self._encoder.parameters())
        cell = parameter.new_zeros(lstm.num_layers, self.batch_size, lstm.hidden_size)
        counts = torch.zeros(self.batch_size, dtype=torch.int64)
        return {
            "batch_size": self.batch_size,
            "num_samples": counts,
            "num_frames": counts,
            "num_codes": counts,
            "has_ended": counts.bool(),
            "samples": parameter.new_zeros(self.batch_size, 1, 0, dtype=torch.float32),
            "hidden": parameter.new_zeros(self.batch_size, lstm.hidden_size, 0),
            "lstm_hidden": cell,
            "lstm_cell": cell,
        }

    @overload
    def push(self, samples: torch.Tensor, mask: None = None) -> torch.Tensor: ...

    @overload
    def push(self, samples: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...

    @torch.no_grad()
    def push(
        self, samples: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Takes samples and returns the codes that they settle.

        Args:
            samples: Floats (B, 1, n) at the codec's rate, n of 0 or more.
            mask: (B, n), non-zero where a sample belongs to the row: any number of them at the left of each row, none
                for a row that pauses or has ended. Without it every row takes all n.

        Returns:
            Codes, int64 (B, 1, k); with a mask also the mask of codes, bool (B, 1, k), and codes are 0 outside it.

        Raises:
            ValueError: For a wrong shape or type, values that are not finite, or a mask with gaps; and without a mask
                if the rows no longer run together.
            RuntimeError: If a row that was flushed gets samples.
        """
        self._check_samples(samples)
        if mask is None:
            counts = torch.full((self.batch_size,), samples.shape[-1])
            self._require_together("push(samples)", "push(samples, mask)")
        else:
            counts = self._checked_counts(mask, samples.shape[-1])
        ended = (self._state["has_ended"] & (counts > 0)).nonzero()
        if len(ended):
            raise RuntimeError(f"Row {int(ended[0])} was flushed and takes no more samples before `reset([row])`.")
        self._append(samples.to(self._state["samples"]), counts)
        codes, codes_mask = self._advance()
        return codes if mask is None else (codes, codes_mask)

    @overload
    def flush(self, rows: None = None) -> torch.Tensor: ...

    @overload
    def flush(self, rows: Sequence[int] | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...

    @torch.no_grad()
    def flush(
        self, rows: Sequence[int] | torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Ends rows where they are, all of them where `rows` is `None`, and returns the codes that are left.

        A row that got no sample has no codes.

        Args:
            rows: Indices of rows.

        Returns:
            Codes, int64 (B, 1, k); with `rows` also the mask of codes, bool (B, 1, k).

        Raises:
            ValueError: If a row does not exist; and without `rows` if they no longer run together.
            RuntimeError: If a row was flushed before.
        """
        if rows is None:
            self._require_together("flush()", "flush(rows)")
            ending = list(range(self.batch_size))
        else:
            ending = self._checked_rows(rows)
        has_ended = self._state["has_ended"].clone()
        if has_ended[ending].any():
            raise RuntimeError(
                f"Row {next(row for row in ending if has_ended[row])} was flushed before; `reset([row])` begins anew."
            )
        has_ended[ending] = True
        self._state["has_ended"] = has_ended
        codes, codes_mask = self._advance()
        return codes if rows is None else (codes, codes_mask)

    # ---------------------------------------------------------------------------------------------------- steps

    def _append(self, samples: torch.Tensor, counts: torch.Tensor) -> None:
        """Puts each row's first `counts` of `samples` behind what it holds."""
        held = self._state["num_samples"] - self._first_sample()
        self._state["samples"] = _put(self._state["samples"], samples, held, counts)
        self._state["num_samples"] = self._state["num_samples"] + counts

    def _first_sample(self) -> torch.Tensor:
        """Number of the first sample that each row still holds."""
        return (self._state["num_frames"] * self._hop_length - self._samples_kept).clamp(min=0)

    def _first_frame(self) -> torch.Tensor:
        """Number of the first frame that each row still holds of what the LSTM put out."""
        return (self._state["num_codes"] - self._frames_before).clamp(min=0)

    def _advance(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes what the samples at hand settle: frames, and of these codes, which it returns with their mask."""
        held_samples, held_frames = self._first_sample(), self._first_frame()
        self._run_frames()
        codes, mask = self._run_codes()
        self._state["samples"] = _drop(self._state["samples"], self._first_sample() - held_samples)
        self._state["hidden"] = _drop(self._state["hidden"], self._first_frame() - held_frames)
        return codes, mask

    def _run_frames(self) -> None:
        """Takes samples through the convolutions and the LSTM."""
        encoder, reach, hop_length = self._encoder, self._encoder.reach, self._hop_length
        windows = []
        for row, (num_samples, done, has_ended, held) in enumerate(
            self._per_row("num_samples", "num_frames", "has_ended", self._first_sample())
        ):
            if has_ended:
                until = -(-num_samples // hop_length)
                # An end needs more frames than may be new: some before them are computed again.
                first = min(done, max(0, until - reach.min_frames))
            else:
                until, first = max(0, num_samples - reach.samples_after) // hop_length, done
            if until <= done or (until < reach.min_frames and not has_ended):
                continue
            begin = first * hop_length - reach.samples_before
            is_start = first == 0 or begin < 0
            if is_start:
                first, begin = 0, 0
            end = num_samples if has_ended else until * hop_length + reach.samples_after
            windows.append(_Window(row, is_start, has_ended, begin - held, end - held, done - first, until - done))
        state, held_frames = self._state, self._state["num_frames"] - self._first_frame()
        for rows, window in _alike(windows):
            samples = _rows_of(state["samples"], rows)[..., window.begin : window.end]
            hidden = encoder.convolve_in_pieces(samples, self._piece(window))
            before = tuple(_rows_of(state[name], rows, axis=1) for name in ("lstm_hidden", "lstm_cell"))
            hidden, after = encoder.lstm(hidden[..., window.num_again :], before)
            for name, values in zip(("lstm_hidden", "lstm_cell"), after, strict=True):
                state[name] = _with_rows(state[name], rows, values, axis=1)
            counts = self._counts(rows, window.num_new)
            new = hidden.new_zeros(self.batch_size, *hidden.shape[1:])
            state["hidden"] = _put(state["hidden"], _with_rows(new, rows, hidden), held_frames, counts)
            held_frames = held_frames + counts
            state["num_frames"] = state["num_frames"] + counts

    def _run_codes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes what the LSTM put out through the last convolution and the quantizer."""
        windows = []
        for row, (num_frames, done, has_ended, held) in enumerate(
            self._per_row("num_frames", "num_codes", "has_ended", self._first_frame())
        ):
            until = num_frames if has_ended else num_frames - self._frames_after
            if until <= done or (num_frames < self._first_frames and not has_ended):
                continue
            begin = done - self._frames_before
            is_start = done == 0 or begin < 0
            if is_start:
                begin = 0
            num_again = done if is_start else 0
            windows.append(_Window(row, is_start, has_ended, begin - held, num_frames - held, num_again, until - done))
        num_new = max((window.num_new for window in windows), default=0)
        device = self._state["samples"].device
        codes = torch.zeros(self.batch_size, 1, num_new, dtype=torch.int64, device=device)
        counts = torch.zeros(self.batch_size, dtype=torch.int64)
        for rows, window in _alike(windows):
            hidden = _rows_of(self._state["hidden"], rows)[..., window.begin : window.end]
            latents = self._encoder.project(hidden, self._piece(window))
            codes[rows, :, : window.num_new] = self._quantizer(latents[..., window.num_again :]).to(device)
            counts += self._counts(rows, window.num_new)
        self._state["num_codes"] = self._state["num_codes"] + counts
        return codes, torch.arange(num_new, device=device) < counts.to(device)[:, None, None]

    def _piece(self, window: "_Window") -> Piece:
        return Piece(window.is_start, window.is_end, weights=self._weights)

    def _counts(self, rows: list[int], count: int) -> torch.Tensor:
        counts = torch.zeros(self.batch_size, dtype=torch.int64)
        counts[rows] = count
        return counts

    def _per_row(self, *names: str | torch.Tensor) -> Iterator[tuple]:
        columns = (self._state[name] if isinstance(name, str) else name for name in names)
        return zip(*(column.tolist() for column in columns), strict=True)

    # --------------------------------------------------------------------------------------------------- checks

    def _check_samples(self, samples: torch.Tensor) -> None:
        expected = f"a float tensor ({self.batch_size}, 1, n)"
        if not isinstance(samples, torch.Tensor) or not samples.is_floating_point():
            kind = samples.dtype if isinstance(samples, torch.Tensor) else type(samples).__name__
            raise ValueError(f"`samples` must be {expected} with full scale at 1, got {kind}.")
        if samples.ndim != 3 or tuple(samples.shape[:2]) != (self.batch_size, 1):
            raise ValueError(
                f"`samples` must be {expected}, got shape {tuple(samples.shape)}. The batch size of a stream is set "
                "when it is made."
            )
        if not samples.isfinite().all():
            row = int((~samples.isfinite()).any(dim=-1).nonzero()[0, 0])
            raise ValueError(f"Row {row} of `samples` holds NaN or infinity; the stream was left as it was.")

    def _checked_counts(self, mask: torch.Tensor, num_samples: int) -> torch.Tensor:
        """Number of samples of each row, from a mask of padding on the right."""
        flat = mask[:, 0] if mask.ndim == 3 and mask.shape[1] == 1 else mask
        if tuple(flat.shape) != (self.batch_size, num_samples):
            raise ValueError(
                f"`mask` must have shape {(self.batch_size, num_samples)}, one value per sample, got "
                f"{tuple(mask.shape)}."
            )
        flat = (flat != 0).cpu()
        counts = flat.sum(dim=-1)
        if not torch.equal(flat, torch.arange(num_samples) < counts[:, None]):
            row = int((flat != (torch.arange(num_samples) < counts[:, None])).any(dim=-1).nonzero()[0])
            raise ValueError(f"`mask` of row {row} has a gap: a row's samples stand at the left, padding follows.")
        return counts

    def _checked_rows(self, rows: Sequence[int] | torch.Tensor) -> list[int]:
        indices = [int(row) for row in rows]
        for row in indices:
            if not 0 <= row < self.batch_size:
                raise ValueError(f"Rows of this stream are 0..{self.batch_size - 1}, got {row}.")
        if len(set(indices)) < len(indices):
            raise ValueError(f"Each row can be named once, got {indices}.")
        return indices

    def _require_together(self, call: str, instead: str) -> None:
        for name in ("num_samples", "has_ended"):
            values = self._state[name]
            if (values != values[0]).any():
                raise ValueError(
                    f"`{call}` is for rows that begin and end together, and their `{name}` differ: "
                    f"{values.tolist()}. Call `{instead}`, which returns a mask with the codes."
                )


class _Window(NamedTuple):
    """What one row computes from, in positions of the row's buffer, and how much of the result it knew before."""

    row: int
    is_start: bool
    is_end: bool
    begin: int
    end: int
    num_again: int
    num_new: int


def _alike(windows: list[_Window]) -> Iterator[tuple[list[int], _Window]]:
    """Rows whose windows differ in nothing, so that they are computed as one batch."""
    groups = defaultdict(list)
    for window in windows:
        groups[window[1:]].append(window.row)
    return ((rows, _Window(rows[0], *key)) for key, rows in groups.items())


def _rows_of(tensor: torch.Tensor, rows: list[int], axis: int = 0) -> torch.Tensor:
    if len(rows) == tensor.shape[axis]:
        return tensor
    return tensor.index_select(axis, torch.tensor(rows, device=tensor.device))


def _with_rows(tensor: torch.Tensor, rows: list[int], values: torch.Tensor, axis: int = 0) -> torch.Tensor:
    """A copy of `tensor` in which some rows are replaced."""
    if len(rows) == tensor.shape[axis]:
        return values
    return tensor.index_copy(axis, torch.tensor(rows, device=tensor.device), values)


def _put(buffer: torch.Tensor, new: torch.Tensor, held: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Each row's first `held` values of `buffer`, then its first `counts` of `new`: (B, C, longest row)."""
    if (held == held[0]).all() and (counts == counts[0]).all():
        return torch.cat([buffer[..., : held[0]], new[..., : counts[0]]], dim=-1)
    position = torch.arange(int((held + counts).max()))
    held = held[:, None]
    index = torch.where(position < held, position, buffer.shape[-1] + position - held)
    joined = torch.cat([buffer, new], dim=-1)
    return _gather(joined, index.clamp(max=joined.shape[-1] - 1))


def _drop(buffer: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Each row without its first `counts` values."""
    if (counts == counts[0]).all():
        return buffer[..., counts[0] :].clone() if counts[0] else buffer
    position = torch.arange(buffer.shape[-1] - int(counts.min()))
    return _gather(buffer, (position + counts[:, None]).clamp(max=buffer.shape[-1] - 1))


def _gather(buffer: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return buffer.gather(-1, index.to(buffer.device)[:, None].expand(-1, buffer.shape[1], -1))
