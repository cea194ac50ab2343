"""Stand-ins with the calls, axes and habits of the original repository and of OuteTTS's codec, for comparison.

They compute with the parts of one of our models: that these equal the original's is what `tests/parity` proves.
Whether the axes are the original's is checked against its stored outputs.
"""

from types import SimpleNamespace
from typing import Any

import soundfile
import torch
import torchaudio

from wavtokenizer_hf import WavTokenizerModel


class WavTokenizer:
    """The original's `decoder/pretrained.py: WavTokenizer`, of which `model` does the arithmetic."""

    model: WavTokenizerModel

    def __init__(self) -> None:
        layer = SimpleNamespace(codebook=self.model.encoder_model.quantizer.codebook.embed)
        quantizer = SimpleNamespace(vq=SimpleNamespace(layers=[layer]))
        self.feature_extractor = SimpleNamespace(encodec=SimpleNamespace(quantizer=quantizer))
        self._codebook = layer.codebook

    @classmethod
    def from_pretrained0802(cls, config_path: str, model_path: str) -> "WavTokenizer":
        return cls()

    @torch.inference_mode()
    def encode_infer(self, audio_input: torch.Tensor, *, bandwidth_id: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Waveforms (B, T) to features (B, D, L) and codes (n_q, B, L)."""
        num_clips, _ = audio_input.shape  # the original fails on other numbers of axes, too
        latents, _ = self.model.encoder_model.encoder(audio_input[:, None])
        distances = torch.cdist(latents.transpose(1, 2), self._codebook.expand(num_clips, -1, -1))
        codes = distances.argmin(dim=-1)[None]
        return self.codes_to_features(codes), codes

    encode = encode_infer

    @torch.inference_mode()
    def codes_to_features(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (n_q, L) or (n_q, B, L) to features (B, D, L)."""
        if codes.ndim == 2:
            codes = codes[:, None]
        return self._codebook[codes].sum(dim=0).transpose(1, 2)

    @torch.inference_mode()
    def decode(self, features_input: torch.Tensor, *, bandwidth_id: torch.Tensor) -> torch.Tensor:
        """Features (B, D, L) to waveforms (B, L * hop)."""
        hidden_states, _, _ = self.model.backbone(features_input, bandwidth_id)
        return self.model.head(hidden_states)

    def __call__(self, audio_input: torch.Tensor, *, bandwidth_id: torch.Tensor) -> torch.Tensor:
        features, _ = self.encode_infer(audio_input, bandwidth_id=bandwidth_id)
        return self.decode(features, bandwidth_id=bandwidth_id)


def convert_audio(wav: torch.Tensor, sr: int, target_sr: int, target_channels: int) -> torch.Tensor:
    """(channels, samples) to (1, samples): the original's `encoder/utils.py: convert_audio`, to mono."""
    assert wav.shape[-2] in (1, 2)
    assert target_channels == 1
    return torchaudio.transforms.Resample(sr, target_sr)(wav.mean(-2, keepdim=True))


def load(path: str) -> tuple[torch.Tensor, int]:
    """`torchaudio.load`, which its last release hands to a package of its own."""
    samples, sampling_rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), sampling_rate


def save(path: str, audio: torch.Tensor, sample_rate: int, encoding: str, bits_per_sample: int) -> None:
    """`torchaudio.save` of (channels, samples)."""
    assert audio.ndim == 2
    soundfile.write(path, audio.numpy().T, sample_rate, subtype=f"{encoding.removesuffix('_S')}_{bits_per_sample}")


class AudioCodec:
    """OuteTTS's `wav_tokenizer/audio_codec.py: AudioCodec` (`v0_1/audio_codec.py` at first)."""

    sr = 24000

    def __init__(self, device: str | None = None) -> None:
        self._wavtokenizer = WavTokenizer()
        self._bandwidth_id = torch.tensor([0])

    def convert_audio_tensor(self, audio: torch.Tensor, sr: int) -> torch.Tensor:
        return convert_audio(audio, sr, self.sr, 1)

    def load_audio(self, path: str) -> torch.Tensor:
        return self.convert_audio_tensor(*load(path))

    def encode(self, audio: torch.Tensor) -> torch.Tensor:
        return self._wavtokenizer.encode_infer(audio, bandwidth_id=self._bandwidth_id)[1]

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self._wavtokenizer.decode(self._wavtokenizer.codes_to_features(codes), bandwidth_id=self._bandwidth_id)

    def save_audio(self, audio: torch.Tensor, path: str) -> None:
        save(path, audio, self.sr, encoding="PCM_S", bits_per_sample=16)


def names(model: WavTokenizerModel) -> dict[str, Any]:
    """The names that code written for the original or for OuteTTS uses."""
    WavTokenizer.model = model
    return {
        "torch": torch,
        "torchaudio": SimpleNamespace(load=load, save=save),
        "convert_audio": convert_audio,
        "WavTokenizer": WavTokenizer,
        "AudioCodec": AudioCodec,
    }
