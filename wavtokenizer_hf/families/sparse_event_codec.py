"""The codec of sparse events: two codes per event, as many events as the sound has."""

from typing import Any

import torch

from wavtokenizer_hf.codec_files import digest_of
from wavtokenizer_hf.codecs.codec import Codec, Codes, StreamDecoder, StreamEncoder, num_samples_of
from wavtokenizer_hf.codecs.spec import CodecSpec
from wavtokenizer_hf.configuration_sparse_event_codec import SparseEventCodecConfig
from wavtokenizer_hf.feature_extraction_sparse_event_codec import SparseEventCodecFeatureExtractor
from wavtokenizer_hf.modeling_sparse_event_codec import SparseEventCodecEncoderOutput, SparseEventCodecModel
from wavtokenizer_hf.streaming.event_decoder import StreamingEventDecoder
from wavtokenizer_hf.streaming.event_encoder import StreamingEventEncoder


class SparseEventCodec(Codec):
    """Events as frames of two codes: of onset and gain, and of the vector.

    After the events of each window stands a frame that ends it, whose first code is the one behind those of onset and
    gain, and the second 0. So codes alone tell which events are of which window, however many it has.

    Raises:
        ValueError: If the model's events have no codes.
    """

    model_types = ("sparse_event_codec",)
    config_class = SparseEventCodecConfig
    whole_class = SparseEventCodecModel
    extractor_class = SparseEventCodecFeatureExtractor
    card_template = "sparse_event_codec_card.md.j2"

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        if model.config.renderer != "oscillator":
            raise ValueError(
                f"Codes stand for events of the renderer 'oscillator' only, and this model's is "
                f"{model.config.renderer!r}. Use its own `encode` and `render`."
            )

    @classmethod
    def spec_of(cls, config: SparseEventCodecConfig, name: str = "", fingerprint: str | None = None) -> CodecSpec:
        onsets, vectors = config.codebook_sizes
        return CodecSpec(
            sampling_rate=config.sampling_rate,
            hop_length=None,
            codebook_sizes=(onsets + 1, vectors),
            model_type=config.model_type,
            fingerprint=fingerprint or "",
            name=name,
        )

    def take_fingerprint(self) -> str:
        fields = [name for name in SparseEventCodecConfig.__annotations__ if name != "model_type"]
        return digest_of({name: getattr(self.config, name) for name in fields}, self.model.state_dict())

    def encode(self, input_values: torch.Tensor, padding_mask: torch.Tensor | None = None) -> Codes:
        events = self.model.encode(input_values, padding_mask)
        clips = [
            self.frames_of(codes, mask) for codes, mask in zip(events.event_codes, events.event_mask, strict=True)
        ]
        lengths = torch.tensor([clip.shape[-1] for clip in clips], device=input_values.device)
        longest = int(lengths.max())
        padded = [torch.nn.functional.pad(clip, (0, longest - clip.shape[-1])) for clip in clips]
        mask = torch.arange(longest, device=input_values.device) < lengths[:, None]
        num_samples = num_samples_of(input_values, padding_mask)
        return Codes(torch.stack(padded), None if mask.all() else mask, num_samples)

    def decode(
        self,
        audio_codes: torch.Tensor,
        mask: torch.Tensor | None = None,
        num_samples: int | None = None,
        **options: Any,
    ) -> torch.Tensor:
        clips = Codes(audio_codes, mask, [])
        decoded = [
            self.model.render(self.events_of(clips.of_clip(row)), num_samples).audio_values
            for row in range(len(audio_codes))
        ]
        longest = max(clip.shape[-1] for clip in decoded)
        return torch.cat([torch.nn.functional.pad(clip, (0, longest - clip.shape[-1])) for clip in decoded])

    def stream_encoder(self, batch_size: int = 1) -> StreamEncoder:
        return _EventStreamEncoder(self, batch_size)

    def stream_decoder(self, is_long: bool = False, **options: Any) -> StreamDecoder:
        return _EventStreamDecoder(self)

    @classmethod
    def auto_map(cls, config: SparseEventCodecConfig) -> dict[str, str]:
        return {
            "AutoConfig": "configuration_sparse_event_codec.SparseEventCodecConfig",
            "AutoModel": "modeling_sparse_event_codec.SparseEventCodecModel",
            "AutoFeatureExtractor": "feature_extraction_sparse_event_codec.SparseEventCodecFeatureExtractor",
        }

    @property
    def end_of_window(self) -> int:
        """The first code of a frame that ends a window."""
        return self.spec.codebook_sizes[0] - 1

    def frames_of(self, event_codes: torch.Tensor, event_mask: torch.Tensor) -> torch.Tensor:
        """Frames (2, L) of places (K, 2) of whole windows."""
        end = event_codes.new_tensor([[self.end_of_window, 0]])
        frames = []
        for start in range(0, len(event_codes), self.config.num_events):
            window = slice(start, start + self.config.num_events)
            frames += [event_codes[window][event_mask[window]], end]
        return torch.cat(frames).T if frames else event_codes.new_zeros(2, 0)

    def events_of(self, frames: torch.Tensor) -> SparseEventCodecEncoderOutput:
        """The events (1, K) of frames (2, L) of whole windows, with as many places per window as the fullest needs.

        Raises:
            ValueError: If the last window is not ended.
        """
        ends = (frames[0] == self.end_of_window).nonzero()[:, 0]
        if frames.shape[-1] and (not len(ends) or int(ends[-1]) != frames.shape[-1] - 1):
            raise ValueError(
                f"The codes end within a window: the last frame must be ({self.end_of_window}, 0), which ends it."
            )
        starts = torch.cat([ends.new_zeros(1), ends[:-1] + 1])[: len(ends)]
        num_places = max(int((ends - starts).max()), self.config.num_events) if len(ends) else 1
        codes = frames.new_zeros(len(ends), num_places, 2)
        for window, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            codes[window, : end - start] = frames[:, start:end].T
        mask = torch.arange(num_places, device=frames.device) < (ends - starts)[:, None]
        return self.model.events_of(codes.reshape(1, -1, 2), mask.reshape(1, -1), num_places)


class _EventStreamEncoder:
    def __init__(self, codec: SparseEventCodec, batch_size: int):
        if batch_size != 1:
            raise ValueError(f"A stream of events has one row, got `batch_size` {batch_size}.")
        self._codec, self._stream = codec, StreamingEventEncoder(codec.model)

    def push(self, samples: torch.Tensor) -> torch.Tensor:
        return self._of(self._stream.push(samples))

    def flush(self) -> torch.Tensor:
        return self._of(self._stream.flush())

    def reset(self) -> None:
        self._stream.reset()

    def _of(self, events: SparseEventCodecEncoderOutput) -> torch.Tensor:
        return self._codec.frames_of(events["event_codes"][0], events["event_mask"][0])[None]


class _EventStreamDecoder:
    def __init__(self, codec: SparseEventCodec):
        self._codec, self._stream = codec, StreamingEventDecoder(codec.model)
        self.reset()

    def reset(self) -> None:
        self._stream.reset()
        self._held: torch.Tensor | None = None
        self._num_windows = 0

    def push(self, audio_codes: torch.Tensor) -> torch.Tensor:
        held = audio_codes[0] if self._held is None else torch.cat([self._held, audio_codes[0]], dim=-1)
        ends = (held[0] == self._codec.end_of_window).nonzero()[:, 0]
        num_whole = int(ends[-1]) + 1 if len(ends) else 0
        self._held = held[:, num_whole:]
        events = self._codec.events_of(held[:, :num_whole])
        done = self._num_windows * self._codec.config.selection_samples
        events["event_onsets"] = events["event_onsets"] + done * events["event_mask"]
        self._num_windows += len(ends)
        if len(ends):
            self._stream.num_events = events["event_mask"].shape[1] // len(ends)
        return self._stream.push(events)

    def flush(self) -> torch.Tensor:
        if self._held is not None and self._held.shape[-1]:
            self._codec.events_of(self._held)  # which says that the last window was not ended
        return self._stream.flush()
