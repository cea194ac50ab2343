# Copyright 2026 The wavtokenizer_hf authors. All rights reserved.
#
# Licensed under the MIT License; see the LICENSE file of the project.
"""Configuration of WavTokenizer, and the fingerprint that tells two codecs apart."""

import math
import os
from typing import Any, cast

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .codec_files import copy_code_files, digest_of, stored_form

# Fields that the transformers port of WavTokenizer does not know, with the value under which the two agree. At that
# value they stay out of config.json, so that a folder of ours is a folder of theirs.
_OWN_FIELDS = {"bandwidth_id": 0}

# The least and the most that a field may be: far beyond any codec, and what a machine still survives.
_BOUNDS = {
    "sampling_rate": (1, 10**6),
    "num_filters": (1, 2**12),
    "kernel_size": (1, 2**10),
    "last_kernel_size": (1, 2**10),
    "residual_kernel_size": (1, 2**10),
    "num_residual_layers": (1, 2**6),
    "dilation_growth_rate": (1, 2**6),
    "compress": (1, 2**12),
    "num_lstm_layers": (1, 2**6),
    "hidden_size": (1, 2**14),
    "codebook_size": (1, 2**20),
    "decoder_hidden_size": (1, 2**14),
    "decoder_intermediate_size": (1, 2**16),
    "decoder_num_layers": (1, 2**10),
    "adanorm_num_embeddings": (1, 2**12),
    "decoder_attention_num_groups": (1, 2**14),
}
_MAX_HOP_LENGTH = _MAX_DILATION = 2**16
_MAX_STRIDES = 16
_MAX_LSTM_WIDTH = 2**14

# What decides the codes of a waveform besides the weights.
_ENCODING_FIELDS = (
    "sampling_rate",
    "audio_channels",
    "num_filters",
    "upsampling_ratios",
    "kernel_size",
    "last_kernel_size",
    "residual_kernel_size",
    "num_residual_layers",
    "dilation_growth_rate",
    "compress",
    "use_conv_shortcut",
    "use_causal_conv",
    "pad_mode",
    "norm_type",
    "num_lstm_layers",
    "hidden_size",
    "codebook_size",
)


@strict
class WavTokenizerConfig(PreTrainedConfig):
    """Geometry of a WavTokenizer codec. The defaults are those of the released 40-codes-a-second checkpoints.

    Args:
        sampling_rate: Samples per second of the waveform, in Hz.
        audio_channels: Channels of the waveform; the codec is mono, so only 1 is valid.
        num_filters: Channels after the encoder's first convolution; they double at every strided one.
        upsampling_ratios: Strides of the encoder from last to first (the order in which the original's YAML files list
            them). Their product is the hop length, which must be even.
        kernel_size: Width of the encoder's first convolution.
        last_kernel_size: Width of the encoder's last convolution.
        residual_kernel_size: Width of the first convolution of an encoder residual block.
        num_residual_layers: Residual blocks before each strided convolution.
        dilation_growth_rate: Base of the dilation of consecutive residual blocks.
        compress: Factor by which a residual block narrows its channels.
        use_conv_shortcut: Whether a residual block's shortcut is a 1x1 convolution; else it is the identity.
        use_causal_conv: Whether the encoder's convolutions pad on the left only.
        pad_mode: Padding of the encoder's convolutions, `"reflect"` or `"constant"` (zeros).
        norm_type: Reparametrisation of the encoder's convolutions; only `"weight_norm"`.
        num_lstm_layers: Layers of the encoder's LSTM.
        hidden_size: Width of the latents.
        codebook_size: Number of entries of the codebook.
        codebook_dim: Width of an entry. Nothing projects between latents and codebook, so it must equal `hidden_size`,
            which is what `None` means.
        decoder_hidden_size: Width of the decoder's backbone.
        decoder_intermediate_size: Inner width of a ConvNeXt block.
        decoder_num_layers: Number of ConvNeXt blocks.
        adanorm_num_embeddings: Number of bandwidth ids, each with its own scale and shift in the adaptive layer norms.
        decoder_attention_num_groups: Groups of the decoder's group norms; must divide `decoder_hidden_size`.
        norm_eps: Epsilon of the decoder's norms.
        bandwidth_id: The bandwidth id that `decode` uses when none is given.

    Raises:
        StrictDataclassError: For a value of the wrong type or settings that do not fit together; the message says
            which.

    Source: Paper, section 3; the original's `configs/*.yaml`. Field names follow the transformers port.

    Example:

    ```python
    >>> from wavtokenizer_hf import WavTokenizerConfig

    >>> config = WavTokenizerConfig(upsampling_ratios=[8, 5, 4, 2])
    >>> config.hop_length, config.frame_rate
    (320, 75.0)
    ```
    """

    model_type = "wavtokenizer"
    is_causal = False

    sampling_rate: int = 24000
    audio_channels: int = 1
    num_filters: int = 32
    upsampling_ratios: list[int] | tuple[int, ...] = (6, 5, 5, 4)
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    num_residual_layers: int = 1
    dilation_growth_rate: int = 2
    compress: int = 2
    use_conv_shortcut: bool = True
    use_causal_conv: bool = False
    pad_mode: str = "reflect"
    norm_type: str = "weight_norm"
    num_lstm_layers: int = 2
    hidden_size: int = 512
    codebook_size: int = 4096
    codebook_dim: int | None = None
    decoder_hidden_size: int = 768
    decoder_intermediate_size: int = 2304
    decoder_num_layers: int = 12
    adanorm_num_embeddings: int = 4
    decoder_attention_num_groups: int = 32
    norm_eps: int | float = 1e-6
    bandwidth_id: int = 0

    def __post_init__(self, **kwargs):
        # A list compares equal to what JSON gives back; a tuple does not.
        self.upsampling_ratios = list(self.upsampling_ratios)
        if self.codebook_dim is None:
            self.codebook_dim = self.hidden_size
        # Derived values that a hand-written or foreign config.json may carry: they follow from the fields.
        for derived in ("hop_length", "n_fft", "frame_rate", "bitrate_kbps", "num_quantizers"):
            kwargs.pop(derived, None)
        super().__post_init__(**kwargs)

    @property
    def hop_length(self) -> int:
        """Samples per code."""
        return math.prod(self.upsampling_ratios)

    @property
    def n_fft(self) -> int:
        """Samples per frame of the short-time Fourier transform that the decoder predicts."""
        return 4 * self.hop_length

    @property
    def frame_rate(self) -> float:
        """Codes per second."""
        return self.sampling_rate / self.hop_length

    @property
    def bitrate_kbps(self) -> float:
        """Bits of all codes of a second, in thousands, before any entropy coding."""
        return self.frame_rate * math.log2(self.codebook_size) / 1000

    @property
    def num_quantizers(self) -> int:
        """Codes per frame: always one."""
        return 1

    @property
    def encoder_config(self) -> "WavTokenizerConfig":
        """What transformers' own WavTokenizer builds its encoder from: this configuration.

        Raises:
            ValueError: In a causal codec, of which that one knows nothing.
        """
        if self.is_causal:
            raise ValueError(
                "transformers' own WavTokenizerModel computes no causal codec. Take the one of wavtokenizer_hf."
            )
        return self

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "WavTokenizerConfig":
        """The configuration itself or, of transformers' own WavTokenizer, one of ours with the same fields.

        Raises:
            TypeError: If it is that of another model.
        """
        model_type = getattr(config, "model_type", type(config).__name__)
        if str(model_type).startswith(WavTokenizerConfig.model_type) and hasattr(config, "is_causal"):
            return cast(WavTokenizerConfig, config)  # ours, perhaps of the class that a folder's own code has
        if model_type not in (WavTokenizerConfig.model_type, "wavtokenizer_encoder"):
            raise TypeError(f"Expected the configuration of a WavTokenizer, got one of type {model_type!r}.")
        values = config.to_dict()
        values.pop("model_type")
        return cls.from_dict(values, attn_implementation=config._attn_implementation)

    def validate_architecture(self):
        """Checks that the settings fit together; called by transformers after construction and before saving."""
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"`{name}` must be at least {least} and at most {most}, got {value}.")
            if name.endswith("kernel_size") and value % 2 == 0:
                raise ValueError(f"`{name}` must be odd, got {value}.")
        if not 1 <= len(self.upsampling_ratios) <= _MAX_STRIDES or min(self.upsampling_ratios) < 1:
            raise ValueError(
                f"`upsampling_ratios` must hold 1 to {_MAX_STRIDES} integers of 1 and more, got "
                f"{self.upsampling_ratios[: _MAX_STRIDES + 1]}."
            )
        if self.hop_length > _MAX_HOP_LENGTH:
            raise ValueError(
                f"The product of `upsampling_ratios` must be at most {_MAX_HOP_LENGTH}, got {self.upsampling_ratios}."
            )
        if self.num_filters * 2 ** len(self.upsampling_ratios) > _MAX_LSTM_WIDTH:
            raise ValueError(
                f"`num_filters` doubles with each of `upsampling_ratios`, to {_MAX_LSTM_WIDTH} at most, got "
                f"{self.num_filters} and {self.upsampling_ratios}."
            )
        if self.dilation_growth_rate ** (self.num_residual_layers - 1) > _MAX_DILATION:
            raise ValueError(
                f"`dilation_growth_rate` to the power of `num_residual_layers` - 1 must be at most {_MAX_DILATION}, "
                f"got {self.dilation_growth_rate} and {self.num_residual_layers}."
            )
        if self.hop_length % 2:
            raise ValueError(
                f"The product of `upsampling_ratios` must be even, since the inverse STFT trims 1.5 hops at either "
                f"end; got {self.upsampling_ratios}, product {self.hop_length}."
            )
        if self.audio_channels != 1:
            raise ValueError(f"WavTokenizer is a mono codec: `audio_channels` must be 1, got {self.audio_channels}.")
        if self.codebook_dim != self.hidden_size:
            raise ValueError(
                f"`codebook_dim` must equal `hidden_size` (nothing projects between them), got {self.codebook_dim} "
                f"and {self.hidden_size}. Leave `codebook_dim` out to have it follow `hidden_size`."
            )
        if self.pad_mode not in ("reflect", "constant"):
            raise ValueError(f"`pad_mode` must be 'reflect' or 'constant', got {self.pad_mode!r}.")
        if self.norm_type != "weight_norm":
            raise ValueError(f"`norm_type` must be 'weight_norm', got {self.norm_type!r}.")
        if self.num_filters % self.compress:
            raise ValueError(
                f"`compress` must divide `num_filters`, got compress={self.compress}, num_filters={self.num_filters}."
            )
        if self.decoder_hidden_size % self.decoder_attention_num_groups:
            raise ValueError(
                f"`decoder_attention_num_groups` must divide `decoder_hidden_size`, got "
                f"{self.decoder_attention_num_groups} and {self.decoder_hidden_size}."
            )
        if not 0 < self.norm_eps <= 1:
            raise ValueError(f"`norm_eps` must be above 0 and at most 1, got {self.norm_eps}.")
        if not 0 <= self.bandwidth_id < self.adanorm_num_embeddings:
            raise ValueError(
                f"`bandwidth_id` must lie in 0..{self.adanorm_num_embeddings - 1} (`adanorm_num_embeddings` - 1), got "
                f"{self.bandwidth_id}."
            )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers; the folder of a causal codec gives a `WavTokenizerCausalConfig`.

        Hence all models load such a folder.
        """
        if not cls.is_causal:
            values, _ = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
            if values.get("model_type") == WavTokenizerCausalConfig.model_type:
                return WavTokenizerCausalConfig.from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, in the form that the port reads and writes; see `stored_form`."""
        return stored_form(super().to_dict(), _OWN_FIELDS)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """As in transformers; a configuration that names code files in `auto_map` takes them along.

        Saving a model saves its configuration, so that the model takes them along, too.
        """
        copy_code_files(save_directory, getattr(self, "auto_map", None))
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)


@strict
class WavTokenizerCausalConfig(WavTokenizerConfig):
    """Geometry of a causal WavTokenizer: what it computes never waits for more than a few frames of the future.

    The modules and weights have the names and shapes of the other codec's; its weights are of no use here. Encoder and
    decoder pad on the left only, the decoder norms each frame by itself, and a frame attends to itself and to frames
    before it. Of a clip of samples 0, 1, 2, ...

    - code t depends on samples up to (t + 1) * hop_length - 1, the last one of its own frame;
    - decoded sample n depends on codes up to (n + 1.5 * hop_length) / hop_length, rounded down, because the frames of
      the inverse STFT are four hops wide: k codes settle all but the last 1.5 hops of what they decode to.

    The last frame of a clip that ends within it is encoded as if zeros followed at every layer.

    Args:
        use_causal_conv: Only `True`.
        pad_mode: Only `"constant"`: a reflection at the start would look ahead.
        attention_window: Frames that a frame sees in the decoder's attention, itself and those just before it. `None`
            means all before it, for which a stream needs memory that grows as it lasts.

    The other arguments are those of `WavTokenizerConfig`.

    Deviates: The original is not causal, and no weights of this form were released.
    """

    model_type = "wavtokenizer_causal"
    is_causal = True

    use_causal_conv: bool = True
    pad_mode: str = "constant"
    attention_window: int | None = 256

    def validate_architecture(self):
        """As in `WavTokenizerConfig`, and that nothing looks ahead."""
        super().validate_architecture()
        if not self.use_causal_conv or self.pad_mode != "constant":
            raise ValueError(
                "A causal codec must have `use_causal_conv=True` and `pad_mode='constant'`, got "
                f"{self.use_causal_conv} and {self.pad_mode!r}. Leave both out, or take a WavTokenizerConfig."
            )
        if self.attention_window is not None and self.attention_window < 1:
            raise ValueError(f"`attention_window` must be at least 1 frame or None, got {self.attention_window}.")
        if self.decoder_hidden_size == self.decoder_attention_num_groups:
            raise ValueError(
                "`decoder_attention_num_groups` must be less than `decoder_hidden_size`, got "
                f"{self.decoder_hidden_size} for both: the norm of one channel of one frame is 0."
            )


def fingerprint(model: torch.nn.Module) -> str:
    """Identifies the mapping from waveforms to codes that a model computes.

    Two models with the same fingerprint give the same codes and mean the same by them; it goes into every file of
    codes. It is the same for both key layouts, for the encoder alone, on every device, and before and after `fuse()`.
    It covers the weights as the model holds them, so a model cast to another dtype has another fingerprint.

    Args:
        model: A `WavTokenizerModel` or `WavTokenizerEncoderModel`.

    Returns:
        64 hexadecimal digits (SHA-256 over the settings and weights that encoding depends on).

    Raises:
        ValueError: If the model has no encoder, or if some of its weights are not in memory (meta or offloaded).
    """
    encoder_model: Any = getattr(model, "encoder_model", model)
    if not hasattr(encoder_model, "encoder"):
        raise ValueError(
            f"A fingerprint covers the encoder, and {type(model).__name__} has none. Take it from a WavTokenizerModel "
            "or a WavTokenizerEncoderModel."
        )
    settings = {name: getattr(encoder_model.config, name) for name in _ENCODING_FIELDS}
    digest = digest_of(
        settings,
        {
            name: tensor
            for name, tensor in encoder_model.state_dict().items()
            if name.startswith(("encoder.", "quantizer.codebook.embed")) and not name.endswith("embed_avg")
        },
    )
    # A fused encoder holds other tensors, which compute the same.
    before_fusing = getattr(encoder_model, "fingerprints_before_fusing", {})
    return before_fusing.get(digest, digest)


__all__ = ["WavTokenizerCausalConfig", "WavTokenizerConfig"]
