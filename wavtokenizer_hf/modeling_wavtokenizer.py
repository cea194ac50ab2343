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

import importlib
import itertools
import math
import os
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

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

from .codec_files import give_usual_modes
from .configuration_wavtokenizer import WavTokenizerCausalConfig, WavTokenizerConfig, fingerprint

AnyModule = TypeVar("AnyModule", bound=nn.Module)

# The original draws the weights of the backbone's first convolution and of its ConvNeXt blocks from this normal
# distribution (cut off at two), and starts their layer scale at one over their number; all else as torch does.
_BACKBONE_INIT_STD = 0.02
_DECODER_DROPOUT = 0.1
_MAX_MAGNITUDE = 100.0

# Activations of the encoder's first layers, and similarities to the entries of the codebook, are computed so many at
# once: on a CPU what its caches hold, elsewhere what keeps the device busy and its memory free.
_NUMBERS_AT_ONCE_ON_CPU = 2**20
_NUMBERS_AT_ONCE = 2**26

# A float32 score of an entry, a product of a vector and an entry of some hundred numbers, is off by no more than this
# part of the product of their norms. What is as near as that is compared in float64.
_SCORE_NOISE = 2**-17

# From so many entries on, the search on a CPU looks along principal axes first: so many at most, or as few as leave
# this share of the variance; for so many entries at a time. Comparing all is faster where the axes leave much of the
# variance, or more than a small share of all entries has to be compared in full.
_INDEXED_FROM = 2**14
_MAX_AXES = 64
_VARIANCE_LEFT = 0.01
_VARIANCE_LEFT_AT_MOST = 0.25
_BOUNDS_IN_GROUP = 64
_COMPARED_AT_MOST = 1 / 256
_ENTRIES_AT_ONCE = 2**10
# Within this span of norms, no sum of float32 here overflows or loses bits to underflow.
_SAFE_NORMS = (1e-15, 1e15)


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


def _without_autocast(tensor: torch.Tensor) -> AbstractContextManager:
    """Switches autocast off for arithmetic that must keep its precision."""
    device_type = tensor.device.type
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def _numbers_at_once(device: torch.device) -> int:
    return _NUMBERS_AT_ONCE_ON_CPU if device.type == "cpu" else _NUMBERS_AT_ONCE


def _convolve(conv: nn.Conv1d, hidden_states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What `conv` computes from (B, C, L) with a weight; on a CPU in the layout of memory that it is fastest in.

    There the channels of a position lie side by side, in what comes in, in what goes out, and in the weight. oneDNN
    computes in that order without converting (of a weight it would take several times as long as the copy here), and
    layer norms and linear layers read it without a copy. Every element-wise operation keeps the layout, `_join` does,
    and `F.pad` does not.
    """
    if hidden_states.device.type != "cpu":
        return conv._conv_forward(hidden_states, weight, conv.bias)
    image, kernel = (
        tensor.unsqueeze(2).contiguous(memory_format=torch.channels_last)  # (B, C, L) -> (B, C, 1, L)
        for tensor in (hidden_states, weight)
    )
    stride, padding, dilation = (1, conv.stride[0]), (0, int(conv.padding[0])), (1, conv.dilation[0])
    return F.conv2d(image, kernel, conv.bias, stride, padding, dilation, conv.groups).squeeze(2)


def _side_by_side(weight: torch.Tensor) -> torch.Tensor:
    """The weight (C', C, K) of a convolution in the order in which `_convolve` reads it."""
    if weight.device.type != "cpu":
        return weight
    return weight.unsqueeze(2).contiguous(memory_format=torch.channels_last).squeeze(2)


def _by_position(
    function: Callable[[torch.Tensor], torch.Tensor], hidden_states: torch.Tensor, width: int
) -> torch.Tensor:
    """`function` of (B, L, D) that treats every position alike; on a CPU for few at a time, with what its caches hold.

    Args:
        function: Maps (N, D) to (N, D').
        hidden_states: (B, L, D).
        width: Numbers that it holds for a position at its widest.
    """
    if hidden_states.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(hidden_states)
    flat = hidden_states.flatten(0, 1)
    at_once = max(1, _NUMBERS_AT_ONCE_ON_CPU // width)
    if len(flat) <= at_once:
        return function(hidden_states)
    return torch.cat([function(some) for some in flat.split(at_once)]).unflatten(0, hidden_states.shape[:2])


def _join(parts: list[torch.Tensor]) -> torch.Tensor:
    """Concatenates (B, C, ...) over time, in the layout of `_convolve`."""
    if parts[0].device.type != "cpu":
        return torch.cat(parts, dim=-1)
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1).transpose(1, 2)


def _initialised(module: AnyModule, **how: float) -> AnyModule:
    """Notes on a torch module how `_init_weights` sets it: cut normal of a `std`, or a constant `value`.

    It must stand on the module that owns the tensors: transformers passes over those that own none.
    """
    module.__dict__["initialisation"] = how
    return module


def _merge_weight_norm(conv: Any) -> None:
    """Makes a weight-normalised convolution a plain one with the same weight.

    torch's `remove_parametrizations` would delete the weight from a class that all deep copies of the module share.
    """
    requires_grad = conv.parametrizations.weight.original1.requires_grad
    with torch.inference_mode(False), torch.no_grad():  # what is made in inference mode is of no use outside it
        weight = conv.weight.clone()
    conv.__class__ = WavTokenizerConvolution
    del conv.parametrizations
    conv.weight = nn.Parameter(weight, requires_grad=requires_grad)
    # What is left is a hook that reads the older names of the two tensors; it cannot be pickled.
    conv._load_state_dict_pre_hooks.clear()


class _Float32Buffers(nn.Module):
    """Keeps a module's own buffers in float32 when the model is cast to half precision; they still change device."""

    def _apply(self, fn, recurse=True):
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, after in list(self.named_buffers(recurse=False)):
            if after.dtype in (torch.float16, torch.bfloat16):
                self._buffers[name] = before[name].to(device=after.device)
        return self


# ---------------------------------------------------------------------------------------------------------- encoder


class WavTokenizerConvolution(nn.Conv1d):
    """`nn.Conv1d`, fast on a CPU, and ready to take a weight that was computed before."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As of any module, with weight norm too, where torch would refuse: it makes a class for every module."""
        if not parametrize.is_parametrized(self):
            return super().__reduce_ex__(protocol)
        # A hook that reads older names of the two tensors cannot be pickled; a new module has one of its own.
        state = {name: value for name, value in self.__dict__.items() if name != "_load_state_dict_pre_hooks"}
        return _weight_normed, (self.in_channels, self.out_channels, self.kernel_size), state

    def forward(self, hidden_states: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Convolves (B, C, L) into (B, C', L')."""
        return _convolve(self, hidden_states, self.weight if weight is None else weight)


def _weight_normed(*arguments: Any) -> nn.Module:
    """A convolution that is to be given its tensors."""
    with torch.device("meta"):
        return weight_norm(WavTokenizerConvolution(*arguments))


@dataclass(frozen=True)
class _Piece:
    """Which part of its clips a tensor holds, for the layers that pad clips at their ends.

    Args:
        is_start: Whether the clips begin where it begins, and are padded there. Else what it begins with is context,
            which every convolution uses up.
        is_end: Whether the clips end in it, and are padded there. Else it ends with context.
        num_valid: Positions up to the end of each clip, (B,), where the ends differ.
        weights: Weights that were computed before, once for many pieces; the other layers compute their own.
    """

    is_start: bool = True
    is_end: bool = True
    num_valid: torch.Tensor | None = None
    weights: dict["WavTokenizerConv1d", torch.Tensor] = field(default_factory=dict)

    def after(self, conv: "WavTokenizerConv1d") -> "_Piece":
        """The piece that is left of this one after a convolution."""
        if self.num_valid is None:
            return self
        context = 0 if self.is_start else conv.left_padding
        return replace(self, num_valid=(self.num_valid - context + conv.stride - 1) // conv.stride)


_WHOLE = _Piece()


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
        self.stride = stride
        self.reflects = config.pad_mode == "reflect"
        total = (kernel_size - 1) * dilation + 1 - stride
        self.right_padding = 0 if config.use_causal_conv else total // 2
        self.left_padding = total - self.right_padding
        # The last stride may need as much as this beyond a clip's end.
        self.widest_right_padding = self.right_padding + stride - 1
        self.is_pointwise = kernel_size == stride == 1

    def forward(self, hidden_states: torch.Tensor, piece: _Piece = _WHOLE) -> torch.Tensor:
        """Convolves (B, C, length) into (B, C', ceil(length / stride)), less what was context."""
        if self.is_pointwise:
            padded = hidden_states
        elif piece.num_valid is None:
            padded = self._pad(hidden_states, piece)
        else:
            padded = self._pad_each(hidden_states, piece, piece.num_valid.to(hidden_states.device))
        return self.conv(padded, piece.weights.get(self))

    # The two paddings below read the signal by index: position p before the start holds sample -p, position p from the
    # turning point m on holds sample 2 (m - 1) - p, and samples past the clip's end are zeros. The turning point is
    # the clip's end, or later where the clip is too short to reflect. The right side is always as wide as the widest
    # padding, stride - 1 beyond the least: that gives ceil(length / stride) frames, and what lies past a length's own
    # padding reaches none of them. Nothing branches on the length, so torch.export keeps it dynamic.

    def _pad(self, hidden_states: torch.Tensor, piece: _Piece) -> torch.Tensor:
        """Pads clips of one length: (B, C, length) -> (B, C, left + length + widest right)."""
        length = hidden_states.shape[-1]
        left, context = (self.left_padding, 0) if piece.is_start else (0, self.left_padding)
        widest = self.widest_right_padding if piece.is_end else 0
        if not (left or widest):
            return hidden_states
        if not self.reflects:
            nothing = hidden_states.new_zeros(()).expand(*hidden_states.shape[:2], left + widest)
            return _join([nothing[..., :left], hidden_states, nothing[..., left:]])
        device = hidden_states.device
        before = torch.arange(left, 0, -1, device=device)
        after = torch.arange(widest, device=device) + length
        right_padding = self.right_padding + (context - length) % self.stride
        turn = torch.sym_max(length, torch.sym_max(left, right_padding) + 1)
        after = torch.where(after < turn, after, 2 * (turn - 1) - after)
        edges = [
            hidden_states.index_select(-1, index.clamp(0, length - 1)).masked_fill(index >= length, 0)
            for index in (before, after)
        ]
        return _join([edges[0], hidden_states, edges[1]])

    def _pad_each(self, hidden_states: torch.Tensor, piece: _Piece, num_valid: torch.Tensor) -> torch.Tensor:
        """Pads every clip at its own end: (B, C, length) -> (B, C, left + length + widest right)."""
        num_channels, length = hidden_states.shape[-2:]
        end = num_valid[:, None]  # (B, 1)
        left, context = (self.left_padding, 0) if piece.is_start else (0, self.left_padding)
        widest = self.widest_right_padding
        right_padding = self.right_padding + (context - end) % self.stride
        turn = torch.maximum(end, right_padding.clamp(min=left) + 1)
        after = torch.arange(widest, device=hidden_states.device) + end  # (B, widest)
        before = torch.arange(left, 0, -1, device=hidden_states.device).expand(end.shape[0], -1)
        reflected = torch.where(after < turn, after, 2 * (turn - 1) - after)
        edges = []
        for index in (before, reflected):
            exists = (index < end) & (index >= 0) & self.reflects
            index = index.clamp(0, length - 1)[:, None].expand(-1, num_channels, -1)
            edges.append(hidden_states.gather(-1, index).masked_fill(~exists[:, None], 0))
        room = hidden_states.new_zeros(()).expand(*hidden_states.shape[:2], widest)
        padded = _join([edges[0], hidden_states, room])
        positions = (left + after)[:, None].expand(-1, num_channels, -1)
        return padded.scatter_(-1, positions, edges[1])


class WavTokenizerELU(nn.Module):
    """ELU.

    Deviates: On a CPU in float32 and without gradients, exp(x) - 1 stands for expm1(x), since torch computes `exp`
    several times as fast as `expm1`. The two differ by no more than the rounding of numbers near 1, 6e-8.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        is_plain = hidden_states.device.type == "cpu" and hidden_states.dtype == torch.float32
        if not is_plain or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return F.elu(hidden_states)
        below = hidden_states.clamp(max=0).exp_().sub_(1)
        return torch.maximum(hidden_states, below, out=below)


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
        self.shortcut: nn.Module = nn.Identity()
        if config.use_conv_shortcut:
            self.shortcut = WavTokenizerConv1d(config, num_channels, num_channels, kernel_size=1)

    @property
    def dilated(self) -> WavTokenizerConv1d:
        """The one convolution of the block that looks beyond a position."""
        return cast(WavTokenizerConv1d, self.block[1])

    def forward(self, hidden_states: torch.Tensor, piece: _Piece = _WHOLE) -> torch.Tensor:
        residual = hidden_states
        activation, dilated, last_activation, pointwise = self.block
        hidden_states = last_activation(dilated(activation(hidden_states), piece))
        # What the convolution used up as context.
        first = 0 if piece.is_start else self.dilated.left_padding
        residual = residual[..., first : first + hidden_states.shape[-1]]
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
            output = _scan_lstm(self.lstm, sequence)
        else:
            output, state = self.lstm(sequence, state)
        return (output + sequence).permute(1, 2, 0), state  # (L, B, C) -> (B, C, L)


def _scan_lstm(lstm: nn.LSTM, sequence: torch.Tensor) -> torch.Tensor:
    """What `lstm` computes from (L, B, C), as a scan: `torch.export` would unroll `nn.LSTM` and fix the length."""
    scan = importlib.import_module("torch._higher_order_ops.scan").scan
    for layer in range(lstm.num_layers):
        weight_ih, weight_hh, bias_ih, bias_hh = (
            getattr(lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )

        def step(state, from_input, weight_hh=weight_hh):
            hidden, cell = state
            gates = from_input + hidden @ weight_hh.T
            input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=-1)
            cell = forget_gate.sigmoid() * cell + input_gate.sigmoid() * candidate.tanh()
            hidden = output_gate.sigmoid() * cell.tanh()
            return (hidden, cell), hidden.clone()

        start = torch.zeros_like(sequence[0])
        _, sequence = scan(step, (start, start.clone()), F.linear(sequence, weight_ih, bias_ih + bias_hh))
    return sequence


class WavTokenizerEncoder(nn.Module):
    """SEANet encoder: strided convolutions with residual blocks between them, an LSTM, and a last convolution.

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
        self.hop_length = config.hop_length
        self._num_filters = config.num_filters
        self._measure_reach()

    def _measure_reach(self) -> None:
        """Sets what a frame that enters the LSTM depends on.

        `samples_before` and `samples_after` count what it depends on beyond its own hop, and `min_frames` is the
        least number of frames of a piece that holds all that is reflected at its start or end, if it is not both.
        """
        samples_per_position, before, after = 1, 0, 0
        at_start, at_end = [], []  # samples from the start of a piece that the reflections read
        for conv in self._convolutions():
            if conv.reflects:
                at_start.append((conv.left_padding + 1) * samples_per_position)
                at_end.append((conv.widest_right_padding + 1) * samples_per_position + before)
            before += conv.left_padding * samples_per_position
            after += conv.right_padding * samples_per_position
            samples_per_position *= conv.stride
        self.samples_before, self.samples_after = before, after
        # The last frame may hold one sample only, and a piece that is no start has the samples before it, too.
        at_end = [self.hop_length + samples - before for samples in at_end]
        self.min_frames = max([1, *(-(-samples // self.hop_length) for samples in (*at_start, *at_end))])

    def _convolutions(self) -> list[WavTokenizerConv1d]:
        """Those before the LSTM that look beyond a position, in their order."""
        wide = (layer.dilated if isinstance(layer, WavTokenizerResidualBlock) else layer for layer in self.layers[:-3])
        return [layer for layer in wide if isinstance(layer, WavTokenizerConv1d)]

    @property
    def lstm(self) -> WavTokenizerLSTM:
        return cast(WavTokenizerLSTM, self.layers[-3])

    @property
    def last_convolution(self) -> WavTokenizerConv1d:
        return cast(WavTokenizerConv1d, self.layers[-1])

    def forward(
        self, input_values: torch.Tensor, num_valid: torch.Tensor | None = None, output_hidden_states: bool = False
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """Maps (B, 1, T) to latents (B, D, L), and to the hidden states where they are asked for."""
        recorded: list[torch.Tensor] | None = [] if output_hidden_states else None
        if recorded is not None or torch.compiler.is_compiling():
            hidden_states = self._run(input_values, _Piece(num_valid=num_valid), recorded)
        else:
            hidden_states = self.convolve(input_values, num_valid)
        hidden_states, _ = self.lstm(hidden_states)
        if recorded is not None:
            recorded.append(hidden_states)
        if num_valid is not None:
            num_valid = -(-num_valid // self.hop_length)
        latents = self.project(hidden_states, num_valid)
        return latents, None if recorded is None else (*recorded, latents)

    def convolve(
        self,
        input_values: torch.Tensor,
        num_valid: torch.Tensor | None = None,
        is_start: bool = True,
        is_end: bool = True,
        weights: dict[WavTokenizerConv1d, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The layers before the LSTM, in pieces that stay in the caches, whatever the length.

        A piece takes along the samples that its first and last frames reach out to, less than a frame each way at the
        released geometries, so that its frames are those of the whole clip.

        Args:
            input_values: (B, 1, T). Where it is not the start of the clips, the first frame's own samples begin at
                `samples_before`, and what lies before them is context; where it is not their end, `samples_after`
                samples of context follow the last frame's own.
            num_valid: Samples up to the end of each clip, (B,); only where `is_end`.
            is_start: Whether the clips begin here.
            is_end: Whether the clips end here.
            weights: What `computed_weights` returned; computed here where it is not given.

        Returns:
            (B, C, L). What lies past the end of a clip holds no meaning.
        """
        num_rows, _, length = input_values.shape
        origin = 0 if is_start else self.samples_before  # where the samples of frame 0 begin
        beyond = 0 if is_end else self.samples_after
        frame_size = self._num_filters * self.hop_length
        step = max(_NUMBERS_AT_ONCE_ON_CPU // frame_size, 2 * self.min_frames)
        at_once = max(_numbers_at_once(input_values.device) // frame_size, step)
        num_frames = -(-(length - origin - beyond) // self.hop_length)
        # oneDNN prepares for every new shape, which takes longer than a short clip: ends are filled up to few lengths.
        is_on_grid = is_end and input_values.device.type == "cpu" and not torch.is_grad_enabled()
        if num_rows * num_frames <= at_once and not is_on_grid:
            return self._run(input_values, _Piece(is_start, is_end, num_valid, weights or {}))

        ends = [length] * num_rows if num_valid is None else num_valid.tolist()
        stretches = []
        for row, end in enumerate(ends):
            count = -(-(end - origin - beyond) // self.hop_length)
            for first, last in _cut(count, step):
                starts, stops = is_start and first == 0, is_end and last == count
                begin = origin + first * self.hop_length - (0 if starts else self.samples_before)
                stop = end if stops else origin + last * self.hop_length + self.samples_after
                stretches.append(_Stretch(starts, stops, row, first, last - first, begin, stop))
        if weights is None:
            weights = self.computed_weights()
        output = input_values[:0]
        for group in _groups(stretches, at_once):
            rows, firsts, begins, lengths = torch.tensor(
                [(each.row, each.first, each.begin, each.end - each.begin) for each in group],
                device=input_values.device,
            ).T[..., None]  # (N, 1) each
            widest = max(each.end - each.begin for each in group)
            if is_on_grid and group[0].is_end:
                spacing = max(self.hop_length, 2 ** (widest.bit_length() - 4))  # an eighth at most
                widest = -(-widest // spacing) * spacing
            samples = (begins + torch.arange(widest, device=begins.device)).clamp(max=length - 1)
            is_ragged = any(each.end - each.begin < widest for each in group)
            frames = self._run(
                input_values[rows, 0, samples][:, None],
                _Piece(group[0].is_start, group[0].is_end, lengths[:, 0] if is_ragged else None, weights),
            ).transpose(1, 2)  # (N, C, L) -> (N, L, C)
            if not output.numel():
                # With room for what comes out past the end of a clip that is shorter than others of its group.
                room = 2 * max(each.num_frames for each in stretches)
                output = frames.new_zeros(num_rows, num_frames + room, frames.shape[-1])
            places = firsts + torch.arange(frames.shape[1], device=firsts.device)
            output[rows.to(output.device), places.to(output.device)] = frames
        return output[:, :num_frames].transpose(1, 2)

    def project(
        self,
        hidden_states: torch.Tensor,
        num_valid: torch.Tensor | None = None,
        is_start: bool = True,
        is_end: bool = True,
        weights: dict[WavTokenizerConv1d, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """What follows the LSTM; arguments as in `convolve`, in frames.

        Context is `last_convolution.left_padding` frames before and `right_padding` after.
        """
        _, activation, last = self.layers[-3:]
        return last(activation(hidden_states), _Piece(is_start, is_end, num_valid, weights or {}))

    def computed_weights(self) -> dict[WavTokenizerConv1d, torch.Tensor]:
        """The weights that weight norm computes, for many calls of `convolve` and `project`.

        They do not follow what becomes of the model's parameters. What is offloaded is left out.
        """
        convs = (module for module in self.modules() if isinstance(module, WavTokenizerConv1d))
        return {conv: _side_by_side(conv.conv.weight) for conv in convs if not conv.conv.bias.is_meta}

    def _run(
        self, hidden_states: torch.Tensor, piece: _Piece, recorded: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Runs the layers before the LSTM, and records the outputs of the convolutions that change rate or width."""
        hidden_states = hidden_states.to(next(self.parameters()).dtype)
        # One channel: the memory is the same in either order, but its strides tell the convolution which one is meant.
        hidden_states = hidden_states.reshape(hidden_states.shape[0], -1, 1).transpose(1, 2)
        for layer in self.layers[:-3]:
            if isinstance(layer, WavTokenizerELU):
                hidden_states = layer(hidden_states)
                continue
            hidden_states = layer(hidden_states, piece)
            conv = layer.dilated if isinstance(layer, WavTokenizerResidualBlock) else layer
            piece = piece.after(cast(WavTokenizerConv1d, conv))
            if recorded is not None and isinstance(layer, WavTokenizerConv1d):
                recorded.append(hidden_states)
        return hidden_states


class _Stretch(NamedTuple):
    """A stretch of one clip: `num_frames` frames from frame `first` on, computed from samples `begin`..`end` - 1."""

    is_start: bool
    is_end: bool
    row: int
    first: int
    num_frames: int
    begin: int
    end: int


def _cut(num_frames: int, step: int) -> Iterator[tuple[int, int]]:
    """Frames in pieces of `step`, (first, one past the last), the last piece half as long to one and a half times."""
    edges = [*range(0, max(step, num_frames - step // 2), step), num_frames]
    return itertools.pairwise(edges)


def _groups(stretches: list[_Stretch], at_once: int) -> Iterator[list[_Stretch]]:
    """Stretches that run through the layers as one batch: padded alike, alike in length, and not too many frames."""
    ordered = sorted(stretches, key=lambda stretch: (stretch.is_start, stretch.is_end, stretch.num_frames))
    for _, alike in itertools.groupby(ordered, key=lambda stretch: (stretch.is_start, stretch.is_end)):
        group: list[_Stretch] = []
        for stretch in alike:
            if group and (len(group) + 1) * stretch.num_frames > at_once:
                yield group
                group = []
            group.append(stretch)
        yield group


# --------------------------------------------------------------------------------------------------------- quantizer


class WavTokenizerCodebook(_Float32Buffers):
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
        with _without_autocast(vectors):
            index = _index_of(self)
            found = None if index is None else index.nearest(vectors.detach().flatten(0, 1), self.embed)
            if found is not None:
                return found.unflatten(0, vectors.shape[:2])
            # |v - e|^2 = |v|^2 - 2 (v e - |e|^2 / 2), and the vector's own norm moves all its distances alike.
            squares = self.embed.square().sum(dim=-1)
            offsets = -0.5 * squares
            if torch.compiler.is_compiling():
                return (vectors @ self.embed.T + offsets).argmax(dim=-1)
            longest = squares.max().sqrt()
            at_once = max(1, _numbers_at_once(vectors.device) // offsets.shape[0])
            flat = vectors.detach().flatten(0, 1)
            codes = [self._nearest(some, offsets, longest) for some in flat.split(at_once)]
            return torch.cat(codes).unflatten(0, vectors.shape[:2])

    def _nearest(self, vectors: torch.Tensor, offsets: torch.Tensor, longest: torch.Tensor) -> torch.Tensor:
        """Nearest entries (N,) of vectors (N, D), told apart in float64 where float32 cannot; the first of equals."""
        scores = torch.addmm(offsets, vectors, self.embed.T)  # (N, K)
        best, codes = scores.max(dim=-1)
        second = scores.scatter(-1, codes[:, None], -math.inf).amax(dim=-1)
        noise = _SCORE_NOISE * longest * torch.maximum(torch.linalg.vector_norm(vectors, dim=-1), longest)
        is_close = best - second <= noise
        if not _can_look_at(codes) or not is_close.any():
            return codes
        may_be_nearest = (scores[is_close] >= (best - noise)[is_close, None]).any(dim=0).nonzero()[:, 0]
        entries = self.embed[may_be_nearest].double()
        scores = torch.addmm(-0.5 * entries.square().sum(dim=-1), vectors[is_close].double(), entries.T)
        is_best = scores >= scores.amax(dim=-1, keepdim=True) - 2**-23 * noise[is_close, None].double()
        codes[is_close] = may_be_nearest[is_best.byte().argmax(dim=-1)]
        return codes


class _CodebookIndex:
    """Finds the entries that `WavTokenizerCodebook._nearest` finds, and compares a few of them only.

    The score of an entry e is v e - |e|^2 / 2, with both vectors taken from the middle of the codebook. Along the
    codebook's principal axes the product is known from a few numbers; the rest of it is at most the product of the
    norms of what is left of the two. An entry whose score cannot reach the best one found so far is passed over, and
    what is not is compared in float64. Bounds are in float32, and their rounding errors allowed for.

    Args:
        embed: The entries, float32 (K, D), on a CPU. Once they change, the index is of no use: see `is_of`.

    Source: The bound is that of Cauchy and Schwarz.
    """

    def __init__(self, embed: torch.Tensor):
        self._embed, self._state = weakref.ref(embed), (embed.data_ptr(), embed._version)
        size, width = embed.shape
        self._step = max(1, size // 256)
        self._some = embed[:: self._step].clone()
        squares = [some.square().sum(dim=-1).max() for some in embed.split(_ENTRIES_AT_ONCE)]
        self._longest = torch.stack(squares).max().sqrt()
        self._is_useful = bool(_SAFE_NORMS[0] < self._longest < _SAFE_NORMS[1])
        if not self._is_useful:
            return
        sample = embed[:: max(1, size // 2048)].double()
        self._centre = sample.mean(dim=0)
        sample -= self._centre
        variances, axes = torch.linalg.eigh(sample.T @ sample)  # from the least to the greatest
        few = int((variances.cumsum(dim=0) > _VARIANCE_LEFT * variances.sum()).sum())
        num_axes = min(-(-few // 16) * 16, _MAX_AXES, width)
        self._is_useful = bool(variances[: width - num_axes].sum() <= _VARIANCE_LEFT_AT_MOST * variances.sum())
        if not self._is_useful:
            return
        self._axes = axes[:, width - num_axes :].contiguous()
        # What fills up the last group scores below every entry.
        num_rows = -(-size // _BOUNDS_IN_GROUP) * _BOUNDS_IN_GROUP
        self._coordinates = embed.new_zeros(num_rows, min(num_axes + 1, width))
        self._offsets = embed.new_full((num_rows,), -math.inf)
        rows = zip(
            *(tensor.split(_ENTRIES_AT_ONCE) for tensor in (embed, self._coordinates, self._offsets)), strict=True
        )
        for entries, coordinates, offsets in rows:
            along_axes, squares_here = self._along_axes(entries.double())
            coordinates[: len(entries)] = along_axes
            offsets[: len(entries)] = -0.5 * squares_here
        self._radius = (-2 * self._offsets[:size].min()).sqrt().double()

    def is_of(self, embed: torch.Tensor) -> bool:
        """Whether it was made of these entries, which have not changed since.

        torch counts changes, but not those through `.data` or a NumPy view; if these changed all entries, some tell.
        """
        is_same = self._embed() is embed and self._state == (embed.data_ptr(), embed._version)
        return is_same and torch.equal(self._some, embed[:: self._step])

    def nearest(self, vectors: torch.Tensor, embed: torch.Tensor) -> torch.Tensor | None:
        """Nearest entries (N,) of vectors (N, D); `None` where comparing all entries is faster, or is needed.

        It is needed where numbers are not finite, or so large or small that their squares are none of float32.
        """
        norms = torch.linalg.vector_norm(vectors, dim=-1)
        if not self._is_useful or not len(vectors) or not (norms < _SAFE_NORMS[1]).all():
            return None
        noise = _SCORE_NOISE * self._longest * torch.maximum(norms, self._longest)
        parts = []
        for some, ties in zip(vectors.split(256), (2**-23 * noise.double()).split(256), strict=True):
            codes = self._nearest(some.double(), ties, embed)
            if codes is None:
                return None
            parts.append(codes)
        return torch.cat(parts)

    def _nearest(self, vectors: torch.Tensor, ties: torch.Tensor, embed: torch.Tensor) -> torch.Tensor | None:
        """As `nearest`, of float64 vectors; of entries whose scores differ by no more than `ties`, the first."""
        coordinates, squares = self._along_axes(vectors)
        coordinates = coordinates.float()
        # What a score from the middle of the codebook lacks, and how far float32 may be off: fewer than 2^8 roundings.
        shift = vectors @ self._centre - 0.5 * self._centre.square().sum()
        slack = 2**-16 * self._radius * torch.maximum(squares.sqrt(), self._radius) + 2 * ties
        every_row = torch.arange(len(vectors))
        best = vectors.new_full((len(vectors),), -math.inf)
        found, num_compared = [], 0
        at_once = max(1, _NUMBERS_AT_ONCE_ON_CPU // (len(vectors) * _BOUNDS_IN_GROUP)) * _BOUNDS_IN_GROUP
        for begin in range(0, len(self._coordinates), at_once):
            stretch = slice(begin, begin + at_once)
            bounds = torch.addmm(self._offsets[stretch], coordinates, self._coordinates[stretch].T)
            bounds = bounds.unflatten(-1, (-1, _BOUNDS_IN_GROUP))  # (N, entries) -> (N, groups, group)
            highest = bounds.amax(dim=-1)
            group = highest.argmax(dim=-1)
            likely = begin + group * _BOUNDS_IN_GROUP + bounds[every_row, group].argmax(dim=-1)
            best = torch.maximum(best, _scores(vectors, every_row, embed, likely.clamp(max=len(embed) - 1)))
            reach = (best - shift - slack).float()
            rows, groups = (highest >= reach[:, None]).nonzero(as_tuple=True)
            which, place = (bounds[rows, groups] >= reach[rows, None]).nonzero(as_tuple=True)
            rows, entries = rows[which], begin + groups[which] * _BOUNDS_IN_GROUP + place
            num_compared += len(rows)
            if num_compared > len(vectors) * max(_BOUNDS_IN_GROUP, len(embed) * _COMPARED_AT_MOST):
                return None
            scores = _scores(vectors, rows, embed, entries)
            best = best.scatter_reduce(0, rows, scores, "amax")
            found.append((rows, entries, scores))
        rows, entries, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        is_best = scores >= (best - ties)[rows]
        return torch.full_like(every_row, len(embed)).scatter_reduce(0, rows[is_best], entries[is_best], "amin")

    def _along_axes(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of float64 (N, D): coordinates and the norm of the rest, a hair too long; the square of the whole norm."""
        centred = vectors - self._centre
        coordinates, squares = centred @ self._axes, centred.square().sum(dim=-1)
        if self._axes.shape[0] > self._axes.shape[1]:
            rest = (squares - coordinates.square().sum(dim=-1)).clamp(min=0).sqrt() * (1 + 2**-20)
            coordinates = torch.cat([coordinates, rest[:, None]], dim=-1)
        return coordinates, squares


def _scores(vectors: torch.Tensor, rows: torch.Tensor, embed: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
    """v e - |e|^2 / 2 of pairs of a vector and an entry, (P,) indices each, in float64."""
    scores = []
    at_once = max(1, _NUMBERS_AT_ONCE_ON_CPU // embed.shape[1])
    for some, which in zip(rows.split(at_once), entries.split(at_once), strict=True):
        entry = embed[which].double()
        scores.append(((vectors[some] - 0.5 * entry) * entry).sum(dim=-1))
    return torch.cat(scores)


_indices: weakref.WeakKeyDictionary[WavTokenizerCodebook, _CodebookIndex] = weakref.WeakKeyDictionary()


def _index_of(codebook: WavTokenizerCodebook) -> _CodebookIndex | None:
    """The index of a codebook, made when it is first asked for and when entries have changed; `None` of small ones.

    It is no part of the module: copies and files do without it.
    """
    embed = codebook.embed
    if len(embed) < _INDEXED_FROM or torch.compiler.is_compiling():
        return None
    if embed.device.type != "cpu" or embed.dtype != torch.float32 or embed.is_inference():
        return None
    index = _indices.get(codebook)
    if index is None or not index.is_of(embed):
        index = _indices[codebook] = _CodebookIndex(embed)
    return index


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


# What a causal decoder remembers of a stream: of each layer that looks back, the last frames of its input, or of its
# output for the projections of keys and values, (B, C, l). Who streams makes it and owns it; a call of the backbone
# replaces its tensors and changes none.
LayerCache: TypeAlias = dict[nn.Module, torch.Tensor]


def _with_past(layer: nn.Module, hidden_states: torch.Tensor, cache: LayerCache, num_kept: int | None) -> torch.Tensor:
    """Frames (B, C, L) behind those that the cache has of a layer; it then has the last `num_kept` of all, or all."""
    hidden_states = _join([cache[layer], hidden_states])
    first = 0 if num_kept is None else max(0, hidden_states.shape[-1] - num_kept)
    cache[layer] = hidden_states[..., first:].clone()
    return hidden_states


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
                missing = max(0, missing - cache[self].shape[-1])
                hidden_states = _with_past(self, hidden_states, cache, self.left_padding)
            if missing:
                zeros = hidden_states.new_zeros(()).expand(*hidden_states.shape[:2], missing)
                hidden_states = _join([zeros, hidden_states])
        return _convolve(self, hidden_states, self.weight)


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
        may_see = _last_may_see(scores.shape[-2], scores.shape[-1], module.window, scores.device)
        scores = scores.masked_fill(~may_see, torch.finfo(scores.dtype).min)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def _may_see(frames: torch.Tensor, others: torch.Tensor, window: int | None) -> torch.Tensor:
    """Which frames see which others in causal attention: frame numbers (..., L) and (..., M) -> (..., L, M)."""
    distance = frames[..., :, None] - others[..., None, :]
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def _last_may_see(num_frames: int, num_others: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Which of all frames the last ones see, (num_frames, num_others)."""
    others = torch.arange(num_others, device=device)
    return _may_see(others[num_others - num_frames :], others, window)


def _in_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cuts attention over a window into blocks of frames as long as the window, so that its cost is linear.

    The blocks take the place of heads. A block sees its own keys and those of the block before.

    Shape:
        query, key, value (B, 1, L, D) -> query (B, N, W, D), key and value (B, N, 2W, D), mask (1, N, W, 2W)
    """
    num_frames = query.shape[2]
    if torch.compiler.is_compiling():
        num_blocks = torch.sym_max(-(-num_frames // window), 2)  # torch.export takes a size of 1 for a constant
    else:
        window = min(window, num_frames)
        num_blocks = -(-num_frames // window)
    tail = num_blocks * window - num_frames
    query, key, value = (
        F.pad(tensor[:, 0], (0, 0, 0, tail)).unflatten(1, (num_blocks, window)) for tensor in (query, key, value)
    )
    key, value = (torch.cat([F.pad(tensor, (0, 0, 0, 0, 1, -1)), tensor], dim=2) for tensor in (key, value))
    frames = torch.arange(num_blocks, device=query.device)[:, None] * window  # the first of each block
    others = frames + torch.arange(-window, window, device=query.device)  # (N, 2W)
    mask = _may_see(others[:, window:], others, window) & (others >= 0)[:, None]
    return query, key, value, mask[None]


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
                _with_past(self.k, projected[1], cache, num_kept),
                _with_past(self.v, projected[2], cache, num_kept),
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
        if attend is not eager_attention_forward:
            if cache is not None:
                mask = _last_may_see(num_frames, key.shape[2], self.window, key.device)[None, None]
            elif self.window is not None:
                query, key, value, mask = _in_blocks(query, key, value, self.window)
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
        hidden_states = _by_position(self._mix, hidden_states, self.pwconv1.out_features)
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
        for attention in self.pos_net:
            if isinstance(attention, WavTokenizerAttention):
                layers += attention.k, attention.v
        return {layer: layer.weight.new_zeros(batch_size, layer.in_channels, 0) for layer in layers}

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
        attention_weights = None
        hidden_states = self.embed(_zero_past_end(latents.to(self.embed.weight.dtype), frame_mask), cache)
        if self.is_causal:
            frame_mask = None  # what lies past a clip's end reaches no frame before it
        for layer in self.pos_net:
            if isinstance(layer, WavTokenizerAttention):
                hidden_states, attention_weights = layer(hidden_states, frame_mask, cache)
            elif isinstance(layer, WavTokenizerResnetBlock):
                hidden_states = layer(hidden_states, frame_mask, cache)
            else:
                hidden_states = layer(hidden_states, frame_mask)
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


class WavTokenizerISTFTHead(_Float32Buffers):
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
        with _without_autocast(frames):
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
        with _without_autocast(spectrum):
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
            if tensor.is_floating_point() and not tensor.is_meta and not _is_finite(tensor):
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
        return any(
            isinstance(module, WavTokenizerConv1d) and not parametrize.is_parametrized(module.conv)
            for module in self.modules()
        )

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
        for module in self.modules():
            if isinstance(module, WavTokenizerConv1d) and parametrize.is_parametrized(module.conv):
                _merge_weight_norm(module.conv)
        for encoder_model, identity in before.items():
            encoder_model.fingerprints_before_fusing = {fingerprint(encoder_model): identity}
        return self

    def num_codes(self, num_samples: int | torch.Tensor) -> int | torch.Tensor:
        """Number of codes of a clip: ceil(num_samples / hop_length)."""
        return -(-num_samples // self.config.hop_length)

    def num_samples(self, num_codes: int | torch.Tensor) -> int | torch.Tensor:
        """Number of samples that codes decode to: num_codes * hop_length."""
        return num_codes * self.config.hop_length

    def _check_codes(self, audio_codes: torch.Tensor, audio_codes_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Refuses what is not a batch of codes; returns them with 0 where the mask says padding."""
        if not isinstance(audio_codes, torch.Tensor):
            raise ValueError(f"`audio_codes` must be a torch tensor (B, 1, L), got {type(audio_codes).__name__}.")
        if audio_codes.ndim != 3 or audio_codes.shape[1] != 1:
            raise ValueError(
                f"`audio_codes` must have shape (B, 1, L), got {tuple(audio_codes.shape)}. Add the axes of batch and "
                "codebook with `audio_codes.reshape(batch_size, 1, -1)`."
            )
        if audio_codes.dtype == torch.bool or audio_codes.is_floating_point() or audio_codes.is_complex():
            raise ValueError(f"`audio_codes` must be integers, got {audio_codes.dtype}.")
        if audio_codes.numel() == 0:
            raise ValueError(
                f"`audio_codes` is empty, shape {tuple(audio_codes.shape)}; decoding takes 1 code or more."
            )
        audio_codes = audio_codes.long()
        if audio_codes_mask is not None:
            audio_codes = audio_codes.masked_fill(~audio_codes_mask, 0)
        if _can_look_at(audio_codes):
            wrong = (audio_codes < 0) | (audio_codes >= self.config.codebook_size)
            if wrong.any():
                index, _, frame = wrong.nonzero()[0].tolist()
                raise ValueError(
                    f"Codes must lie in 0..{self.config.codebook_size - 1} (`codebook_size` - 1); clip {index} holds "
                    f"{audio_codes[index, 0, frame].item()} at frame {frame}."
                )
        return audio_codes


def _can_look_at(tensor: torch.Tensor) -> bool:
    """Whether values may be checked: not while tracing, and not on the meta device, where there are none."""
    return not torch.compiler.is_compiling() and not tensor.is_meta


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite; the sum is both faster than looking at each and of the size of one."""
    return math.isfinite(tensor.sum(dtype=torch.float64))


def _refuse_unfinite(input_values: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Refuses NaN and infinity among the samples (B, 1, T) that belong to a clip."""
    if _is_finite(input_values.detach()):
        return
    wrong = ~input_values[:, 0].isfinite()
    if mask is not None:
        wrong &= mask.to(wrong.device)
    if wrong.any():
        index, sample = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"`input_values` must be finite, and clip {index} holds {input_values[index, 0, sample].item()} at sample "
            f"{sample}. Its codes would mean nothing; drop the clip, or mend what made it."
        )


def _valid_mask(mask: torch.Tensor | None, shape: tuple[int, int], name: str) -> torch.Tensor | None:
    """Checks a mask of right padding and drops its channel axis.

    Args:
        mask: (B, length) or (B, 1, length) of any dtype, non-zero where valid; or None.
        shape: The expected (B, length).
        name: What the caller calls it, for errors.

    Returns:
        Boolean (B, length), or None where nothing is padded.
    """
    if mask is None:
        return None
    if not isinstance(mask, torch.Tensor):
        raise ValueError(f"`{name}` must be a torch tensor of shape {shape}, got {type(mask).__name__}.")
    flat = mask[:, 0] if mask.ndim == 3 and mask.shape[1] == 1 else mask
    if tuple(flat.shape) != shape:
        raise ValueError(
            f"`{name}` must have shape {shape} or {(shape[0], 1, shape[1])}, one value per position, got "
            f"{tuple(mask.shape)}."
        )
    flat = flat != 0
    if _can_look_at(flat):
        if flat.all():
            return None
        empty = ~flat[:, 0]
        gaps = (flat[:, 1:] & ~flat[:, :-1]).any(dim=-1)
        if (gaps | empty).any():
            index = int((gaps | empty).nonzero()[0])
            raise ValueError(
                f"`{name}` of clip {index} does not start with a valid position and end in padding. Only padding on "
                "the right keeps the frames where they are; pad there, and drop empty clips."
            )
    return flat


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
        if not isinstance(input_values, torch.Tensor):
            raise ValueError(
                f"`input_values` must be a torch tensor (B, 1, T), got {type(input_values).__name__}. The feature "
                "extractor makes it from files and arrays: "
                'encode(**feature_extractor(audio, resample=True, return_tensors="pt")).'
            )
        if input_values.ndim != 3 or input_values.shape[1] != 1:
            raise ValueError(
                f"`input_values` must have shape (B, 1, T), got {tuple(input_values.shape)}. The feature extractor "
                "makes it from recordings of any shape."
            )
        if input_values.shape[0] == 0 or input_values.shape[-1] == 0:
            raise ValueError(
                f"`input_values` is empty, shape {tuple(input_values.shape)}; a clip needs 1 sample or more."
            )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        batch_size, _, num_samples = input_values.shape
        mask = _valid_mask(padding_mask, (batch_size, num_samples), "padding_mask")
        if input_values.device.type == "cpu" and _can_look_at(input_values):
            _refuse_unfinite(input_values, mask)
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

    def encode(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        output_latents: bool = False,
        **kwargs,
    ) -> WavTokenizerEncoderOutput:
        """The same as `forward`."""
        return self(input_values, padding_mask, output_latents, **kwargs)

    def decode(self, audio_codes: torch.Tensor | None = None, *args, **kwargs):
        """Refuses: this half has no decoder."""
        raise RuntimeError(
            "WavTokenizerEncoderModel has no decoder. Load WavTokenizerModel, or WavTokenizerDecoderModel for "
            "decoding alone."
        )

    def codes_to_latents(self, audio_codes: torch.Tensor) -> torch.Tensor:
        """The codebook's entries of (B, 1, L) codes, float32 (B, D, L)."""
        return self.quantizer.codes_to_latents(self._check_codes(audio_codes)).to(audio_codes.device)


class WavTokenizerDecodingModel(WavTokenizerPreTrainedModel):
    """Decoding, for the two models that have a backbone and a head."""

    backbone: WavTokenizerBackbone
    head: WavTokenizerISTFTHead

    @property
    def _quantizer(self) -> WavTokenizerQuantizer:
        """The whole codec has it in its encoder, the decoder alone has it itself."""
        holder: Any = self.base_model
        return holder.quantizer

    def codes_to_latents(self, audio_codes: torch.Tensor) -> torch.Tensor:
        """The codebook's entries of (B, 1, L) codes, float32 (B, D, L)."""
        return self._quantizer.codes_to_latents(self._check_codes(audio_codes)).to(audio_codes.device)

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
        mask = _valid_mask(audio_codes_mask, (batch_size, num_frames), "audio_codes_mask")
        frame_mask = None if mask is None else mask[:, None].to(given.device)
        if quantized_latents is None:
            latents = self._quantizer.codes_to_latents(self._check_codes(given, frame_mask)).to(given.device)
        elif given.shape[1] == self.config.codebook_dim and given.numel():
            latents = given
        else:
            raise ValueError(
                f"`quantized_latents` must have shape (B, {self.config.codebook_dim}, L) with L of 1 or more, got "
                f"{tuple(given.shape)}."
            )
        features, hidden_states, attention = self.backbone(
            latents, self._bandwidth_ids(bandwidth_id, batch_size, given.device), frame_mask, output_hidden_states
        )
        audio_values = self.head(features, frame_mask)
        return WavTokenizerDecoderOutput(
            audio_values=audio_values[:, None].to(device=given.device, dtype=torch.float32),
            decoder_hidden_states=hidden_states,
            decoder_attentions=(attention,) if output_attentions else None,
        )

    def _bandwidth_ids(
        self, bandwidth_id: int | torch.Tensor | None, batch_size: int, device: torch.device
    ) -> torch.Tensor:
        """Ids as int64 (B, 1), or (1, 1) where all clips share one."""
        if bandwidth_id is None:
            bandwidth_id = self.config.bandwidth_id
        if isinstance(bandwidth_id, bool) or not isinstance(bandwidth_id, (int, torch.Tensor)):
            raise ValueError(
                f"`bandwidth_id` must be an int or an integer tensor (B,), got {type(bandwidth_id).__name__}."
            )
        if isinstance(bandwidth_id, int):
            ids = torch.full((1, 1), bandwidth_id, dtype=torch.int64, device=device)
            lowest = highest = bandwidth_id
        else:
            if bandwidth_id.dtype == torch.bool or bandwidth_id.is_floating_point() or bandwidth_id.is_complex():
                raise ValueError(f"`bandwidth_id` must hold integers, got {bandwidth_id.dtype}.")
            if bandwidth_id.ndim > 1 or bandwidth_id.numel() not in (1, batch_size):
                raise ValueError(
                    f"`bandwidth_id` must have one element or shape ({batch_size},), one per clip, got "
                    f"{tuple(bandwidth_id.shape)}."
                )
            ids = bandwidth_id.reshape(-1, 1).to(device=device, dtype=torch.int64)
            if not _can_look_at(ids):
                return ids
            lowest, highest = int(ids.min()), int(ids.max())
        if lowest < 0 or highest >= self.config.adanorm_num_embeddings:
            raise ValueError(
                f"`bandwidth_id` must lie in 0..{self.config.adanorm_num_embeddings - 1} (`adanorm_num_embeddings` - "
                f"1), got {lowest if lowest < 0 else highest}."
            )
        return ids


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

    def forward(
        self,
        audio_codes: torch.Tensor | None = None,
        bandwidth_id: int | torch.Tensor | None = None,
        audio_codes_mask: torch.Tensor | None = None,
        quantized_latents: torch.Tensor | None = None,
        **kwargs,
    ) -> WavTokenizerDecoderOutput:
        """The same as `decode`."""
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

    def encode(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        output_latents: bool = False,
        **kwargs,
    ) -> WavTokenizerEncoderOutput:
        """Turns waveforms into codes; see `WavTokenizerEncoderModel.forward`."""
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
        """Encodes and decodes; arguments as in `encode` and `decode`.

        Gradients pass straight through the quantizer, from the reconstruction to the encoder.

        Returns:
            `WavTokenizerOutput`; `audio_values` has the input's length and is 0 past a clip's end.
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
