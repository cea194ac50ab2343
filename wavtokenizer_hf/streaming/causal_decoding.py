"""Decoding of a causal codec, frame by frame: exact, with explicit state."""

import torch
import torch.nn.functional as F

from wavtokenizer_hf.modeling_wavtokenizer import LayerCache, WavTokenizerDecodingModel
from wavtokenizer_hf.streaming.state import Output, StreamState, alike, rows_of, with_rows

# However many codes come at once, so many go through the layers together.
_FRAMES_AT_ONCE = 256


class CausalDecoding:
    """Runs the layers on new frames, after what they remember of the frames before.

    The state is handed to every call, which gives it other tensors. Its counts and layers:

    - `num_codes`: received;
    - `tail`: (B, 3, hop_length), what the frames so far add to the blocks of the overlap-add that follow them;
    - `backbone.…`: (B, C, l) for each layer that looks back, by its name in the model. A row that has had fewer than l
      frames begins with zeros.
    """

    def __init__(self, model: WavTokenizerDecodingModel, bandwidth_id: int | torch.Tensor | None, batch_size: int):
        ids = model.bandwidth_ids(bandwidth_id, batch_size, model.device)
        self._bandwidth_ids = ids.expand(batch_size, 1)
        self._model, self._batch_size = model, batch_size
        self._names = {module: name for name, module in model.named_modules()}
        self._trim = model.head.trim
        self.latency_frames = self._trim / model.config.hop_length

    def fresh_state(self) -> StreamState:
        head = self._model.head
        tail = head.window.new_zeros(self._batch_size, head.overlap - 1, head.hop_length)
        past = self._model.backbone.fresh_cache(self._batch_size).past
        layers = {"tail": tail, **{self._names[layer]: frames for layer, frames in past.items()}}
        return StreamState.new(self._batch_size, ("num_codes",), layers)

    def push(self, state: StreamState, audio_codes: torch.Tensor, counts: torch.Tensor) -> Output:
        samples = self._nothing(audio_codes.device)
        for begin in range(0, audio_codes.shape[-1], _FRAMES_AT_ONCE):
            some = (counts - begin).clamp(0, _FRAMES_AT_ONCE)
            left = self._left_to_trim(state)
            keys = [(count, trim) if count else None for count, trim in zip(some.tolist(), left, strict=True)]
            for rows, (count, _) in alike(keys):
                samples.add(rows, self._decode(state, rows, rows_of(audio_codes, rows)[..., begin : begin + count]))
        return samples

    def flush(self, state: StreamState, rows: list[int]) -> Output:
        samples = self._nothing(state.layers["tail"].device)
        trims = self._left_to_trim(state)
        for ending, _ in alike([trim if row in rows else None for row, trim in enumerate(trims)]):
            # The last 1.5 hops of the clip lie in two more blocks, which no frame will add to.
            num_codes = state.counts["num_codes"][ending]
            blocks = rows_of(state.layers["tail"], ending)[:, :2]
            samples.add(ending, self._divided(blocks, num_codes, num_codes))
        return samples

    def _nothing(self, device: torch.device) -> Output:
        return Output(torch.zeros(self._batch_size, 1, 0, device=device))

    def _left_to_trim(self, state: StreamState) -> list[int]:
        """How many samples of what comes next lie before the start of each row's clip."""
        begins = state.counts["num_codes"] * self._model.config.hop_length
        return (self._trim - begins).clamp(min=0).tolist()

    def _decode(self, state: StreamState, rows: list[int], audio_codes: torch.Tensor) -> torch.Tensor:
        """The samples that some more codes of rows settle; all of them are as far from the start of their clips."""
        model, head = self._model, self._model.head
        first, num_frames = state.counts["num_codes"][rows], audio_codes.shape[-1]
        layers = {layer: name for layer, name in self._names.items() if name in state.layers}
        cache = LayerCache({layer: rows_of(state.layers[name], rows) for layer, name in layers.items()})
        if (first < max(past.shape[-1] for past in cache.past.values())).any():
            cache.num_frames = first.to(audio_codes.device)
        latents = model.codes_to_latents(audio_codes)
        features, _, _ = model.backbone(latents, rows_of(self._bandwidth_ids, rows), cache=cache)
        for layer, name in layers.items():
            old, new = state.layers[name], cache.past[layer]
            if len(rows) < self._batch_size:
                length = max(old.shape[-1], new.shape[-1])
                old, new = (F.pad(past, (length - past.shape[-1], 0)) for past in (old, new))
            state.layers[name] = with_rows(old, rows, new)
        tail = rows_of(state.layers["tail"], rows)
        blocks = head.overlapped(head.frames(features)) + F.pad(tail, (0, 0, 0, num_frames))
        state.layers["tail"] = with_rows(state.layers["tail"], rows, blocks[:, num_frames:].clone())
        num_codes = state.counts["num_codes"].clone()
        num_codes[rows] += num_frames
        state.counts["num_codes"] = num_codes
        return self._divided(blocks[:, :num_frames], first, num_codes[rows])

    def _divided(self, blocks: torch.Tensor, first: torch.Tensor, num_codes: torch.Tensor) -> torch.Tensor:
        """Samples (B, 1, n) of a clip from sums of frames.

        Args:
            blocks: (B, N, hop_length).
            first: Number of the first of them in each clip, (B,).
            num_codes: Of each clip so far, (B,).
        """
        head = self._model.head
        first, num_codes = first.to(blocks.device)[:, None], num_codes.to(blocks.device)[:, None]
        envelope = head.envelope(first + torch.arange(blocks.shape[1], device=blocks.device), num_codes)
        samples = (blocks / envelope).flatten(1)[:, None]
        begin = int(first[0]) * head.hop_length
        inside = slice(max(0, head.trim - begin), head.trim + int(num_codes[0]) * head.hop_length - begin)
        return samples[..., inside].to(torch.float32)
