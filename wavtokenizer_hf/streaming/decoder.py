"""Sound from codes while they arrive."""

from collections.abc import Sequence
from typing import overload

import torch

from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerDecodingModel
from wavtokenizer_hf.streaming.causal_decoding import CausalDecoding
from wavtokenizer_hf.streaming.state import RowStream, StreamState
from wavtokenizer_hf.streaming.window_decoding import WindowDecoding

# Where docs/streaming.md finds the error small and the sound soon.
CHUNK_FRAMES = 25
CONTEXT_FRAMES = 150
LOOKAHEAD_FRAMES = 15

# Nobody waits for the first sample of a file, so context and look-ahead may weigh little. Yet longer chunks are not
# nearer to the recording: where voices change, norms over a few seconds are better (docs/streaming.md).
LONG_CHUNK_FRAMES = 375
LONG_CONTEXT_FRAMES = 150
LONG_LOOKAHEAD_FRAMES = 40


class ChunkedDecoder(RowStream):
    """Turns codes into samples piece by piece, in memory that does not depend on how many there are.

    The decoder of the ordinary codec sees all of time, so decoding in pieces is approximate. Each chunk is decoded
    together with codes before it and after it, and is faded over from what the window before made of its first
    frames. The samples do not depend on how the codes are cut into pushes; those of a clip that is no longer than
    `chunk_frames + lookahead_frames` are those of `model.decode`.

    A causal codec (`WavTokenizerCausalConfig`) is decoded exactly: all its layers look back only, and what they need
    to remember is the state. Chunk, context and look-ahead do not apply there. Where its `attention_window` is `None`,
    the state grows with the stream.

    The samples are float32 (B, 1, n) on the model's device, `hop_length` for each code once the stream is flushed.
    While all rows of the batch begin and end together, `push` and `flush` return samples alone. Rows that do not are
    told apart by a mask of codes and by the rows that are flushed, and the samples then come with a mask, too.

    Args:
        model: A `WavTokenizerModel` or `WavTokenizerDecoderModel` in eval mode.
        chunk_frames: Codes that become sound at once, 1 or more.
        context_frames: Codes before a chunk that are decoded with it. They cost time, not latency.
        lookahead_frames: Codes after a chunk that are decoded with it, and that it waits for.
        bandwidth_id: As in `model.decode`.
        batch_size: Number of rows, B, each a stream of its own.

    `None` takes the defaults of this module, which were chosen by measurement.

    Raises:
        ValueError: If the model has no decoder, for numbers out of range, or if a causal codec is given one of the
            three numbers of frames.

    Example:

    ```python
    >>> decoder = ChunkedDecoder(model)
    >>> for audio_codes in language_model:  # int (1, 1, k)
    ...     play(decoder.push(audio_codes))  # float32 (1, 1, n)
    >>> play(decoder.flush())
    ```
    """

    def __init__(
        self,
        model: WavTokenizerDecodingModel,
        chunk_frames: int | None = None,
        context_frames: int | None = None,
        lookahead_frames: int | None = None,
        bandwidth_id: int | torch.Tensor | None = None,
        batch_size: int = 1,
    ):
        if not isinstance(model, WavTokenizerDecodingModel):
            raise ValueError(
                f"A ChunkedDecoder needs a model with a decoder, got {type(model).__name__}. Load a WavTokenizerModel "
                "or a WavTokenizerDecoderModel."
            )
        super().__init__(batch_size)
        frames = {
            "chunk_frames": (chunk_frames, CHUNK_FRAMES, 1),
            "context_frames": (context_frames, CONTEXT_FRAMES, 0),
            "lookahead_frames": (lookahead_frames, LOOKAHEAD_FRAMES, 0),
        }
        for name, (given, _, least) in frames.items():
            if given is not None and model.config.is_causal:
                raise ValueError(
                    f"A causal codec is decoded exactly, code by code, and has no `{name}`. Leave it out, got {given}."
                )
            if given is not None and (not isinstance(given, int) or given < least):
                raise ValueError(f"`{name}` must be a whole number of {least} or more, got {given}.")
        self.model = model
        if model.config.is_causal:
            self._decoding: CausalDecoding | WindowDecoding = CausalDecoding(model, bandwidth_id, batch_size)
        else:
            chosen = {name: default if given is None else given for name, (given, default, _) in frames.items()}
            self._decoding = WindowDecoding(model, bandwidth_id, batch_size, **chosen)
        self._state = self._fresh_state()

    @property
    def latency_s(self) -> float:
        """By how much sound lags behind codes, in seconds of the clip.

        The sample at time t of the clip comes out at the latest when codes for more than `t + latency_s` have been
        pushed: chunk and look-ahead, or 1.5 frames in a causal codec, which is what its inverse STFT overlaps. The
        time that computing takes is not counted.
        """
        return self._decoding.latency_frames / self.model.config.frame_rate

    @overload
    def push(self, audio_codes: torch.Tensor, mask: None = None) -> torch.Tensor: ...

    @overload
    def push(self, audio_codes: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...

    @torch.no_grad()
    def push(
        self, audio_codes: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Takes codes and returns the samples that they settle.

        Args:
            audio_codes: Integers (B, 1, k), k of 0 or more.
            mask: (B, k), non-zero where a code belongs to the row: any number of them at the left of each row, none
                for a row that pauses or has ended. Without it every row takes all k.

        Returns:
            float32 (B, 1, n), n of 0 or more; with a mask also the mask of samples, bool (B, 1, n), and samples are 0
            outside it.

        Raises:
            ValueError: For a wrong shape or type, codes out of range, or a mask with gaps; and without a mask if the
                rows no longer run together. The stream stays as it was.
            RuntimeError: If a row that was flushed gets codes.
        """
        if not isinstance(audio_codes, torch.Tensor) or tuple(audio_codes.shape[:-1]) != (self.batch_size, 1):
            raise ValueError(
                f"`audio_codes` must be an integer tensor ({self.batch_size}, 1, k), got "
                f"{tuple(audio_codes.shape) if isinstance(audio_codes, torch.Tensor) else type(audio_codes).__name__}."
                " The batch size of a stream is set when it is made."
            )
        counts = self._checked_counts(mask, audio_codes.shape[-1], "codes", "push(audio_codes)")
        if audio_codes.shape[-1]:
            taken = None
            if mask is not None:
                taken = (torch.arange(audio_codes.shape[-1]) < counts[:, None, None]).to(audio_codes.device)
            audio_codes = self.model.check_codes(audio_codes, taken)
        state = self._state.copy()
        samples = self._decoding.push(state, audio_codes.to(self.model.device, torch.int64), counts)
        self._state = state
        return samples.values if mask is None else samples.masked()

    @overload
    def flush(self, rows: None = None) -> torch.Tensor: ...

    @overload
    def flush(self, rows: Sequence[int] | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...

    @torch.no_grad()
    def flush(
        self, rows: Sequence[int] | torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Ends rows where they are, all of them where `rows` is `None`, and returns the samples that are left.

        They take codes again after `reset`.

        Args:
            rows: Indices of rows.

        Returns:
            float32 (B, 1, n); with `rows` also the mask of samples, bool (B, 1, n), and samples are 0 outside it.

        Raises:
            ValueError: If a row does not exist; and without `rows` if they no longer run together.
            RuntimeError: If a row was flushed before.
        """
        state, ending = self._ended(rows)
        samples = self._decoding.flush(state, ending)
        self._state = state
        return samples.values if rows is None else samples.masked()

    def _fresh_state(self) -> StreamState:
        return self._decoding.fresh_state()
