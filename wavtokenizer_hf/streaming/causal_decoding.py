"""Decoding of a causal codec, frame by frame: exact, with explicit state."""

from typing import Any

import torch
import torch.nn.functional as F

from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerDecodingModel

# However many codes come at once, so many go through the layers together.
_FRAMES_AT_ONCE = 256


class CausalDecoding:
    """Runs the layers on new frames, after what they remember of the frames before.

    The state is handed to every call, which replaces its entries:

    - `num_codes`: received;
    - `tail`: (B, 3, hop_length), what the frames so far add to the blocks of the overlap-add that follow them;
    - `backbone.…`: (B, C, l) for each layer that looks back, by its name in the model.
    """

    def __init__(self, model: WavTokenizerDecodingModel, bandwidth_id: int | torch.Tensor | None, batch_size: int):
        self._bandwidth_ids = model.bandwidth_ids(bandwidth_id, batch_size, model.device)
        self._model, self._batch_size = model, batch_size
        self._names = {module: name for name, module in model.named_modules()}
        self.latency_frames = model.head.trim / model.config.hop_length
        self.settings: dict[str, int] = {}

    def fresh_state(self) -> dict[str, Any]:
        head = self._model.head
        tail = head.window.new_zeros(self._batch_size, head.overlap - 1, head.hop_length)
        cache = self._model.backbone.fresh_cache(self._batch_size)
        return {"num_codes": 0, "tail": tail, **{self._names[layer]: past for layer, past in cache.items()}}

    def push(self, state: dict[str, Any], audio_codes: torch.Tensor) -> torch.Tensor:
        nothing = torch.zeros(self._batch_size, 1, 0, device=audio_codes.device)
        pieces = audio_codes.split(_FRAMES_AT_ONCE, dim=-1) if audio_codes.shape[-1] else ()
        return torch.cat([nothing, *(self._decode(state, piece) for piece in pieces)], dim=-1)

    def flush(self, state: dict[str, Any]) -> torch.Tensor:
        # The last 1.5 hops of the clip lie in two more blocks, which no frame will add to.
        return self._divided(state, state["tail"][:, :2], state["num_codes"])

    def _decode(self, state: dict[str, Any], audio_codes: torch.Tensor) -> torch.Tensor:
        """The samples that some more codes settle."""
        model, head = self._model, self._model.head
        layers = {layer: name for layer, name in self._names.items() if name in state}
        cache = {layer: state[name] for layer, name in layers.items()}
        latents = model.codes_to_latents(audio_codes)
        features, _, _ = model.backbone(latents, self._bandwidth_ids, cache=cache)
        state.update({name: cache[layer] for layer, name in layers.items()})
        first, num_frames = state["num_codes"], audio_codes.shape[-1]
        blocks = head.overlapped(head.frames(features)) + F.pad(state["tail"], (0, 0, 0, num_frames))
        state["tail"] = blocks[:, num_frames:].clone()
        state["num_codes"] += num_frames
        return self._divided(state, blocks[:, :num_frames], first)

    def _divided(self, state: dict[str, Any], blocks: torch.Tensor, first: int) -> torch.Tensor:
        """Samples (B, 1, n) from sums of frames, of which the first is block `first` of the clip."""
        head, num_codes = self._model.head, state["num_codes"]
        number = torch.arange(first, first + blocks.shape[1], device=blocks.device)
        envelope = head.envelope(number, torch.full((1, 1), num_codes, device=blocks.device))
        samples = (blocks / envelope).flatten(1)[:, None]
        begin = first * head.hop_length
        inside = slice(max(0, head.trim - begin), head.trim + num_codes * head.hop_length - begin)
        return samples[..., inside].to(torch.float32)
