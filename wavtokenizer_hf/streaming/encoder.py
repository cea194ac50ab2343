"""Encoding while the audio arrives, with the codes of the whole clip."""

from collections.abc import Sequence
from typing import NamedTuple, overload

import torch

from wavtokenizer_hf.arithmetic_wavtokenizer import Piece, computed_weights
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerEncoderModel, WavTokenizerPreTrainedModel
from wavtokenizer_hf.streaming.state import Output, RowStream, StreamState, alike, drop, put, rows_of, with_rows


class StreamingEncoder(RowStream):
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
        super().__init__(batch_size)
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
        self._state = self._fresh_state()

    @property
    def latency_s(self) -> float:
        """Seconds from the last sample of a frame to its code, for a stream that is pushed without delay."""
        samples = self._frames_after * self._hop_length + self._encoder.reach.samples_after
        return samples / self.config.sampling_rate

    # In the state:
    #   num_samples   received;
    #   num_frames    that went through the convolutions and the LSTM;
    #   num_codes     returned;
    #   has_ended     flushed;
    #   samples       (B, 1, n), from sample `max(0, num_frames * hop_length - samples_kept)` on;
    #   hidden        (B, C, l), what the LSTM put out, from frame `max(0, num_codes - frames_before)` on;
    #   lstm_hidden, lstm_cell  (layers, B, C).

    def _fresh_state(self) -> StreamState:
        lstm = self._encoder.lstm.lstm
        parameter = next(self._encoder.parameters())
        cell = parameter.new_zeros(lstm.num_layers, self.batch_size, lstm.hidden_size)
        layers = {
            "samples": parameter.new_zeros(self.batch_size, 1, 0, dtype=torch.float32),
            "hidden": parameter.new_zeros(self.batch_size, lstm.hidden_size, 0),
            "lstm_hidden": cell,
            "lstm_cell": cell,
        }
        return StreamState.new(self.batch_size, ("num_samples", "num_frames", "num_codes"), layers)

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
        counts = self._checked_counts(mask, samples.shape[-1], "samples", "push(samples)")
        state = self._state.copy()
        held = state.counts["num_samples"] - self._first_sample(state)
        state.layers["samples"] = put(state.layers["samples"], samples.to(state.layers["samples"]), held, counts)
        state.counts["num_samples"] = state.counts["num_samples"] + counts
        codes = self._advance(state)
        return codes.values if mask is None else codes.masked()

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
        codes = self._advance(self._ended(rows)[0])
        return codes.values if rows is None else codes.masked()

    # ---------------------------------------------------------------------------------------------------- steps

    def _first_sample(self, state: StreamState) -> torch.Tensor:
        """Number of the first sample that each row still holds."""
        return (state.counts["num_frames"] * self._hop_length - self._samples_kept).clamp(min=0)

    def _first_frame(self, state: StreamState) -> torch.Tensor:
        """Number of the first frame that each row still holds of what the LSTM put out."""
        return (state.counts["num_codes"] - self._frames_before).clamp(min=0)

    def _advance(self, state: StreamState) -> Output:
        """Computes what the samples at hand settle, and goes on to the state after it: frames, and of these codes."""
        held_samples, held_frames = self._first_sample(state), self._first_frame(state)
        self._run_frames(state)
        codes = self._run_codes(state)
        state.layers["samples"] = drop(state.layers["samples"], self._first_sample(state) - held_samples)
        state.layers["hidden"] = drop(state.layers["hidden"], self._first_frame(state) - held_frames)
        self._state = state
        return codes

    def _run_frames(self, state: StreamState) -> None:
        """Takes samples through the convolutions and the LSTM."""
        encoder, reach, hop_length = self._encoder, self._encoder.reach, self._hop_length

        def piece(num_samples: int, done: int, has_ended: bool, held: int) -> _RowPiece | None:
            if has_ended:
                until = -(-num_samples // hop_length)
                # An end needs more frames than may be new: some before them are computed again.
                first = min(done, max(0, until - reach.min_frames))
            else:
                until, first = max(0, num_samples - reach.samples_after) // hop_length, done
            if until <= done or (until < reach.min_frames and not has_ended):
                return None
            begin = first * hop_length - reach.samples_before
            is_start = first == 0 or begin < 0
            if is_start:
                first, begin = 0, 0
            end = num_samples if has_ended else until * hop_length + reach.samples_after
            return _RowPiece(is_start, has_ended, begin - held, end - held, done - first)

        counts, layers = state.counts, state.layers
        columns = counts["num_samples"], counts["num_frames"], counts["has_ended"], self._first_sample(state)
        frames = Output(layers["hidden"][..., :0])
        for rows, each in alike([piece(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]):
            samples = rows_of(layers["samples"], rows)[..., each.begin : each.end]
            hidden = encoder.convolve_in_pieces(samples, self._piece(each))
            before = tuple(rows_of(layers[name], rows, axis=1) for name in ("lstm_hidden", "lstm_cell"))
            hidden, after = encoder.lstm(hidden[..., each.num_again :], before)
            for name, values in zip(("lstm_hidden", "lstm_cell"), after, strict=True):
                layers[name] = with_rows(layers[name], rows, values, axis=1)
            frames.add(rows, hidden)
        held = counts["num_frames"] - self._first_frame(state)
        layers["hidden"] = put(layers["hidden"], frames.values, held, frames.counts)
        counts["num_frames"] = counts["num_frames"] + frames.counts

    def _run_codes(self, state: StreamState) -> Output:
        """Takes what the LSTM put out through the last convolution and the quantizer."""

        def piece(num_frames: int, done: int, has_ended: bool, held: int) -> _RowPiece | None:
            until = num_frames if has_ended else num_frames - self._frames_after
            if until <= done or (num_frames < self._first_frames and not has_ended):
                return None
            begin = done - self._frames_before
            is_start = done == 0 or begin < 0
            if is_start:
                begin = 0
            return _RowPiece(is_start, has_ended, begin - held, num_frames - held, done if is_start else 0)

        counts, hidden = state.counts, state.layers["hidden"]
        columns = counts["num_frames"], counts["num_codes"], counts["has_ended"], self._first_frame(state)
        codes = Output(torch.zeros(self.batch_size, 1, 0, dtype=torch.int64, device=state.layers["samples"].device))
        for rows, each in alike([piece(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]):
            latents = self._encoder.project(rows_of(hidden, rows)[..., each.begin : each.end], self._piece(each))
            codes.add(rows, self._quantizer(latents[..., each.num_again :]).to(codes.values.device))
        counts["num_codes"] = counts["num_codes"] + codes.counts
        return codes

    def _piece(self, of_row: "_RowPiece") -> Piece:
        return Piece(of_row.is_start, of_row.is_end, weights=self._weights)

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


class _RowPiece(NamedTuple):
    """What a row computes from, in positions of its buffer, and how much of the result it had before."""

    is_start: bool
    is_end: bool
    begin: int
    end: int
    num_again: int
