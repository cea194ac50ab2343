"""The plain path: the codec's arithmetic step by step, as the original does it and its users have it.

Weight norm is evaluated in every call, the whole clip passes each layer at once, convolutions run over (B, C, L) as it
lies in memory, attention holds its (L, L) matrix, and nothing is compiled. It shares no code with the package, only
the weights, and so serves as the baseline of speed and memory, whatever becomes of the package's own paths.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from wavtokenizer_hf import WavTokenizerModel


class PlainCodec:
    """Encodes and decodes with the weights of a model, on the model's device.

    Args:
        model: A codec with the layers of the released ones, not fused.

    Source: `encoder/modules/seanet.py`, `encoder/modules/conv.py`, `encoder/quantization/core_vq.py`,
        `decoder/models.py`, `decoder/modules.py`, `decoder/spectral_ops.py` of the original.
    Deviates: Takes no clip that is too short to reflect, and no padding mask.

    Raises:
        ValueError: If the model is causal, or fused.
    """

    def __init__(self, model: WavTokenizerModel):
        if model.config.is_causal or model.is_fused:
            raise ValueError("the plain path is that of a non-causal model with its weight norm; load one afresh")
        self.config = model.config
        self.weights = model.state_dict()
        width = model.config.num_filters * 2 ** len(model.config.upsampling_ratios)
        self.lstm = nn.LSTM(width, width, model.config.num_lstm_layers).to(model.device)
        prefix = f"encoder_model.encoder.layers.{3 * len(model.config.upsampling_ratios) + 1}.lstm."
        self.lstm.load_state_dict(
            {name.removeprefix(prefix): tensor for name, tensor in self.weights.items() if name.startswith(prefix)}
        )
        self.window = torch.hann_window(model.config.n_fft, device=model.device)

    def encode(self, input_values: torch.Tensor) -> torch.Tensor:
        """(B, 1, T) -> codes (B, 1, L)."""
        config = self.config
        hidden = self._convolve(input_values, "0")
        layer = 1
        for ratio in reversed(config.upsampling_ratios):
            branch = self._convolve(F.elu(hidden), f"{layer}.block.1")
            branch = self._convolve(F.elu(branch), f"{layer}.block.3")
            hidden = self._convolve(hidden, f"{layer}.shortcut") + branch
            hidden = self._convolve(F.elu(hidden), f"{layer + 2}", stride=ratio)
            layer += 3
        sequence = hidden.permute(2, 0, 1)  # (B, C, L) -> (L, B, C)
        sequence = self.lstm(sequence)[0] + sequence
        latents = self._convolve(F.elu(sequence.permute(1, 2, 0)), f"{layer + 2}")  # (L, B, C) -> (B, D, L)

        vectors = latents.transpose(1, 2).flatten(0, 1)  # (B * L, D)
        entries = self.weights["encoder_model.quantizer.codebook.embed"].t()
        distance = vectors.pow(2).sum(1, keepdim=True) - 2 * vectors @ entries + entries.pow(2).sum(0, keepdim=True)
        return (-distance).max(dim=-1).indices.view(len(latents), 1, -1)

    def decode(self, audio_codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, 1, L) -> audio (B, 1, T)."""
        entries = self.weights["encoder_model.quantizer.codebook.embed"]
        hidden = self._frames(F.embedding(audio_codes[:, 0], entries).transpose(1, 2), "backbone.embed", padding=3)
        for index in (0, 1):
            hidden = self._residual(hidden, f"backbone.pos_net.{index}")
        hidden = self._attend(hidden, "backbone.pos_net.2")
        for index in (3, 4):
            hidden = self._residual(hidden, f"backbone.pos_net.{index}")
        hidden = self._group_norm(hidden, "backbone.pos_net.5")
        hidden = self._adaptive_norm(hidden.transpose(1, 2), "backbone.norm").transpose(1, 2)
        for index in range(self.config.decoder_num_layers):
            hidden = self._convnext(hidden, f"backbone.convnext.{index}")
        features = F.layer_norm(
            hidden.transpose(1, 2),
            hidden.shape[1:2],
            self.weights["backbone.final_layer_norm.weight"],
            self.weights["backbone.final_layer_norm.bias"],
            self.config.norm_eps,
        )
        return self._to_audio(self._linear(features, "head.linear"))[:, None]

    def _convolve(self, hidden: torch.Tensor, layer: str, stride: int = 1) -> torch.Tensor:
        """A weight-normalised convolution of the encoder over a reflected signal."""
        name = f"encoder_model.encoder.layers.{layer}.conv"
        magnitude, direction = (
            self.weights[f"{name}.parametrizations.weight.{part}"] for part in ("original0", "original1")
        )
        weight: Any = torch._weight_norm(direction, magnitude, 0)
        total = weight.shape[-1] - stride
        right = total // 2
        beyond = math.ceil(hidden.shape[-1] / stride) * stride - hidden.shape[-1]
        padded = F.pad(hidden, (total - right, right + beyond), mode="reflect")
        return F.conv1d(padded, weight, self.weights[f"{name}.bias"], stride)

    def _frames(self, hidden: torch.Tensor, name: str, padding: int = 0, groups: int = 1) -> torch.Tensor:
        weight, bias = self._affine(name)
        return F.conv1d(hidden, weight, bias, padding=padding, groups=groups)

    def _linear(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(hidden, *self._affine(name))

    def _group_norm(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        return F.group_norm(
            hidden, self.config.decoder_attention_num_groups, *self._affine(name), eps=self.config.norm_eps
        )

    def _adaptive_norm(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        scale, shift = (self.weights[f"{name}.{part}.weight"][self.config.bandwidth_id] for part in ("scale", "shift"))
        return F.layer_norm(hidden, hidden.shape[-1:], eps=self.config.norm_eps) * scale + shift

    def _residual(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        branch = hidden
        for index in (1, 2):
            branch = self._group_norm(branch, f"{name}.norm{index}")
            branch = self._frames(branch * torch.sigmoid(branch), f"{name}.conv{index}", padding=1)
        return hidden + branch

    def _attend(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        normed = self._group_norm(hidden, f"{name}.norm")
        query, key, value = (self._frames(normed, f"{name}.{part}") for part in "qkv")  # (B, D, L) each
        scores = torch.bmm(query.transpose(1, 2), key) * hidden.shape[1] ** -0.5  # (B, L, L)
        attended = torch.bmm(value, F.softmax(scores, dim=-1).transpose(1, 2))
        return hidden + self._frames(attended, f"{name}.proj_out")

    def _convnext(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        branch = self._frames(hidden, f"{name}.dwconv", padding=3, groups=hidden.shape[1])
        branch = self._adaptive_norm(branch.transpose(1, 2), f"{name}.norm")  # (B, D, L) -> (B, L, D)
        branch = self._linear(F.gelu(self._linear(branch, f"{name}.pwconv1")), f"{name}.pwconv2")
        return hidden + (self.weights[f"{name}.gamma"] * branch).transpose(1, 2)

    def _to_audio(self, spectrum: torch.Tensor) -> torch.Tensor:
        """Log-magnitudes and phases (B, L, 2 F) -> (B, T)."""
        n_fft, hop_length = self.config.n_fft, self.config.hop_length
        log_magnitude, phase = spectrum.transpose(1, 2).chunk(2, dim=1)  # (B, F, L) each
        magnitude = torch.clip(log_magnitude.exp(), max=100.0)
        spectrum = magnitude * (torch.cos(phase) + 1j * torch.sin(phase))
        frames = torch.fft.irfft(spectrum, n_fft, dim=1) * self.window[:, None]  # (B, n_fft, L)
        squares = self.window.square()[:, None].expand(1, n_fft, frames.shape[-1])
        sizes = (1, (frames.shape[-1] - 1) * hop_length + n_fft), (1, n_fft)
        added, envelope = (F.fold(each, *sizes, stride=(1, hop_length))[:, 0, 0] for each in (frames, squares))
        trim = (n_fft - hop_length) // 2
        return (added / envelope)[:, trim:-trim]

    def _affine(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
