# Copyright 2026 The wavtokenizer_hf authors. All rights reserved.
#
# Licensed under the MIT License; see the LICENSE file of the project.
"""How the network of `modeling_wavtokenizer` is made fast, mostly on a CPU, and kept precise.

In this order: the choice of arithmetic, precision, layouts of memory, weights that are computed once, clips in pieces
that stay in the caches, attention in blocks, and LSTMs. Nothing here knows what the network is
for. Shapes as there.
"""

import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

# Activations of the encoder's first layers, and similarities to the entries of the codebook, are computed so many at
# once: on a CPU what its caches hold, elsewhere what keeps the device busy and its memory free.
_NUMBERS_AT_ONCE_ON_CPU = 2**20
_NUMBERS_AT_ONCE = 2**26


def runs_near_caches(module: nn.Module, tensor: torch.Tensor) -> bool:
    """Whether a module computes in the way that is made for the caches of a CPU: in `eval()`, and not while traced.

    This is the one choice of arithmetic. Whether gradients are recorded changes no number.
    """
    return tensor.device.type == "cpu" and not module.training and not torch.compiler.is_compiling()


def can_look_at(tensor: torch.Tensor) -> bool:
    """Whether values may be checked: not while tracing, and not on the meta device, where there are none."""
    return not torch.compiler.is_compiling() and not tensor.is_meta


def numbers_at_once(device: torch.device) -> int:
    """Numbers that are best computed at once."""
    return _NUMBERS_AT_ONCE_ON_CPU if device.type == "cpu" else _NUMBERS_AT_ONCE


# --------------------------------------------------------------------------------------------------------- precision


def without_autocast(tensor: torch.Tensor) -> AbstractContextManager:
    """Switches autocast off for arithmetic that must keep its precision."""
    device_type = tensor.device.type
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


class Float32Buffers(nn.Module):
    """Keeps a module's own buffers in float32 when the model is cast to half precision; they still change device."""

    def _apply(self, fn, recurse=True):
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, after in list(self.named_buffers(recurse=False)):
            if after.dtype in (torch.float16, torch.bfloat16):
                self._buffers[name] = before[name].to(device=after.device)
        return self


# ----------------------------------------------------------------------------------------------- layouts and caches


def convolve(conv: nn.Conv1d, hidden_states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What `conv` computes from (B, C, L) with a weight; on a CPU in the layout of memory that it is fastest in.

    There the channels of a position lie side by side, in what comes in, in what goes out, and in the weight. oneDNN
    computes in that order without converting (of a weight it would take several times as long as the copy here), and
    layer norms and linear layers read it without a copy. Every element-wise operation keeps the layout, `join` does,
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


def side_by_side(weight: torch.Tensor) -> torch.Tensor:
    """The weight (C', C, K) of a convolution in the order in which `convolve` reads it."""
    if weight.device.type != "cpu":
        return weight
    return weight.unsqueeze(2).contiguous(memory_format=torch.channels_last).squeeze(2)


def join(parts: list[torch.Tensor]) -> torch.Tensor:
    """Concatenates (B, C, ...) over time, in the layout of `convolve`."""
    if parts[0].device.type != "cpu":
        return torch.cat(parts, dim=-1)
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1).transpose(1, 2)


def by_position(
    function: Callable[[torch.Tensor], torch.Tensor], hidden_states: torch.Tensor, width: int
) -> torch.Tensor:
    """`function` of (B, L, D) that treats every position alike, for as few at a time as the caches hold.

    Args:
        function: Maps (N, D) to (N, D').
        hidden_states: (B, L, D).
        width: Numbers that it holds for a position at its widest.
    """
    flat = hidden_states.flatten(0, 1)
    at_once = max(1, numbers_at_once(flat.device) // width)
    if len(flat) <= at_once:
        return function(hidden_states)
    return torch.cat([function(some) for some in flat.split(at_once)]).unflatten(0, hidden_states.shape[:2])


def fast_elu(hidden_states: torch.Tensor) -> torch.Tensor:
    """ELU with exp(x) - 1 in the place of expm1(x), as torch computes `exp` several times as fast on a CPU.

    In float32 the two differ by no more than the rounding of numbers near 1, 6e-8.
    """
    if hidden_states.requires_grad:  # the same numbers, in memory of their own
        return torch.maximum(hidden_states, hidden_states.clamp(max=0).exp() - 1)
    below = hidden_states.clamp(max=0).exp_().sub_(1)
    return torch.maximum(hidden_states, below, out=below)


# ------------------------------------------------------------------------------- weights that are computed only once


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
        return convolve(self, hidden_states, self.weight if weight is None else weight)


def _weight_normed(*arguments: Any) -> nn.Module:
    """A convolution that is to be given its tensors."""
    with torch.device("meta"):
        return weight_norm(WavTokenizerConvolution(*arguments))


Weights = dict[nn.Module, torch.Tensor]


def computed_weights(module: nn.Module) -> Weights:
    """The weights that weight norm computes in the convolutions of a module, for many calls of them.

    They do not follow what becomes of the model's parameters. What is offloaded is left out.
    """
    convs = (each for each in module.modules() if isinstance(each, WavTokenizerConvolution))
    return {conv: side_by_side(conv.weight) for conv in convs if conv.bias is not None and not conv.bias.is_meta}


def is_fused(module: nn.Module) -> bool:
    """Whether `fuse_weight_norm` was called on a module that has what it merges."""
    convs = (each for each in module.modules() if isinstance(each, WavTokenizerConvolution))
    return any(not parametrize.is_parametrized(conv) for conv in convs)


def fuse_weight_norm(module: nn.Module) -> None:
    """Makes the weight-normalised convolutions in a module plain ones with the same weights."""
    for conv in module.modules():
        if isinstance(conv, WavTokenizerConvolution) and parametrize.is_parametrized(conv):
            _merge_weight_norm(conv)


def _merge_weight_norm(conv: Any) -> None:
    """As `fuse_weight_norm`, of one.

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


# -------------------------------------------------------------------------------------------------- clips in pieces


@dataclass(frozen=True)
class Piece:
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
    weights: Weights = field(default_factory=dict)

    def without_context(self, hidden_states: torch.Tensor, padding: "Padding") -> torch.Tensor:
        """(B, C, length) less what a convolution of stride 1 with such a padding uses up."""
        first = 0 if self.is_start else padding.left
        last = hidden_states.shape[-1] - (0 if self.is_end else padding.right)
        return hidden_states[..., first:last]

    def after(self, padding: "Padding") -> "Piece":
        """The piece that is left of this one after a convolution with such a padding."""
        if self.num_valid is None:
            return self
        context = 0 if self.is_start else padding.left
        return replace(self, num_valid=(self.num_valid - context + padding.stride - 1) // padding.stride)


WHOLE = Piece()


@dataclass(frozen=True)
class Padding:
    """How a convolution pads clips: by `left` positions at the start, and by `right` and what fills the last stride.

    The signal is read by index: position p before the start holds sample -p, position p from the turning point m on
    holds sample 2 (m - 1) - p, and samples past the clip's end are zeros. The turning point is the clip's end, or
    later where the clip is too short to reflect. The right side is always as wide as the widest padding, stride - 1
    beyond the least: that gives ceil(length / stride) frames, and what lies past a length's own padding reaches none
    of them. Nothing branches on the length, so torch.export keeps it dynamic.

    Args:
        left: Positions.
        right: Positions.
        stride: Of the convolution.
        reflects: Whether the signal is reflected there; else there are zeros.
    """

    left: int
    right: int
    stride: int
    reflects: bool

    @property
    def widest_right(self) -> int:
        """The last stride may need as much as this beyond a clip's end."""
        return self.right + self.stride - 1

    def pad(self, hidden_states: torch.Tensor, piece: Piece) -> torch.Tensor:
        """Pads (B, C, length) to (B, C, left + length + widest right), where the clips begin and end in it."""
        if not (self.left or self.widest_right):
            return hidden_states
        if piece.num_valid is not None:
            return self._pad_each(hidden_states, piece, piece.num_valid.to(hidden_states.device))
        length = hidden_states.shape[-1]
        left, context = (self.left, 0) if piece.is_start else (0, self.left)
        widest = self.widest_right if piece.is_end else 0
        if not (left or widest):
            return hidden_states
        if not self.reflects:
            nothing = hidden_states.new_zeros(()).expand(*hidden_states.shape[:2], left + widest)
            return join([nothing[..., :left], hidden_states, nothing[..., left:]])
        device = hidden_states.device
        before = torch.arange(left, 0, -1, device=device)
        after = torch.arange(widest, device=device) + length
        right = self.right + (context - length) % self.stride
        turn = torch.sym_max(length, torch.sym_max(left, right) + 1)
        after = torch.where(after < turn, after, 2 * (turn - 1) - after)
        edges = [
            hidden_states.index_select(-1, index.clamp(0, length - 1)).masked_fill(index >= length, 0)
            for index in (before, after)
        ]
        return join([edges[0], hidden_states, edges[1]])

    def _pad_each(self, hidden_states: torch.Tensor, piece: Piece, num_valid: torch.Tensor) -> torch.Tensor:
        """As `pad`, every clip at its own end."""
        num_channels, length = hidden_states.shape[-2:]
        end = num_valid[:, None]  # (B, 1)
        left, context = (self.left, 0) if piece.is_start else (0, self.left)
        widest = self.widest_right
        right = self.right + (context - end) % self.stride
        turn = torch.maximum(end, right.clamp(min=left) + 1)
        after = torch.arange(widest, device=hidden_states.device) + end  # (B, widest)
        before = torch.arange(left, 0, -1, device=hidden_states.device).expand(end.shape[0], -1)
        reflected = torch.where(after < turn, after, 2 * (turn - 1) - after)
        edges = []
        for index in (before, reflected):
            exists = (index < end) & (index >= 0) & self.reflects
            index = index.clamp(0, length - 1)[:, None].expand(-1, num_channels, -1)
            edges.append(hidden_states.gather(-1, index).masked_fill(~exists[:, None], 0))
        room = hidden_states.new_zeros(()).expand(*hidden_states.shape[:2], widest)
        padded = join([edges[0], hidden_states, room])
        positions = (left + after)[:, None].expand(-1, num_channels, -1)
        return padded.scatter_(-1, positions, edges[1])


@dataclass(frozen=True)
class Reach:
    """What a frame depends on that comes out of strided convolutions.

    Args:
        hop_length: Samples for each frame.
        samples_before: What a frame depends on before its own hop.
        samples_after: The same after it.
        min_frames: The least number of frames of a piece that holds all that is reflected at its start or end, if it
            is not both.
    """

    hop_length: int
    samples_before: int
    samples_after: int
    min_frames: int

    @classmethod
    def of(cls, paddings: Iterable[Padding]) -> "Reach":
        """That of convolutions in their order."""
        samples_per_position, before, after = 1, 0, 0
        at_start, at_end = [], []  # samples from the start of a piece that the reflections read
        for padding in paddings:
            if padding.reflects:
                at_start.append((padding.left + 1) * samples_per_position)
                at_end.append((padding.widest_right + 1) * samples_per_position + before)
            before += padding.left * samples_per_position
            after += padding.right * samples_per_position
            samples_per_position *= padding.stride
        hop_length = samples_per_position
        # The last frame may hold one sample only, and a piece that is no start has the samples before it, too.
        at_end = [hop_length + samples - before for samples in at_end]
        min_frames = max([1, *(-(-samples // hop_length) for samples in (*at_start, *at_end))])
        return cls(hop_length, before, after, min_frames)


def in_pieces(
    run: Callable[[torch.Tensor, Piece], torch.Tensor],
    reach: Reach,
    frame_size: int,
    input_values: torch.Tensor,
    piece: Piece,
    compute_weights: Callable[[], Weights],
    fills_up: bool,
) -> torch.Tensor:
    """Runs convolutions on pieces of clips that stay in the caches, whatever the length.

    A piece takes along the samples that its first and last frames reach out to, so that its frames are those of the
    whole clip.

    Args:
        run: The convolutions, (N, 1, n) -> (N, C, frames).
        reach: Theirs.
        frame_size: Numbers that they hold for a frame at their widest.
        input_values: (B, 1, T). Where it is not the start of the clips, the first frame's own samples begin at
            `samples_before`, and what lies before them is context; where it is not their end, `samples_after` samples
            of context follow the last frame's own.
        piece: What of the clips `input_values` is.
        compute_weights: Returns weights for many calls; called where `piece` has none and they are needed.
        fills_up: Whether ends of clips are filled up to few lengths: oneDNN prepares for every new shape, which takes
            longer than a short clip.

    Returns:
        (B, C, L). What lies past the end of a clip holds no meaning.
    """
    num_rows, _, length = input_values.shape
    hop_length = reach.hop_length
    origin = 0 if piece.is_start else reach.samples_before  # where the samples of frame 0 begin
    beyond = 0 if piece.is_end else reach.samples_after
    step = max(_NUMBERS_AT_ONCE_ON_CPU // frame_size, 2 * reach.min_frames)
    at_once = max(numbers_at_once(input_values.device) // frame_size, step)
    num_frames = -(-(length - origin - beyond) // hop_length)
    if num_rows * num_frames <= at_once and not (piece.is_end and fills_up):
        return run(input_values, piece)

    ends = [length] * num_rows if piece.num_valid is None else piece.num_valid.tolist()
    stretches = []
    for row, end in enumerate(ends):
        count = -(-(end - origin - beyond) // hop_length)
        for first, last in _cut(count, step):
            starts, stops = piece.is_start and first == 0, piece.is_end and last == count
            begin = origin + first * hop_length - (0 if starts else reach.samples_before)
            stop = end if stops else origin + last * hop_length + reach.samples_after
            stretches.append(_Stretch(starts, stops, row, first, last - first, begin, stop))
    weights = piece.weights or compute_weights()
    output = input_values[:0]
    for group in _groups(stretches, at_once):
        rows, firsts, begins, lengths = torch.tensor(
            [(each.row, each.first, each.begin, each.end - each.begin) for each in group],
            device=input_values.device,
        ).T[..., None]  # (N, 1) each
        widest = max(each.end - each.begin for each in group)
        if fills_up and group[0].is_end:
            spacing = max(hop_length, 2 ** (widest.bit_length() - 4))  # an eighth at most
            widest = -(-widest // spacing) * spacing
        samples = (begins + torch.arange(widest, device=begins.device)).clamp(max=length - 1)
        is_ragged = any(each.end - each.begin < widest for each in group)
        frames = run(
            input_values[rows, 0, samples][:, None],
            Piece(group[0].is_start, group[0].is_end, lengths[:, 0] if is_ragged else None, weights),
        ).transpose(1, 2)  # (N, C, L) -> (N, L, C)
        if not output.numel():
            # With room for what comes out past the end of a clip that is shorter than others of its group.
            room = 2 * max(each.num_frames for each in stretches)
            output = frames.new_zeros(num_rows, num_frames + room, frames.shape[-1])
        places = firsts + torch.arange(frames.shape[1], device=firsts.device)
        output[rows.to(output.device), places.to(output.device)] = frames
    return output[:, :num_frames].transpose(1, 2)


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


# ---------------------------------------------------------------------------------------------- attention in blocks


def may_see(frames: torch.Tensor, others: torch.Tensor, window: int | None) -> torch.Tensor:
    """Which frames see which others in causal attention: frame numbers (..., L) and (..., M) -> (..., L, M)."""
    distance = frames[..., :, None] - others[..., None, :]
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def last_may_see(num_frames: int, num_others: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Which of all frames the last ones see, (num_frames, num_others)."""
    others = torch.arange(num_others, device=device)
    return may_see(others[num_others - num_frames :], others, window)


def in_blocks(
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
    tail: Any = num_blocks * window - num_frames  # a number, or its symbol under torch.export
    query, key, value = (
        F.pad(tensor[:, 0], (0, 0, 0, tail)).unflatten(1, (num_blocks, window)) for tensor in (query, key, value)
    )
    key, value = (torch.cat([F.pad(tensor, (0, 0, 0, 0, 1, -1)), tensor], dim=2) for tensor in (key, value))
    frames = torch.arange(num_blocks, device=query.device)[:, None] * window  # the first of each block
    others = frames + torch.arange(-window, window, device=query.device)  # (N, 2W)
    mask = may_see(others[:, window:], others, window) & (others >= 0)[:, None]
    return query, key, value, mask[None]


# ------------------------------------------------------------------------------------------------------------ LSTMs

LSTMState = tuple[torch.Tensor, torch.Tensor]


def fast_lstm(lstm: nn.LSTM, sequence: torch.Tensor, state: LSTMState | None) -> tuple[torch.Tensor, LSTMState]:
    """`lstm` as torch computes it on a CPU without gradients, and with them the same numbers.

    torch takes another arithmetic where gradients are recorded. It runs besides, for the gradients alone, which do not
    reach a state.
    """
    with torch.no_grad():
        output, after = lstm(sequence, state)
    if torch.is_grad_enabled() and any(each.requires_grad for each in (sequence, *lstm.parameters())):
        recorded, _ = lstm(sequence, state)
        output = output + (recorded - recorded.detach())
    return output, after


def scan_lstm(lstm: nn.LSTM, sequence: torch.Tensor) -> torch.Tensor:
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
