"""Decoding in windows that overlap: bounded memory, approximate."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerDecodingModel
from wavtokenizer_hf.streaming.state import Output, StreamState, alike, drop, put, rows_of, with_rows

# The fade begins where a chunk does: there both windows have codes on either side. It ends before the last frames of
# the earlier window, which miss what overlaps with them.
CROSSFADE_FRAMES = 3


class WindowDecoding:
    """Decodes each chunk with its context and look-ahead, and fades it in.

    The state is handed to every call, which gives it other tensors. Its counts and layers:

    - `num_codes`: received;
    - `num_done`: of these, those whose samples were returned;
    - `audio_codes`: (B, 1, k), from code `max(0, num_done - context_frames)` on;
    - `tail`: (B, 1, n), what the last window made of the frames after its chunk.
    """

    def __init__(
        self,
        model: WavTokenizerDecodingModel,
        bandwidth_id: int | torch.Tensor | None,
        batch_size: int,
        chunk_frames: int,
        context_frames: int,
        lookahead_frames: int,
        crossfade_frames: int = CROSSFADE_FRAMES,
    ):
        ids = model.bandwidth_ids(bandwidth_id, batch_size, model.device)
        self._bandwidth_ids = ids[:, 0].expand(batch_size)
        self._model, self._batch_size = model, batch_size
        self._chunk, self._context, self._lookahead = chunk_frames, context_frames, lookahead_frames
        self._hop_length = model.config.hop_length
        self._fade_samples = min(crossfade_frames, (lookahead_frames + 1) // 2) * self._hop_length
        self.latency_frames = float(chunk_frames + lookahead_frames)

    def fresh_state(self) -> StreamState:
        device = self._model.device
        layers = {
            "audio_codes": torch.zeros(self._batch_size, 1, 0, dtype=torch.int64, device=device),
            "tail": torch.zeros(self._batch_size, 1, 0, device=device),
        }
        return StreamState.new(
            self._batch_size,
            ("num_codes", "num_done"),
            layers,
            chunk_frames=self._chunk,
            context_frames=self._context,
            lookahead_frames=self._lookahead,
        )

    def push(self, state: StreamState, audio_codes: torch.Tensor, counts: torch.Tensor) -> Output:
        held = state.counts["num_codes"] - self._first_code(state)
        state.layers["audio_codes"] = put(state.layers["audio_codes"], audio_codes, held, counts)
        state.counts["num_codes"] = state.counts["num_codes"] + counts
        output = Output(state.layers["tail"][..., :0])
        num_samples = self._chunk * self._hop_length
        while (windows := self._windows(state, self._chunk + self._lookahead)) != [None] * self._batch_size:
            done = torch.zeros_like(counts)
            for rows, window in alike(windows):
                samples = self._decode(state, rows, window)
                output.add(rows, samples[..., :num_samples])
                tail = state.layers["tail"]
                if not tail.shape[-1]:
                    tail = F.pad(tail, (0, samples.shape[-1] - num_samples))
                state.layers["tail"] = with_rows(tail, rows, samples[..., num_samples:].clone())
                done[rows] = self._chunk
            first = self._first_code(state)
            state.counts["num_done"] = state.counts["num_done"] + done
            state.layers["audio_codes"] = drop(state.layers["audio_codes"], self._first_code(state) - first)
        return output

    def flush(self, state: StreamState, rows: list[int]) -> Output:
        samples = Output(state.layers["tail"][..., :0])
        num_left = state.counts["num_codes"] - state.counts["num_done"]
        num_decoded = torch.where(state.counts["num_done"] > 0, self._lookahead, 0)
        ending = torch.zeros(self._batch_size, dtype=torch.bool)
        ending[rows] = True
        is_decoded = ending & (num_left == num_decoded) & (num_left > 0)
        if is_decoded.any():
            decoded = is_decoded.nonzero()[:, 0].tolist()
            samples.add(decoded, rows_of(state.layers["tail"], decoded).clone())
        until = torch.where(ending & ~is_decoded & (num_left > 0), num_left, 0)
        for left in set(until.tolist()) - {0}:
            windows = self._windows(state, left)
            chosen = [window if here else None for window, here in zip(windows, until == left, strict=True)]
            for together, window in alike(chosen):
                samples.add(together, self._decode(state, together, window))
        return samples

    def _first_code(self, state: StreamState) -> torch.Tensor:
        """Number of the first code that each row still holds."""
        return (state.counts["num_done"] - self._context).clamp(min=0)

    def _windows(self, state: StreamState, num_new: int) -> "list[_Window | None]":
        """What each row decodes for `num_new` codes after those that are done, where it has them."""
        num_codes, num_done = state.counts["num_codes"].tolist(), state.counts["num_done"].tolist()
        return [
            _Window(done - first + num_new, done - first, done > 0) if codes - done >= num_new else None
            for codes, done, first in zip(num_codes, num_done, self._first_code(state).tolist(), strict=True)
        ]

    def _decode(self, state: StreamState, rows: list[int], window: "_Window") -> torch.Tensor:
        """Samples of rows from the first that was not returned up to the end of the window."""
        codes = rows_of(state.layers["audio_codes"], rows)[..., : window.num_codes]
        ids = rows_of(self._bandwidth_ids, rows)
        samples = self._model.decode(codes, bandwidth_id=ids).audio_values[..., window.num_done * self._hop_length :]
        before = rows_of(state.layers["tail"], rows)[..., : self._fade_samples]
        if not (window.has_tail and before.shape[-1]):
            return samples
        faded = torch.lerp(before, samples[..., : self._fade_samples], self._rise(samples.device))
        return torch.cat([faded, samples[..., self._fade_samples :]], dim=-1)

    def _rise(self, device: torch.device) -> torch.Tensor:
        """Weights of what fades in, half a period of a raised cosine."""
        phase = (torch.arange(self._fade_samples, device=device) + 0.5) * (math.pi / self._fade_samples)
        return 0.5 - 0.5 * phase.cos()


class _Window(NamedTuple):
    """What a row decodes of the codes that it holds."""

    num_codes: int
    num_done: int
    has_tail: bool
