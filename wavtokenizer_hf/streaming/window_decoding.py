"""Decoding in windows that overlap: bounded memory, approximate."""

import math
from typing import Any

import torch

from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerDecodingModel

# The fade begins where a chunk does: there both windows have codes on either side. It ends before the last frames of
# the earlier window, which miss what overlaps with them.
CROSSFADE_FRAMES = 3


class WindowDecoding:
    """Decodes each chunk with its context and look-ahead, and fades it in.

    The state is handed to every call, which replaces its entries:

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
        model.bandwidth_ids(bandwidth_id, batch_size, model.device)  # refuses a wrong one now
        self._model, self._bandwidth_id, self._batch_size = model, bandwidth_id, batch_size
        self._chunk, self._context, self._lookahead = chunk_frames, context_frames, lookahead_frames
        self._hop_length = model.config.hop_length
        self._fade_samples = min(crossfade_frames, (lookahead_frames + 1) // 2) * self._hop_length
        self.latency_frames = float(chunk_frames + lookahead_frames)
        self.settings = {
            "chunk_frames": chunk_frames,
            "context_frames": context_frames,
            "lookahead_frames": lookahead_frames,
        }

    def fresh_state(self) -> dict[str, Any]:
        device = self._model.device
        return {
            "num_codes": 0,
            "num_done": 0,
            "audio_codes": torch.zeros(self._batch_size, 1, 0, dtype=torch.int64, device=device),
            "tail": torch.zeros(self._batch_size, 1, 0, device=device),
        }

    def push(self, state: dict[str, Any], audio_codes: torch.Tensor) -> torch.Tensor:
        state["audio_codes"] = torch.cat([state["audio_codes"], audio_codes], dim=-1)
        state["num_codes"] += audio_codes.shape[-1]
        pieces = [state["tail"][..., :0]]
        while state["num_codes"] >= state["num_done"] + self._chunk + self._lookahead:
            samples = self._decode(state, state["num_done"] + self._chunk + self._lookahead)
            num_samples = self._chunk * self._hop_length
            pieces.append(samples[..., :num_samples])
            state["tail"] = samples[..., num_samples:].clone()
            first = self._first_code(state)
            state["num_done"] += self._chunk
            state["audio_codes"] = state["audio_codes"][..., self._first_code(state) - first :]
        state["audio_codes"] = state["audio_codes"].clone()
        return torch.cat(pieces, dim=-1)

    def flush(self, state: dict[str, Any]) -> torch.Tensor:
        num_left = state["num_codes"] - state["num_done"]
        is_decoded = state["tail"].shape[-1] == num_left * self._hop_length
        return state["tail"].clone() if is_decoded else self._decode(state, state["num_codes"])

    def _first_code(self, state: dict[str, Any]) -> int:
        """Number of the first code that the state still holds."""
        return max(0, state["num_done"] - self._context)

    def _decode(self, state: dict[str, Any], until: int) -> torch.Tensor:
        """Samples from the first that was not returned up to those of code `until`."""
        first = self._first_code(state)
        window = state["audio_codes"][..., : until - first]
        samples = self._model.decode(window, bandwidth_id=self._bandwidth_id).audio_values
        samples = samples[..., (state["num_done"] - first) * self._hop_length :]
        before = state["tail"][..., : self._fade_samples]
        if not before.shape[-1]:
            return samples
        faded = torch.lerp(before, samples[..., : self._fade_samples], self._rise(samples.device))
        return torch.cat([faded, samples[..., self._fade_samples :]], dim=-1)

    def _rise(self, device: torch.device) -> torch.Tensor:
        """Weights of what fades in, half a period of a raised cosine."""
        phase = (torch.arange(self._fade_samples, device=device) + 0.5) * (math.pi / self._fade_samples)
        return 0.5 - 0.5 * phase.cos()
