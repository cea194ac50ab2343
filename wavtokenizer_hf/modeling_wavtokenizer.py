# Copyright 2026 The wavtokenizer_hf authors. All rights reserved.
#
# Licensed under the MIT License; see the LICENSE file of the project.
"""WavTokenizer: encoder, quantizer, backbone, inverse-STFT head, and the models made of them.

Shapes: B batch, C channels, T samples, L frames (one code each), D width, F frequency bins.

Where clips of a batch differ in length, `num_valid` (B,) counts the valid positions of each clip at the rate of the
tensor at hand, and `frame_mask` (B, 1, L) marks them; both are None when nothing is padded. Every clip gets what it
gets alone: the encoder reflects each clip at its own end, and the decoder's norms, attention and overlap-add see valid
frames only.
"""

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedAudioTokenizerBase
from transformers.utils import ModelOutput, can_return_tuple

from .arithmetic_wavtokenizer import (
    WHOLE,
    Float32Buffers,
    Padding,
    Piece,
    Reach,
    WavTokenizerConvolution,
    by_position,
    computed_weights,
    convolve,
    fast_elu,
    fast_lstm,
    fuse_weight_norm,
    in_blocks,
    in_pieces,
    is_fused,
    join,
    last_may_see,
    runs_near_caches,
    scan_lstm,
    without_autocast,
)
from .checks_wavtokenizer import check_bandwidth_ids, check_codes, check_input_values, check_mask, is_finite
from .codec_files import give_usual_modes
from .configuration_wavtokenizer import WavTokenizerCausalConfig, WavTokenizerConfig, fingerprint
from .nearest_wavtokenizer import nearest_entries

AnyModule = TypeVar("AnyModule", bound=nn.Module)
AnyFunction = TypeVar("AnyFunction", bound=Callable)

# The original draws the weights of the backbone's first convolution and of its ConvNeXt blocks from this normal
# distribution (cut off at two), and starts their layer scale at one over their number; all else as torch does.
_BACKBONE_INIT_STD = 0.02
_DECODER_DROPOUT = 0.1
_MAX_MAGNITUDE = 100.0


@dataclass
class WavTokenizerEncoderOutput(ModelOutput):
    """What `encode` returns.

    Args:
        audio_codes: int64 (B, 1, L), in 0..codebook_size - 1; 0 past a clip's end.
        audio_codes_mask: (B, 1, L), 1 where a code belongs to the clip; in the dtype of the padding mask.
        encoder_latents: (B, D, L), the encoder's output before quantization; 0 past a clip's end. On request.
        quantized_latents: (B, D, L), the codebook's entries; 0 past a clip's end. On request.
        encoder_hidden_states: The outputs of the encoder's convolutions that change the rate, of its LSTM and of its
            last convolution, each (B, C, length at that layer). Positions past a clip's end hold no meaning. On
            request.
    """

    audio_codes: torch.Tensor | None = None
    audio_codes_mask: torch.Tensor | None = None
    encoder_latents: torch.Tensor | None = None
    quantized_latents: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class WavTokenizerDecoderOutput(ModelOutput):
    """What `decode` returns.

    Args:
        audio_values: float32 (B, 1, L * hop_length), 0 past a clip's end.
        decoder_hidden_states: The input of the first ConvNeXt block and the output of each, (B, D, L). On request.
        decoder_attentions: The attention weights of the one attention layer, (B, 1, L, L). On request.
    """

    audio_values: torch.Tensor | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class WavTokenizerOutput(ModelOutput):
    """What `forward` returns: the reconstruction, cut to the input's length, and the codes it was made from.

    Args:
        audio_values: float32 (B, 1, T), 0 past a clip's end.
        audio_codes: int64 (B, 1, L).
        audio_codes_mask: (B, 1, L).
        encoder_hidden_states: As in `WavTokenizerEncoderOutput`.
        decoder_hidden_states: As in `WavTokenizerDecoderOutput`.
        decoder_attentions: As in `WavTokenizerDecoderOutput`.
    """

    audio_values: torch.Tensor | None = None
    audio_codes: torch.Tensor | None = None
    audio_codes_mask: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None


def _documented_as(function: Callable) -> Callable[[AnyFunction], AnyFunction]:
    """Gives a method the docstring of the one that it calls."""

    def document(method: AnyFunction) -> AnyFunction:
        method.__doc__ = function.__doc__
        return method

    return document


def _initialised(module: AnyModule, **how: float) -> AnyModule:
    """Notes on a torch module how `_init_weights` sets it: cut normal of a `std`, or a constant `value`.

    It must stand on the module that owns the tensors: transformers passes over those that own none.
    """
    module.__dict__["initialisation"] = how
    return module


# ---------------------------------------------------------------------------------------------------------- encoder


class WavTokenizerConv1d(nn.Module):
    """Weight-normalised convolution whose output has ceil(length / stride) frames for any length of 1 and more.

    The padding totals kernel extent - stride, and at the right end as much again as fills the last stride. It reflects
    the signal (or repeats zeros). A signal that is too short to reflect is first extended with zeros on the right,
    and the surplus is dropped after padding.

    Source: `encoder/modules/conv.py: SConv1d, pad1d` of the original.
    Deviates: In a batch, each clip is padded at its own end; a piece of a clip is not padded where the clip goes on.
    """

    def __init__(
        self,
        config: WavTokenizerConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
    ):
        super().__init__()
        conv = WavTokenizerConvolution(in_channels, out_channels, kernel_size, stride=stride, dilation=dilation)
        self.conv = weight_norm(conv)
        total = (kernel_size - 1) * dilation + 1 - stride
        right = 0 if config.use_causal_conv else total // 2
        self.padding = Padding(total - right, right, stride, reflects=config.pad_mode == "reflect")

    def forward(self, hidden_states: torch.Tensor, piece: Piece = WHOLE) -> torch.Tensor:
        """Convolves (B, C, length) into (B, C', ceil(length / stride)), less what was context."""
        return self.conv(self.padding.pad(hidden_states, piece), piece.weights.get(self.conv))


class WavTokenizerELU(nn.Module):
    """ELU, as `fast_elu` in float32 on a CPU."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        is_fast = hidden_states.dtype == torch.float32 and runs_near_caches(self, hidden_states)
        return fast_elu(hidden_states) if is_fast else F.elu(hidden_states)


class WavTokenizerResidualBlock(GradientCheckpointingLayer):
    """Two activated convolutions, the first dilated, around a narrower width, and a shortcut past them.

    Source: `encoder/modules/seanet.py: SEANetResnetBlock` of the original.
    """

    def __init__(self, config: WavTokenizerConfig, num_channels: int, dilation: int):
        super().__init__()
        narrow = num_channels // config.compress
        self.block = nn.ModuleList(
            [
                WavTokenizerELU(),
                WavTokenizerConv1d(config, num_channels, narrow, config.residual_kernel_size, dilation=dilation),
                WavTokenizerELU(),
                WavTokenizerConv1d(config, narrow, num_channels, kernel_size=1),
            ]
        )
        self.shortcut: WavTokenizerConv1d | nn.Identity = nn.Identity()
        if config.use_conv_shortcut:
            self.shortcut = WavTokenizerConv1d(config, num_channels, num_channels, kernel_size=1)

    @property
    def padding(self) -> Padding:
        """That of the dilated convolution, the only one that looks beyond a position."""
        return cast(WavTokenizerConv1d, self.block[1]).padding

    def forward(self, hidden_states: torch.Tensor, piece: Piece = WHOLE) -> torch.Tensor:
        activation, dilated, last_activation, pointwise = self.block
        residual = piece.without_context(hidden_states, self.padding)
        hidden_states = last_activation(dilated(activation(hidden_states), piece))
        if isinstance(self.shortcut, WavTokenizerConv1d):
            residual = self.shortcut(residual, piece)
        return residual + pointwise(hidden_states, piece)


class WavTokenizerLSTM(nn.Module):
    """A unidirectional LSTM over time with a skip around the whole stack.

    Source: `encoder/modules/lstm.py: SLSTM` of the original.
    """

    def __init__(self, num_channels: int, num_layers: int):
        super().__init__()
        self.lstm = nn.LSTM(num_channels, num_channels, num_layers)

    def forward(
        self, hidden_states: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
        """Maps (B, C, L) to (B, C, L), and the state before (zeros where it is `None`) to the state after.

        A state is what `nn.LSTM` takes and returns, two tensors (layers, B, C).
        """
        sequence = hidden_states.permute(2, 0, 1)  # (B, C, L) -> (L, B, C)
        if torch.compiler.is_exporting():
            output = scan_lstm(self.lstm, sequence)
        elif runs_near_caches(self, sequence):
            output, state = fast_lstm(self.lstm, sequence, state)
        else:
            output, state = self.lstm(sequence, state)
        return (output + sequence).permute(1, 2, 0), state  # (L, B, C) -> (B, C, L)


class WavTokenizerStage(NamedTuple):
    """What the encoder does at one rate: residual blocks, then a strided convolution to twice the width."""

    residual_blocks: list[WavTokenizerResidualBlock]
    activation: WavTokenizerELU
    downsampling: WavTokenizerConv1d


class WavTokenizerEncoder(nn.Module):
    """SEANet encoder: a convolution, stages of residual blocks and a strided one, an LSTM, and a last convolution.

    The index of a layer is its index in the original, activations counted, since it names the layer's weights.

    Source: Paper, section 3.1; `encoder/modules/seanet.py: SEANetEncoder` of the original.
    """

    def __init__(self, config: WavTokenizerConfig):
        super().__init__()
        width = config.num_filters
        layers: list[nn.Module] = [WavTokenizerConv1d(config, config.audio_channels, width, config.kernel_size)]
        for ratio in reversed(config.upsampling_ratios):
            for depth in range(config.num_residual_layers):
                layers.append(WavTokenizerResidualBlock(config, width, config.dilation_growth_rate**depth))
            layers.append(WavTokenizerELU())
            layers.append(WavTokenizerConv1d(config, width, 2 * width, 2 * ratio, stride=ratio))
            width *= 2
        layers.append(WavTokenizerLSTM(width, config.num_lstm_layers))
        layers.append(WavTokenizerELU())
        layers.append(WavTokenizerConv1d(config, width, config.hidden_size, config.last_kernel_size))
        self.layers = nn.ModuleList(layers)
        self.layers_in_stage = config.num_residual_layers + 2
        self.reach = Reach.of(layer.padding for layer in self.convolutions)
        self.numbers_per_frame = config.num_filters * config.hop_length

    @property
    def first_convolution(self) -> WavTokenizerConv1d:
        return cast(WavTokenizerConv1d, self.layers[0])

    @property
    def stages(self) -> Iterator[WavTokenizerStage]:
        every: list[Any] = list(self.layers)
        _, *layers, _, _, _ = every
        for begin in range(0, len(layers), self.layers_in_stage):
            *residual_blocks, activation, downsampling = layers[begin : begin + self.layers_in_stage]
            yield WavTokenizerStage(residual_blocks, activation, downsampling)

    @property
    def lstm(self) -> WavTokenizerLSTM:
        return cast(WavTokenizerLSTM, self.layers[-3])

    @property
    def last_activation(self) -> WavTokenizerELU:
        return cast(WavTokenizerELU, self.layers[-2])

    @property
    def last_convolution(self) -> WavTokenizerConv1d:
        return cast(WavTokenizerConv1d, self.layers[-1])

    @property
    def convolutions(self) -> list[WavTokenizerConv1d | WavTokenizerResidualBlock]:
        """What lies before the LSTM and looks beyond a position, in its order."""
        convolutions: list[Any] = [self.first_convolution]
        for stage in self.stages:
            convolutions += [*stage.residual_blocks, stage.downsampling]
        return convolutions

    def forward(
        self, input_values: torch.Tensor, num_valid: torch.Tensor | None = None, output_hidden_states: bool = False
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """Maps (B, 1, T) to latents (B, D, L), and to the hidden states where they are asked for."""
        recorded: list[torch.Tensor] | None = [] if output_hidden_states else None
        piece = Piece(num_valid=num_valid)
        if recorded is not None or torch.compiler.is_compiling():
            hidden_states = self.convolve(input_values, piece, recorded)
        else:
            hidden_states = self.convolve_in_pieces(input_values, piece)
        hidden_states, _ = self.lstm(hidden_states)
        if recorded is not None:
            recorded.append(hidden_states)
        if num_valid is not None:
            piece = Piece(num_valid=-(-num_valid // self.reach.hop_length))
        latents = self.project(hidden_states, piece)
        return latents, None if recorded is None else (*recorded, latents)

    def convolve(
        self, input_values: torch.Tensor, piece: Piece = WHOLE, recorded: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The layers before the LSTM: (B, 1, T) -> (B, C, L).

        Args:
            input_values: (B, 1, T).
            piece: What it is of its clips; context that it begins and ends with is used up.
            recorded: Takes the outputs of the convolutions that change rate or width.
        """
        hidden_states = input_values.to(self.first_convolution.conv.bias.dtype)
        # One channel: the memory is the same in either order, but its strides tell the convolution which one is meant.
        hidden_states = hidden_states.reshape(hidden_states.shape[0], -1, 1).transpose(1, 2)
        hidden_states = self.first_convolution(hidden_states, piece)
        piece = piece.after(self.first_convolution.padding)
        if recorded is not None:
            recorded.append(hidden_states)
        for stage in self.stages:
            for block in stage.residual_blocks:
                hidden_states = block(hidden_states, piece)
                piece = piece.after(block.padding)
            hidden_states = stage.downsampling(stage.activation(hidden_states), piece)
            piece = piece.after(stage.downsampling.padding)
            if recorded is not None:
                recorded.append(hidden_states)
        return hidden_states

    def convolve_in_pieces(self, input_values: torch.Tensor, piece: Piece = WHOLE) -> torch.Tensor:
        """As `convolve`, of clips of any length, in what the caches hold.

        See `in_pieces` on the context of what is not whole, and on what lies past the end of a clip.
        """
        return in_pieces(
            self.convolve,
            self.reach,
            self.numbers_per_frame,
            input_values,
            piece,
            lambda: computed_weights(self),
            fills_up=runs_near_caches(self, input_values),
        )

    def project(self, hidden_states: torch.Tensor, piece: Piece = WHOLE) -> torch.Tensor:
        """The layers after the LSTM: (B, C, L) -> latents (B, D, L), less what was context."""
        return self.last_convolution(self.last_activation(hidden_states), piece)


# --------------------------------------------------------------------------------------------------------- quantizer


class WavTokenizerCodebook(Float32Buffers):
    """The entries, and the running sums that training moves them by.

    Buffers: `inited` (1,), whether the entries were set; `embed` (K, D), the entries; `cluster_size` (K,) and
    `embed_avg` (K, D), moving averages of how many vectors chose an entry and of their sum. All stay float32 in a
    half-precision model.

    Source: `encoder/quantization/core_vq.py: EuclideanCodebook` of the original.
    Deviates: Inference never changes a buffer; the original may run k-means in eval mode.
    """

    def __init__(self, config: WavTokenizerConfig):
        super().__init__()
        size, width = config.codebook_size, config.hidden_size
        self.inited = nn.Buffer(torch.zeros(1, dtype=torch.float32))
        self.cluster_size = nn.Buffer(torch.zeros(size, dtype=torch.float32))
        self.embed = nn.Buffer(torch.zeros(size, width, dtype=torch.float32))
        self.embed_avg = nn.Buffer(torch.zeros(size, width, dtype=torch.float32))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Nearest entry by Euclidean distance: (B, D, L) -> int64 (B, L)."""
        vectors = latents.transpose(1, 2).to(self.embed.dtype)  # (B, D, L) -> (B, L, D)
        with without_autocast(vectors):
            return nearest_entries(self, vectors)


class WavTokenizerQuantizer(nn.Module):
    """One codebook, and the way from codes back to latents.

    `encode` and `decode` have the names and shapes of transformers' own quantizer.
    """

    def __init__(self, config: WavTokenizerConfig):
        super().__init__()
        self.codebook = WavTokenizerCodebook(config)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, D, L) -> codes, int64 (B, 1, L)."""
        return self.codebook(latents)[:, None]

    def codes_to_latents(self, audio_codes: torch.Tensor) -> torch.Tensor:
        """(B, 1, L) -> entries, (B, D, L)."""
        return self.decode(audio_codes[:, 0])

    def encode(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, D, L) -> codes, int64 (B, L)."""
        return self.codebook(hidden_states)

    def decode(self, embed_ind: torch.Tensor) -> torch.Tensor:
        """(B, L) -> entries, (B, D, L)."""
        embed = self.codebook.embed
        return F.embedding(embed_ind.to(embed.device), embed).transpose(1, 2)


# ---------------------------------------------------------------------------------------------------------- backbone


def _zero_past_end(hidden_states: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
    """Zeros the frames past each clip's end, which is what a zero-padded convolution sees there: (B, C, L)."""
    return hidden_states if frame_mask is None else hidden_states.masked_fill(~frame_mask, 0)


@dataclass
class LayerCache:
    """What the layers of a causal decoder remember of a stream.

    Who streams makes it and owns it; a call of the backbone replaces its tensors and changes none.

    Args:
        past: Of each layer that looks back, the last frames of its input, or of its output for the projections of keys
            and values, (B, C, l).
        num_frames: Of each row so far, (B,), where some had fewer than l; `past` then begins with zeros there.
    """

    past: dict[nn.Module, torch.Tensor]
    num_frames: torch.Tensor | None = None

    def prepend(self, layer: nn.Module, hidden_states: torch.Tensor, num_kept: int | None) -> torch.Tensor:
        """Frames (B, C, L) behind those of the layer before; the last `num_kept` of all are kept, or all."""
        hidden_states = join([self.past[layer], hidden_states])
        first = 0 if num_kept is None else max(0, hidden_states.shape[-1] - num_kept)
        self.past[layer] = hidden_states[..., first:].clone()
        return hidden_states

    def has_begun(self, num_others: int, num_frames: int) -> torch.Tensor | None:
        """Which of the last frames, the `num_frames` new ones among them, belong to a row: (B, 1, 1, num_others)."""
        if self.num_frames is None:
            return None
        age = torch.arange(num_others, 0, -1, device=self.num_frames.device)
        return (age <= self.num_frames[:, None] + num_frames)[:, None, None]


class WavTokenizerFrameConv1d(nn.Conv1d):
    """Convolution over frames, padded with zeros at both ends alike, or without `padding` at the start only.

    It takes the arguments of `nn.Conv1d`, since adapters such as LoRA make layers of the same class.
    """

    @classmethod
    def of(
        cls, config: WavTokenizerConfig, in_channels: int, out_channels: int, kernel_size: int, groups: int = 1
    ) -> "WavTokenizerFrameConv1d":
        padding = 0 if config.is_causal else kernel_size // 2
        return cls(in_channels, out_channels, kernel_size, padding=padding, groups=groups)

    @property
    def left_padding(self) -> int:
        return 0 if self.padding[0] else self.kernel_size[0] - 1

    def forward(self, hidden_states: torch.Tensor, cache: LayerCache | None = None) -> torch.Tensor:
        """Maps (B, D, L) to (B, D', L)."""
        if self.left_padding:
            missing = self.left_padding
            if cache is not None:
                missing = max(0, missing - cache.past[self].shape[-1])
                hidden_states = cache.prepend(self, hidden_states, self.left_padding)
            if missing:
                zeros = hidden_states.new_zeros(()).expand(*hidden_states.shape[:2], missing)
                hidden_states = join([zeros, hidden_states])
        return convolve(self, hidden_states, self.weight)


class WavTokenizerGroupNorm(nn.GroupNorm):
    """Group norm over channels and time, with statistics of each clip's valid frames only.

    In a causal codec, each frame has statistics of its own.
    """

    def __init__(self, config: WavTokenizerConfig):
        super().__init__(config.decoder_attention_num_groups, config.decoder_hidden_size, eps=config.norm_eps)
        self.is_causal = config.is_causal

    def forward(self, hidden_states: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        if self.is_causal:
            frames = hidden_states.transpose(1, 2)  # (B, C, L) -> (B, L, C)
            return super().forward(frames.flatten(0, 1)).reshape(frames.shape).transpose(1, 2)
        if frame_mask is None:
            # As an image, which the norm can read in the layout of the convolutions.
            return super().forward(hidden_states.unsqueeze(2)).squeeze(2)
        batch_size, num_channels, num_frames = hidden_states.shape
        dtype = hidden_states.dtype
        groups = hidden_states.reshape(batch_size, self.num_groups, -1, num_frames)
        groups = groups.to(torch.promote_types(dtype, torch.float32))
        mask = frame_mask[:, None]  # (B, 1, L) -> (B, 1, 1, L)
        count = mask.sum(dim=-1, keepdim=True) * groups.shape[2]
        mean = groups.masked_fill(~mask, 0).sum(dim=(2, 3), keepdim=True) / count
        centred = (groups - mean).masked_fill(~mask, 0)
        variance = centred.square().sum(dim=(2, 3), keepdim=True) / count
        normed = (centred * torch.rsqrt(variance + self.eps)).reshape(batch_size, num_channels, num_frames).to(dtype)
        return normed * self.weight[:, None] + self.bias[:, None]


class WavTokenizerResnetBlock(GradientCheckpointingLayer):
    """Two convolutions, each after a group norm and a swish, with a skip.

    Source: `decoder/models.py: ResnetBlock` of the original.
    """

    def __init__(self, config: WavTokenizerConfig):
        super().__init__()
        width = config.decoder_hidden_size
        self.norm1 = WavTokenizerGroupNorm(config)
        self.conv1 = WavTokenizerFrameConv1d.of(config, width, width, kernel_size=3)
        self.norm2 = WavTokenizerGroupNorm(config)
        self.dropout = nn.Dropout(_DECODER_DROPOUT)
        self.conv2 = WavTokenizerFrameConv1d.of(config, width, width, kernel_size=3)

    def forward(
        self,
        hidden_states: torch.Tensor,
        frame_mask: torch.Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> torch.Tensor:
        residual = hidden_states
        hidden_states = F.silu(self.norm1(hidden_states, frame_mask))
        hidden_states = self.conv1(_zero_past_end(hidden_states, frame_mask), cache)
        hidden_states = self.dropout(F.silu(self.norm2(hidden_states, frame_mask)))
        return residual + self.conv2(_zero_past_end(hidden_states, frame_mask), cache)


def eager_attention_forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with its whole (L, L) matrix; `attention_mask` is boolean, true where a key may be seen."""
    scores = query @ key.transpose(2, 3) * scaling
    if module.is_causal:
        may_see = last_may_see(scores.shape[-2], scores.shape[-1], module.window, scores.device)
        scores = scores.masked_fill(~may_see, torch.finfo(scores.dtype).min)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class WavTokenizerAttention(nn.Module):
    """One attention head over all of time, with a skip around norm and attention.

    In a causal codec, a frame sees itself and what the window holds of the frames before it.

    Source: `decoder/models.py: AttnBlock` of the original.
    """

    def __init__(self, config: WavTokenizerConfig):
        super().__init__()
        width = config.decoder_hidden_size
        self.config = config
        self.norm = WavTokenizerGroupNorm(config)
        self.q = nn.Conv1d(width, width, kernel_size=1)
        self.k = nn.Conv1d(width, width, kernel_size=1)
        self.v = nn.Conv1d(width, width, kernel_size=1)
        self.proj_out = nn.Conv1d(width, width, kernel_size=1)
        self.scaling = width**-0.5
        self.is_causal = config.is_causal
        self.window: int | None = getattr(config, "attention_window", None)

    def forward(
        self,
        hidden_states: torch.Tensor,
        frame_mask: torch.Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Maps (B, D, L) to (B, D, L) and, with eager attention, to the weights (B, 1, L, L)."""
        normed = self.norm(hidden_states, frame_mask)
        projected = self.q(normed), self.k(normed), self.v(normed)
        if cache is not None:
            num_kept = None if self.window is None else self.window - 1
            projected = (
                projected[0],
                cache.prepend(self.k, projected[1], num_kept),
                cache.prepend(self.v, projected[2], num_kept),
            )
        # Contiguous, because torch's fused kernels refuse anything else and fall back on the whole (L, L) matrix.
        query, key, value = (
            tensor.transpose(1, 2)[:, None].contiguous()  # (B, D, L) -> (B, 1, L, D)
            for tensor in projected
        )
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        num_frames = query.shape[2]
        # One row of keys serves every query, so the mask never grows with the square of the length.
        mask = None if frame_mask is None else frame_mask[:, None]  # (B, 1, 1, L)
        if cache is not None:
            mask = cache.has_begun(key.shape[2], num_frames)
        if attend is not eager_attention_forward:
            if cache is not None:
                seen = last_may_see(num_frames, key.shape[2], self.window, key.device)[None, None]
                mask = seen if mask is None else seen & mask
            elif self.window is not None:
                query, key, value, mask = in_blocks(query, key, value, self.window)
        attended, weights = attend(self, query, key, value, mask, scaling=self.scaling, dropout=0.0)
        attended = attended.transpose(1, 2).flatten(1, 2)[:, :num_frames]  # (B, W, N, D) -> (B, L, D)
        return hidden_states + self.proj_out(attended.transpose(1, 2)), weights


class WavTokenizerAdaLayerNorm(nn.Module):
    """Layer norm whose scale and shift are looked up by the bandwidth id.

    Source: `decoder/modules.py: AdaLayerNorm` of the original.
    """

    def __init__(self, config: WavTokenizerConfig):
        super().__init__()
        self.eps = config.norm_eps
        size = config.adanorm_num_embeddings, config.decoder_hidden_size
        self.scale = _initialised(nn.Embedding(*size), value=1.0)
        self.shift = _initialised(nn.Embedding(*size), value=0.0)

    def forward(self, hidden_states: torch.Tensor, bandwidth_id: torch.Tensor) -> torch.Tensor:
        """Norms (B, L, D) with ids (B, 1) or (1, 1)."""
        normed = F.layer_norm(hidden_states, hidden_states.shape[-1:], eps=self.eps)
        return normed * self.scale(bandwidth_id) + self.shift(bandwidth_id)


class WavTokenizerConvNextBlock(GradientCheckpointingLayer):
    """ConvNeXt block: depthwise convolution, norm, two linear layers, layer scale, skip.

    Source: `decoder/modules.py: ConvNeXtBlock` of the original (from Vocos).
    """

    def __init__(self, config: WavTokenizerConfig):
        super().__init__()
        width = config.decoder_hidden_size
        inner = config.decoder_intermediate_size
        depthwise = WavTokenizerFrameConv1d.of(config, width, width, kernel_size=7, groups=width)
        self.dwconv = _initialised(depthwise, std=_BACKBONE_INIT_STD)
        self.norm = WavTokenizerAdaLayerNorm(config)
        self.pwconv1 = _initialised(nn.Linear(width, inner), std=_BACKBONE_INIT_STD)
        self.pwconv2 = _initialised(nn.Linear(inner, width), std=_BACKBONE_INIT_STD)
        self.gamma = nn.Parameter(torch.full((width,), 1 / config.decoder_num_layers))

    def forward(
        self,
        hidden_states: torch.Tensor,
        bandwidth_id: torch.Tensor,
        frame_mask: torch.Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> torch.Tensor:
        residual = hidden_states
        hidden_states = self.dwconv(_zero_past_end(hidden_states, frame_mask), cache)
        hidden_states = hidden_states.transpose(1, 2)  # (B, D, L) -> (B, L, D)
        hidden_states = self.norm(hidden_states, bandwidth_id)
        if runs_near_caches(self, hidden_states):
            hidden_states = by_position(self._mix, hidden_states, width=self.pwconv1.out_features)
        else:
            hidden_states = self._mix(hidden_states)
        return residual + hidden_states.transpose(1, 2)  # (B, L, D) -> (B, D, L)

    def _mix(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.gamma * self.pwconv2(F.gelu(self.pwconv1(hidden_states)))


class WavTokenizerBackbone(nn.Module):
    """From latents to the features of each frame: residual blocks around an attention layer, then ConvNeXt blocks.

    Source: Paper, section 3.3; `decoder/models.py: VocosBackbone` of the original.
    """

    def __init__(self, config: WavTokenizerConfig):
        super().__init__()
        width = config.decoder_hidden_size
        embed = WavTokenizerFrameConv1d.of(config, config.hidden_size, width, kernel_size=7)
        self.embed = _initialised(embed, std=_BACKBONE_INIT_STD)
        self.pos_net = nn.ModuleList(
            [
                WavTokenizerResnetBlock(config),
                WavTokenizerResnetBlock(config),
                WavTokenizerAttention(config),
                WavTokenizerResnetBlock(config),
                WavTokenizerResnetBlock(config),
                WavTokenizerGroupNorm(config),
            ]
        )
        self.norm = WavTokenizerAdaLayerNorm(config)
        self.convnext = nn.ModuleList([WavTokenizerConvNextBlock(config) for _ in range(config.decoder_num_layers)])
        self.final_layer_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.is_causal = config.is_causal

    @property
    def attention(self) -> WavTokenizerAttention:
        return cast(WavTokenizerAttention, self.pos_net[2])

    def fresh_cache(self, batch_size: int) -> LayerCache:
        """What the layers of a causal codec remember before the first frame: nothing.

        Raises:
            RuntimeError: If an adapter wraps a layer, whose own layers would remember nothing.
        """
        if any(hasattr(module, "base_layer") for module in self.modules()):
            raise RuntimeError("A decoder with an adapter cannot stream. Merge it first with `merge_and_unload()`.")
        layers: list[Any] = [
            layer for layer in self.modules() if isinstance(layer, WavTokenizerFrameConv1d) and layer.left_padding
        ]
        layers += self.attention.k, self.attention.v
        return LayerCache({layer: layer.weight.new_zeros(batch_size, layer.in_channels, 0) for layer in layers})

    def forward(
        self,
        latents: torch.Tensor,
        bandwidth_id: torch.Tensor,
        frame_mask: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        cache: LayerCache | None = None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None, torch.Tensor | None]:
        """Maps (B, D, L) and ids (B, 1) to features (B, L, D'), hidden states and attention weights.

        With a `cache`, which only a causal codec can have, the frames go on from those of the calls before.
        """
        first, second, attention, third, fourth, norm = self.pos_net
        hidden_states = self.embed(_zero_past_end(latents.to(self.embed.weight.dtype), frame_mask), cache)
        if self.is_causal:
            frame_mask = None  # what lies past a clip's end reaches no frame before it
        for block in (first, second):
            hidden_states = block(hidden_states, frame_mask, cache)
        hidden_states, attention_weights = attention(hidden_states, frame_mask, cache)
        for block in (third, fourth):
            hidden_states = block(hidden_states, frame_mask, cache)
        hidden_states = norm(hidden_states, frame_mask)
        hidden_states = self.norm(hidden_states.transpose(1, 2), bandwidth_id).transpose(1, 2)
        recorded = [hidden_states]
        for block in self.convnext:
            hidden_states = block(hidden_states, bandwidth_id, frame_mask, cache)
            recorded.append(hidden_states)
        features = self.final_layer_norm(hidden_states.transpose(1, 2))  # (B, D, L) -> (B, L, D)
        return features, tuple(recorded) if output_hidden_states else None, attention_weights


# -------------------------------------------------------------------------------------------------------------- head


def _hann_window(length: int, device: torch.device | None = None) -> torch.Tensor:
    """In float32 whatever torch's default is, which is the model's dtype while transformers loads one."""
    return torch.hann_window(length, dtype=torch.float32, device=device)


class WavTokenizerISTFTHead(Float32Buffers):
    """Predicts log-magnitude and phase of each frame and inverts the short-time Fourier transform.

    A frame is four hops wide, so the sum of overlapping frames is a sum of four shifted blocks, and the sum of squared
    windows that it is divided by is known in closed form, at both ends too. Everything after the linear layer is
    float32 in a half-precision model.

    Source: `decoder/heads.py: ISTFTHead` and `decoder/spectral_ops.py: ISTFT` of the original, padding "same".
    """

    overlap = 4

    def __init__(self, config: WavTokenizerConfig):
        super().__init__()
        self.hop_length, self.n_fft = config.hop_length, config.n_fft
        self.trim = (config.n_fft - config.hop_length) // 2  # samples at either end
        self.linear = nn.Linear(config.decoder_hidden_size, config.n_fft + 2)
        self.window = nn.Buffer(_hann_window(config.n_fft), persistent=False)

    def forward(self, features: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Maps (B, L, D) to audio, (B, L * hop_length), 0 past a clip's end."""
        frames = self.frames(features)
        with without_autocast(frames):
            num_frames = frames.shape[1]
            end = torch.full((1, 1), num_frames, device=frames.device)
            if frame_mask is not None:
                frames = frames.masked_fill(~frame_mask.transpose(1, 2), 0)
                end = frame_mask.sum(dim=-1)  # (B, 1)
            block = torch.arange(num_frames + self.overlap - 1, device=frames.device)
            inside = slice(self.trim, self.trim + num_frames * self.hop_length)
            audio = self.overlapped(frames).flatten(1)[:, inside]
            audio = audio / self.envelope(block, end).flatten(1)[:, inside]
            if frame_mask is None:
                return audio
            return audio.masked_fill(~frame_mask[:, 0].repeat_interleave(self.hop_length, dim=-1), 0)

    def frames(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, L, D) to windowed frames of the waveform, (B, L, n_fft)."""
        spectrum = self.linear(features)
        spectrum = spectrum.to(torch.promote_types(spectrum.dtype, torch.float32))
        with without_autocast(spectrum):
            log_magnitude, phase = spectrum.chunk(2, dim=-1)  # (B, L, F) each
            # Clipped twice: the first bound only keeps exp from overflowing, whose gradient would be NaN.
            magnitude = log_magnitude.clamp(max=1 + math.log(_MAX_MAGNITUDE)).exp().clamp(max=_MAX_MAGNITUDE)
            return torch.fft.irfft(torch.polar(magnitude, phase), n=self.n_fft) * self.window

    def overlapped(self, frames: torch.Tensor) -> torch.Tensor:
        """Adds windowed frames (B, L, n_fft) a hop apart: blocks of a hop, (B, L + 3, hop_length)."""
        parts = frames.unflatten(-1, (self.overlap, self.hop_length))  # (B, L, 4, hop)
        shifted = [F.pad(parts[:, :, i], (0, 0, i, self.overlap - 1 - i)) for i in range(self.overlap)]
        return shifted[0] + shifted[1] + shifted[2] + shifted[3]

    def envelope(self, block: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """The squared windows that overlap in the blocks with these numbers.

        Frame f covers blocks f..f+3, so block j holds parts i of frames j - i: those with 0 <= j - i < number of
        frames.

        Args:
            block: Integers (N,).
            end: Number of frames of each clip, (B, 1).

        Returns:
            (B, N, hop_length)
        """
        squares = self.window.square().view(self.overlap, self.hop_length)
        up_to = F.pad(squares.cumsum(dim=0), (0, 0, 1, 0))  # (5, hop): sums of the first 0..4 parts
        first = (block - end + 1).clamp(0, self.overlap)  # (B, N)
        return (up_to[block.clamp(max=self.overlap - 1) + 1] - up_to[first]).clamp(min=1e-11)


# ------------------------------------------------------------------------------------------------------------ models


class WavTokenizerPreTrainedModel(PreTrainedAudioTokenizerBase):
    """Loading, saving and initialisation of the three models."""

    config: WavTokenizerConfig
    base_model_prefix = "encoder_model"
    main_input_name = "input_values"
    input_modalities = ["audio"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = [
        "WavTokenizerConv1d",
        "WavTokenizerResidualBlock",
        "WavTokenizerLSTM",
        "WavTokenizerQuantizer",
        "WavTokenizerResnetBlock",
        "WavTokenizerAttention",
        "WavTokenizerAdaLayerNorm",
        "WavTokenizerConvNextBlock",
        "WavTokenizerISTFTHead",
    ]

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any):
        """Takes the configuration of transformers' own WavTokenizer, too, as one of ours."""
        super().__init__(WavTokenizerConfig.of(config), *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        initialisation = getattr(module, "initialisation", {})
        if "std" in initialisation:
            init.trunc_normal_(module.weight, std=initialisation["std"])
            init.zeros_(module.bias)
        elif isinstance(module, parametrize.ParametrizationList):
            # The tensors of a weight-normalised convolution, magnitude and direction, lie here.
            tensors = dict(module.named_parameters(recurse=False))
            init.kaiming_uniform_(tensors["original1"], a=math.sqrt(5))
            norm = torch.linalg.vector_norm(tensors["original1"], dim=(1, 2), keepdim=True)
            init.copy_(tensors["original0"], norm)
        elif isinstance(module, nn.Conv1d) and module.bias is not None and parametrize.is_parametrized(module):
            # The fan-in of the weight; asking the weight itself would compute it.
            bound = (module.in_channels * module.kernel_size[0]) ** -0.5
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, (nn.Conv1d, nn.Linear, nn.LSTM, nn.GroupNorm, nn.LayerNorm)):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding):
            init.constant_(module.weight, initialisation["value"])
        elif isinstance(module, WavTokenizerConvNextBlock):
            init.constant_(module.gamma, 1 / self.config.decoder_num_layers)
        elif isinstance(module, WavTokenizerISTFTHead):
            init.copy_(module.window, _hann_window(module.n_fft, module.window.device))
        elif isinstance(module, WavTokenizerCodebook):
            init.zeros_(module.inited)
            init.ones_(module.cluster_size)
            init.kaiming_uniform_(module.embed)
            init.copy_(module.embed_avg, module.embed)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, output_loading_info: bool = False, **kwargs):
        """As in transformers.

        Raises:
            ValueError: If the folder holds the other half of the codec only; the message names the class to load it
                with. If a weight is NaN or infinite.
        """
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        model, loading_info = loaded
        model._refuse_absent_half(set(loading_info["missing_keys"]), pretrained_model_name_or_path)
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not tensor.is_meta and not is_finite(tensor):
                raise ValueError(
                    f"{pretrained_model_name_or_path} holds NaN or infinity in {name}: the file is damaged, or the "
                    "training that wrote it had failed. Take another copy or an earlier checkpoint."
                )
        return (model, loading_info) if output_loading_info else model

    def _refuse_absent_half(self, missing_keys: set[str], source) -> None:
        halves = {
            "encoder": (re.compile(r"(encoder_model\.)?encoder\."), WavTokenizerDecoderModel),
            "decoder": (re.compile(r"(backbone|head)\."), WavTokenizerEncoderModel),
        }
        own_keys = self.state_dict().keys()
        if not own_keys - missing_keys:
            return
        for half, (pattern, other_class) in halves.items():
            keys = {key for key in own_keys if pattern.match(key)}
            if keys and keys <= missing_keys:
                raise ValueError(
                    f"{source} holds no weights of the {half}, which {type(self).__name__} needs. Load it with "
                    f"{other_class.__name__}.from_pretrained, or take a folder that holds the whole codec."
                )

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """As in transformers, always in the current key layout, whatever layout was loaded.

        Raises:
            RuntimeError: If the model was fused: its weights no longer have the form in which they are stored.
        """
        if self.is_fused:
            raise RuntimeError(
                "A fused model cannot be saved: `fuse()` merged the weight norm that the stored form keeps apart. "
                "Save before fusing, or copy the folder that the model was loaded from."
            )
        kwargs["save_original_format"] = False
        super().save_pretrained(save_directory, *args, **kwargs)
        give_usual_modes(save_directory)

    @property
    def is_fused(self) -> bool:
        """Whether `fuse()` has merged the weight norm into the weights."""
        return is_fused(self)

    def fuse(self) -> "WavTokenizerPreTrainedModel":
        """Merges the encoder's weight norm into its weights, for faster inference with bit-identical output.

        This cannot be undone, and a fused model can be neither saved nor exported to the Hub. A model without encoder
        has nothing to fuse and stays as it is.

        Returns:
            The model itself.
        """
        before = {
            module: fingerprint(module)
            for module in self.modules()
            if isinstance(module, WavTokenizerEncoderModel) and not module.is_fused
        }
        fuse_weight_norm(self)
        for encoder_model, identity in before.items():
            encoder_model.fingerprints_before_fusing = {fingerprint(encoder_model): identity}
        return self

    def num_codes(self, num_samples: int | torch.Tensor) -> int | torch.Tensor:
        """Number of codes of a clip: ceil(num_samples / hop_length)."""
        return -(-num_samples // self.config.hop_length)

    def num_samples(self, num_codes: int | torch.Tensor) -> int | torch.Tensor:
        """Number of samples that codes decode to: num_codes * hop_length."""
        return num_codes * self.config.hop_length

    def check_codes(self, audio_codes: torch.Tensor, audio_codes_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Refuses what is no batch of codes (B, 1, L) of this model; returns them as int64, 0 where the mask is false.

        Raises:
            ValueError: For a wrong shape, type or range.
        """
        return check_codes(audio_codes, self.config.codebook_size, audio_codes_mask)

    @property
    def _quantizer(self) -> WavTokenizerQuantizer:
        """The whole codec has it in its encoder, a half of it has it itself."""
        holder: Any = self.base_model
        return holder.quantizer

    def codes_to_latents(self, audio_codes: torch.Tensor) -> torch.Tensor:
        """The codebook's entries of codes.

        Args:
            audio_codes: Integers (B, 1, L), L of 1 or more, each in 0..codebook_size - 1.

        Returns:
            Float32 (B, D, L), the `quantized_latents` of `decode`.

        Raises:
            ValueError: For a wrong shape, type or range.
        """
        return self._quantizer.codes_to_latents(self.check_codes(audio_codes)).to(audio_codes.device)


class WavTokenizerEncoderModel(WavTokenizerPreTrainedModel):
    """The encoder with its codebook: waveforms to codes.

    Loads from the folder of a whole codec, without reading the decoder's weights.

    Source: Paper, section 3.
    """

    _keys_to_ignore_on_load_unexpected = [r"^backbone\.", r"^head\."]

    def __init__(self, config: WavTokenizerConfig):
        super().__init__(config)
        config = self.config
        self.encoder = WavTokenizerEncoder(config)
        self.quantizer = WavTokenizerQuantizer(config)
        self.fingerprints_before_fusing: dict[str, str] = {}
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        output_latents: bool = False,
        output_hidden_states: bool | None = None,
    ) -> WavTokenizerEncoderOutput:
        """Turns waveforms into codes.

        Gradients reach the encoder through `encoder_latents`, and straight through the quantizer from
        `quantized_latents`.

        Args:
            input_values: (B, 1, T) at the codec's rate, T of 1 or more; cast to the encoder's dtype.
            padding_mask: (B, T) or (B, 1, T), non-zero where a sample belongs to the clip, padding on the right. Each
                clip gets the codes that it gets alone.
            output_latents: Whether to return the latents before and after quantization.
            output_hidden_states: Whether to return the encoder's hidden states; `None` asks the config.

        Returns:
            `WavTokenizerEncoderOutput`, with L = ceil(T / hop_length).

        Raises:
            ValueError: For a wrong shape, no samples, padding that is not on the right, or a clip that is padding
                only. On a CPU, also for samples that are NaN or infinite; elsewhere looking would cost time.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        mask = check_input_values(input_values, padding_mask)
        num_valid = None if mask is None else mask.sum(dim=-1)
        latents, hidden_states = self.encoder(input_values, num_valid, output_hidden_states)
        audio_codes = self.quantizer(latents).to(input_values.device)
        num_frames = audio_codes.shape[-1]
        mask_dtype = torch.int64 if padding_mask is None else padding_mask.dtype
        if num_valid is None:
            frame_mask = None
            audio_codes_mask = torch.ones_like(audio_codes, dtype=mask_dtype)
        else:
            end = self.num_codes(num_valid[:, None].to(input_values.device))  # (B, 1)
            frame_mask = (torch.arange(num_frames, device=input_values.device) < end)[:, None]
            audio_codes = audio_codes.masked_fill(~frame_mask, 0)
            audio_codes_mask = frame_mask.to(mask_dtype)
        output = WavTokenizerEncoderOutput(
            audio_codes=audio_codes, audio_codes_mask=audio_codes_mask, encoder_hidden_states=hidden_states
        )
        if output_latents:
            latents = latents.to(input_values.device)
            quantized = self.quantizer.codes_to_latents(audio_codes).to(input_values.device)
            if latents.requires_grad:
                # Straight through: the value is the entry exactly, the gradient is that of the latents.
                quantized = quantized + (latents - latents.detach())
            output.encoder_latents = _zero_past_end(latents, frame_mask)
            output.quantized_latents = _zero_past_end(quantized, frame_mask)
        return output

    @_documented_as(forward)
    def encode(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        output_latents: bool = False,
        **kwargs,
    ) -> WavTokenizerEncoderOutput:
        return self(input_values, padding_mask, output_latents, **kwargs)

    def decode(self, audio_codes: torch.Tensor | None = None, *args, **kwargs):
        """Refuses: this half has no decoder."""
        raise RuntimeError(
            "WavTokenizerEncoderModel has no decoder. Load WavTokenizerModel, or WavTokenizerDecoderModel for "
            "decoding alone."
        )


class WavTokenizerDecodingModel(WavTokenizerPreTrainedModel):
    """Decoding, for the two models that have a backbone and a head."""

    backbone: WavTokenizerBackbone
    head: WavTokenizerISTFTHead

    @can_return_tuple
    def decode(
        self,
        audio_codes: torch.Tensor | None = None,
        bandwidth_id: int | torch.Tensor | None = None,
        audio_codes_mask: torch.Tensor | None = None,
        quantized_latents: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> WavTokenizerDecoderOutput:
        """Turns codes, or the latents they stand for, into waveforms.

        Args:
            audio_codes: Integers (B, 1, L), L of 1 or more, each in 0..codebook_size - 1.
            bandwidth_id: Row of the decoder's adaptive norms, an int or (B,); `None` takes the config's. The released
                checkpoints were trained with all rows alike, so it hardly matters there; it never changes codes.
            audio_codes_mask: (B, 1, L) or (B, L), non-zero where a code belongs to the clip, padding on the right.
                Each clip gets the waveform that it gets alone.
            quantized_latents: (B, D, L) in place of codes; gradients flow to them.
            output_attentions: Whether to return the attention weights; needs eager attention. `None` asks the config.
            output_hidden_states: Whether to return the backbone's hidden states; `None` asks the config.

        Returns:
            `WavTokenizerDecoderOutput`.

        Raises:
            ValueError: If both or neither of codes and latents are given, or for a wrong shape, type or range.
        """
        if (audio_codes is None) == (quantized_latents is None):
            raise ValueError(
                "`decode` takes exactly one of `audio_codes` and `quantized_latents`, got "
                f"{'neither' if audio_codes is None else 'both'}."
            )
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions and self.config._attn_implementation != "eager":
            raise ValueError(
                f"Attention weights exist in eager attention only, not in {self.config._attn_implementation!r}. Load "
                "with `attn_implementation='eager'` or call `model.set_attn_implementation('eager')`."
            )
        given = audio_codes if quantized_latents is None else quantized_latents
        if not isinstance(given, torch.Tensor) or given.ndim != 3:
            raise ValueError(
                "Expected a torch tensor of three axes, (B, 1, L) codes or (B, D, L) latents, got "
                f"{tuple(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__}."
            )
        batch_size, num_frames = given.shape[0], given.shape[-1]
        mask = check_mask(audio_codes_mask, (batch_size, num_frames), "audio_codes_mask")
        frame_mask = None if mask is None else mask[:, None].to(given.device)
        if quantized_latents is None:
            latents = self._quantizer.codes_to_latents(self.check_codes(given, frame_mask)).to(given.device)
        elif given.shape[1] == self.config.codebook_dim and given.numel():
            latents = given
        else:
            raise ValueError(
                f"`quantized_latents` must have shape (B, {self.config.codebook_dim}, L) with L of 1 or more, got "
                f"{tuple(given.shape)}."
            )
        features, hidden_states, attention = self.backbone(
            latents, self.bandwidth_ids(bandwidth_id, batch_size, given.device), frame_mask, output_hidden_states
        )
        audio_values = self.head(features, frame_mask)
        return WavTokenizerDecoderOutput(
            audio_values=audio_values[:, None].to(device=given.device, dtype=torch.float32),
            decoder_hidden_states=hidden_states,
            decoder_attentions=(attention,) if output_attentions else None,
        )

    def bandwidth_ids(
        self, bandwidth_id: int | torch.Tensor | None, batch_size: int, device: torch.device
    ) -> torch.Tensor:
        """Ids as int64 (B, 1), or (1, 1) where all clips share one, `None` the config's.

        Raises:
            ValueError: For a wrong shape, type or range.
        """
        if bandwidth_id is None:
            bandwidth_id = self.config.bandwidth_id
        return check_bandwidth_ids(bandwidth_id, self.config.adanorm_num_embeddings, batch_size, device)


class WavTokenizerDecoderModel(WavTokenizerDecodingModel):
    """The decoder with the codebook: codes to waveforms.

    Loads from the folder of a whole codec, without reading the encoder's weights.

    Source: Paper, section 3.3.
    """

    main_input_name = "audio_codes"
    _keys_to_ignore_on_load_unexpected = [r"^(encoder_model\.)?encoder\."]

    def __init__(self, config: WavTokenizerConfig):
        super().__init__(config)
        config = self.config
        self.quantizer = WavTokenizerQuantizer(config)
        self.backbone = WavTokenizerBackbone(config)
        self.head = WavTokenizerISTFTHead(config)
        self.post_init()

    @_documented_as(WavTokenizerDecodingModel.decode)
    def forward(
        self,
        audio_codes: torch.Tensor | None = None,
        bandwidth_id: int | torch.Tensor | None = None,
        audio_codes_mask: torch.Tensor | None = None,
        quantized_latents: torch.Tensor | None = None,
        **kwargs,
    ) -> WavTokenizerDecoderOutput:
        return self.decode(audio_codes, bandwidth_id, audio_codes_mask, quantized_latents, **kwargs)

    def encode(self, input_values: torch.Tensor, *args, **kwargs):
        """Refuses: this half has no encoder."""
        raise RuntimeError(
            "WavTokenizerDecoderModel has no encoder. Load WavTokenizerModel, or WavTokenizerEncoderModel for "
            "encoding alone."
        )


class WavTokenizerModel(WavTokenizerDecodingModel):
    """The whole codec: waveforms to codes and back.

    Source: WavTokenizer (arXiv 2408.16532), section 3.

    Example:

    ```python
    >>> from wavtokenizer_hf import WavTokenizerFeatureExtractor, WavTokenizerModel

    >>> model = WavTokenizerModel.from_pretrained(folder).eval()
    >>> feature_extractor = WavTokenizerFeatureExtractor.from_pretrained(folder)
    >>> inputs = feature_extractor("speech.flac", resample=True, return_tensors="pt")
    >>> audio_codes = model.encode(**inputs).audio_codes
    >>> audio_values = model.decode(audio_codes).audio_values
    ```
    """

    def __init__(self, config: WavTokenizerConfig):
        super().__init__(config)
        config = self.config
        self.encoder_model = WavTokenizerEncoderModel(config)
        self.backbone = WavTokenizerBackbone(config)
        self.head = WavTokenizerISTFTHead(config)
        self.post_init()
        # transformers adds a sub-model's patterns to its parent's; here they would hide a wrong key of the decoder.
        self._keys_to_ignore_on_load_unexpected = set()

    @_documented_as(WavTokenizerEncoderModel.forward)
    def encode(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        output_latents: bool = False,
        **kwargs,
    ) -> WavTokenizerEncoderOutput:
        return self.encoder_model(input_values, padding_mask, output_latents, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        bandwidth_id: int | torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> WavTokenizerOutput:
        """Encodes and decodes.

        Gradients pass straight through the quantizer, from the reconstruction to the encoder.

        Args:
            input_values: (B, 1, T) at the codec's rate, T of 1 or more; cast to the encoder's dtype.
            padding_mask: (B, T) or (B, 1, T), non-zero where a sample belongs to the clip, padding on the right.
            bandwidth_id: Row of the decoder's adaptive norms, an int or (B,); `None` takes the config's.
            output_attentions: Whether to return the attention weights; needs eager attention. `None` asks the config.
            output_hidden_states: Whether to return those of encoder and backbone; `None` asks the config.

        Returns:
            `WavTokenizerOutput`; `audio_values` has the input's length and is 0 past a clip's end.

        Raises:
            ValueError: As in `encode` and `decode`.
        """
        encoded = self.encode(
            input_values,
            padding_mask,
            output_latents=True,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        decoded = self.decode(
            bandwidth_id=bandwidth_id,
            audio_codes_mask=None if padding_mask is None else encoded.audio_codes_mask,
            quantized_latents=encoded.quantized_latents,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        audio_values = decoded.audio_values[..., : input_values.shape[-1]]
        if padding_mask is not None:
            valid = padding_mask.reshape(audio_values.shape).to(audio_values.device) != 0
            audio_values = audio_values.masked_fill(~valid, 0)
        return WavTokenizerOutput(
            audio_values=audio_values,
            audio_codes=encoded.audio_codes,
            audio_codes_mask=encoded.audio_codes_mask,
            encoder_hidden_states=encoded.encoder_hidden_states,
            decoder_hidden_states=decoded.decoder_hidden_states,
            decoder_attentions=decoded.decoder_attentions,
        )


class WavTokenizerCausalModel(WavTokenizerModel):
    """`WavTokenizerModel` for the Auto classes, which want a model class of its own for every configuration class.

    There is nothing else to it: `WavTokenizerModel` and both halves work with a `WavTokenizerCausalConfig`, too, and
    load the folders of causal codecs.
    """

    config: WavTokenizerCausalConfig


__all__ = [
    "WavTokenizerCausalModel",
    "WavTokenizerDecoderModel",
    "WavTokenizerEncoderModel",
    "WavTokenizerModel",
    "WavTokenizerPreTrainedModel",
]
