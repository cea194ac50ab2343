"""Sound from codes while they arrive."""

from typing import Any

import torch

from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerDecodingModel
from wavtokenizer_hf.streaming.causal_decoding import CausalDecoding
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


class ChunkedDecoder:
    """Turns codes into samples piece by piece, in memory that does not depend on how many there are.

    The decoder of the ordinary codec sees all of time, so decoding in pieces is approximate. Each chunk is decoded
    together with codes before it and after it, and is faded over from what the window before made of its first
    frames. The samples do not depend on how the codes are cut into pushes; those of a clip that is no longer than
    `chunk_frames + lookahead_frames` are those of `model.decode`.

    A causal codec (`WavTokenizerCausalConfig`) is decoded exactly: all its layers look back only, and what they need
    to remember is the state. Chunk, context and look-ahead do not apply there. Where its `attention_window` is `None`,
    the state grows with the stream.

    The samples are float32 (B, 1, n) on the model's device, `hop_length` for each code once the stream is flushed.

    Args:
        model: A `WavTokenizerModel` or `WavTokenizerDecoderModel` in eval mode.
        chunk_frames: Codes that become sound at once, 1 or more.
        context_frames: Codes before a chunk that are decoded with it. They cost time, not latency.
        lookahead_frames: Codes after a chunk that are decoded with it, and that it waits for.
        bandwidth_id: As in `model.decode`.
        batch_size: Number of rows, B, which all run together.

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
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be 1 or more, got {batch_size}.")
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
        self.batch_size = batch_size
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

    @property
    def state(self) -> dict[str, Any]:
        """All that the stream remembers, as tensors and ints; assign it to go on from there.

        Raises:
            ValueError: On assigning what is not a state of a stream of this model, batch size and numbers of frames.
        """
        return dict(self._state)

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        if not isinstance(state, dict) or state.keys() != self._state.keys():
            raise ValueError(
                f"A state of this stream has the keys {', '.join(self._state)}; got "
                f"{', '.join(map(str, state)) if isinstance(state, dict) else type(state).__name__}."
            )
        accepted = {}
        for name, own in self._state.items():
            given = state[name]
            accepted[name] = given.to(own.device) if isinstance(given, torch.Tensor) else given
            if isinstance(own, int):
                if not isinstance(given, int) or (name in self._settings and given != own):
                    expected = own if name in self._settings else "an int"
                    raise ValueError(f"`{name}` of a state of this stream is {expected}, got {given!r}.")
                continue
            shape, is_tensor = tuple(own.shape[:-1]), isinstance(given, torch.Tensor)
            if not is_tensor or tuple(given.shape[:-1]) != shape or given.dtype != own.dtype:
                raise ValueError(
                    f"`{name}` of a state must be {own.dtype} {(*shape, 'any')}, got "
                    f"{f'{given.dtype} {tuple(given.shape)}' if is_tensor else type(given).__name__}."
                )
        self._state = accepted

    def reset(self) -> None:
        """Begins a new clip; what was not yet sound is dropped."""
        self._state = self._fresh_state()

    @torch.no_grad()
    def push(self, audio_codes: torch.Tensor) -> torch.Tensor:
        """Takes codes and returns the samples that they settle.

        Args:
            audio_codes: Integers (B, 1, k), k of 0 or more.

        Returns:
            float32 (B, 1, n), n of 0 or more.

        Raises:
            ValueError: For a wrong shape or type, or codes out of range; the stream stays as it was.
            RuntimeError: After `flush`.
        """
        self._refuse_after_end("push")
        if not isinstance(audio_codes, torch.Tensor) or tuple(audio_codes.shape[:-1]) != (self.batch_size, 1):
            raise ValueError(
                f"`audio_codes` must be an integer tensor ({self.batch_size}, 1, k), got "
                f"{tuple(audio_codes.shape) if isinstance(audio_codes, torch.Tensor) else type(audio_codes).__name__}."
                " The batch size of a stream is set when it is made."
            )
        if audio_codes.shape[-1]:
            audio_codes = self.model.check_codes(audio_codes)
        state = self.state
        samples = self._decoding.push(state, audio_codes.to(self.model.device, torch.int64))
        self._state = state
        return samples

    @torch.no_grad()
    def flush(self) -> torch.Tensor:
        """Ends the clip and returns the samples that are left; the stream takes codes again after `reset`.

        Raises:
            RuntimeError: If it was flushed before.
        """
        self._refuse_after_end("flush")
        state = self.state
        samples = self._decoding.flush(state)
        self._state = {**state, "has_ended": 1}
        return samples

    @property
    def _settings(self) -> dict[str, int]:
        return {"batch_size": self.batch_size, **self._decoding.settings}

    def _fresh_state(self) -> dict[str, Any]:
        return {**self._settings, "has_ended": 0, **self._decoding.fresh_state()}

    def _refuse_after_end(self, call: str) -> None:
        if self._state["has_ended"]:
            raise RuntimeError(f"`{call}` after `flush`: the clip has ended. `reset()` begins a new one.")
