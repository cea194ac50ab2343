"""Each numeric module against an independent formula, written out in NumPy from the definitions."""

import math

import numpy as np
import pytest
import torch

from tests.tiny import noise, tiny_causal_config, tiny_config, tiny_model
from wavtokenizer_hf.arithmetic_wavtokenizer import scan_lstm
from wavtokenizer_hf.modeling_wavtokenizer import (
    WavTokenizerAdaLayerNorm,
    WavTokenizerAttention,
    WavTokenizerCodebook,
    WavTokenizerConv1d,
    WavTokenizerConvNextBlock,
    WavTokenizerFrameConv1d,
    WavTokenizerGroupNorm,
    WavTokenizerISTFTHead,
    WavTokenizerLSTM,
    WavTokenizerResidualBlock,
)


def _randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Draws every parameter, in float64 so that formulas can be compared tightly."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return module.double().eval()


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def _close(ours: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(_array(ours), expected, rtol=1e-9, atol=1e-9)


def _reflect_padded(signal: np.ndarray, left: int, right: int) -> np.ndarray:
    """Extends a signal that is too short, reflects sample by sample, and drops the extension: the original's rule."""
    length = len(signal)
    extension = max(0, max(left, right) - length + 1)
    extended = [*signal, *[0.0] * extension]
    last = len(extended) - 1
    padded = [extended[i] for i in range(left, 0, -1)] + extended + [extended[last - i] for i in range(1, right + 1)]
    return np.array(padded[: len(padded) - extension])


@pytest.mark.parametrize(
    ("kernel_size", "stride", "dilation"), [(7, 1, 1), (3, 1, 4), (4, 2, 1), (10, 5, 1), (12, 6, 1)]
)
@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize("use_causal_conv", [False, True])
def test_convolution_pads_as_the_original_at_every_length(kernel_size, stride, dilation, pad_mode, use_causal_conv):
    config = tiny_config(pad_mode=pad_mode, use_causal_conv=use_causal_conv)
    conv = _randomised(WavTokenizerConv1d(config, 2, 3, kernel_size, stride, dilation))
    weight, bias = _array(conv.conv.weight), _array(conv.conv.bias)
    extent = (kernel_size - 1) * dilation + 1
    for length in [*range(1, 16), 40]:
        signal = noise(1, 2, length).double()
        num_frames = math.ceil(length / stride)
        fill = num_frames * stride - length
        right = 0 if use_causal_conv else (extent - stride) // 2
        left = extent - stride - right
        pad = _reflect_padded if pad_mode == "reflect" else lambda x, a, b: np.pad(x, (a, b))
        padded = np.stack([pad(row, left, right + fill) for row in _array(signal[0])])
        starts = np.arange(num_frames) * stride
        expected = bias[:, None] + sum(weight[:, :, j] @ padded[:, starts + j * dilation] for j in range(kernel_size))
        _close(conv(signal)[0], expected)


def test_weight_norm_scales_each_filter_to_its_stored_length():
    conv = _randomised(WavTokenizerConv1d(tiny_config(), 2, 3, kernel_size=7))
    length, direction = (_array(getattr(conv.conv.parametrizations.weight, f"original{i}")) for i in (0, 1))
    norms = np.sqrt((direction**2).sum(axis=(1, 2), keepdims=True))
    _close(conv.conv.weight, length * direction / norms)


def _elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


@pytest.mark.parametrize("use_conv_shortcut", [True, False])
def test_residual_block_adds_the_shortcut_of_the_input_before_activation(use_conv_shortcut):
    block = _randomised(WavTokenizerResidualBlock(tiny_config(use_conv_shortcut=use_conv_shortcut), 4, dilation=2))
    signal = noise(1, 4, 30).double()
    inner = block.block[1](torch.from_numpy(_elu(_array(signal))))
    main = block.block[3](torch.from_numpy(_elu(_array(inner))))
    assert inner.shape[1] == 2
    shortcut = block.shortcut(signal) if use_conv_shortcut else signal
    _close(block(signal), _array(shortcut) + _array(main))


def _lstm(sequence: np.ndarray, lstm: torch.nn.LSTM) -> np.ndarray:
    """(L, C) -> (L, C), one step after another."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for layer in range(lstm.num_layers):
        w_ih, w_hh, b_ih, b_hh = (
            _array(getattr(lstm, f"{name}_l{layer}")) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        hidden = cell = np.zeros(lstm.hidden_size)
        outputs = []
        for frame in sequence:
            i, f, g, o = np.split(w_ih @ frame + b_ih + w_hh @ hidden + b_hh, 4)
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            hidden = sigmoid(o) * np.tanh(cell)
            outputs.append(hidden)
        sequence = np.stack(outputs)
    return sequence


def test_lstm_runs_forward_in_time_with_a_skip_around_all_layers():
    module = _randomised(WavTokenizerLSTM(6, 2))
    signal = noise(2, 6, 9).double()
    expected = np.stack([(_lstm(row.T, module.lstm) + row.T).T for row in _array(signal)])
    output, _ = module(signal)
    _close(output, expected)


@torch.no_grad()
def test_lstm_goes_on_from_the_state_that_it_is_given():
    module = _randomised(WavTokenizerLSTM(6, 2))
    signal = noise(2, 6, 9).double()
    whole, end = module(signal)
    first, state = module(signal[..., :4])
    second, state = module(signal[..., 4:], state)
    _close(torch.cat([first, second], dim=-1), _array(whole))
    for one, other in zip(state, end, strict=True):
        _close(one, _array(other))


@torch.no_grad()
def test_the_scan_form_of_the_lstm_computes_the_same():
    module = _randomised(WavTokenizerLSTM(6, 2))
    sequence = noise(9, 2, 6).double()
    expected, _ = module.lstm(sequence)
    _close(scan_lstm(module.lstm, sequence), _array(expected))


def test_codebook_finds_the_nearest_entry_by_euclidean_distance():
    codebook = WavTokenizerCodebook(tiny_config())
    codebook.embed.copy_(noise(64, 16))
    latents = noise(2, 16, 50, seed=1)
    vectors, entries = _array(latents).astype(np.float64), _array(codebook.embed).astype(np.float64)
    distances = ((vectors.transpose(0, 2, 1)[:, :, None] - entries) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(codebook(latents), distances.argmin(axis=-1))
    assert len(np.unique(distances.argmin(axis=-1))) > 10


def test_codebook_tells_entries_apart_that_are_alike_to_float32():
    """Far from the origin, where distances are small beside the numbers that they are computed from."""
    codebook = WavTokenizerCodebook(tiny_config())
    codebook.embed.copy_(100 + noise(64, 16))
    latents = 100 + noise(2, 16, 200, seed=1)
    vectors, entries = latents.transpose(1, 2), codebook.embed
    nearest = ((vectors[:, :, None].double() - entries.double()) ** 2).sum(dim=-1).argmin(dim=-1)
    in_float32 = (vectors @ entries.T - 0.5 * entries.square().sum(dim=-1)).argmax(dim=-1)
    assert (in_float32 != nearest).sum() > 5
    assert torch.equal(codebook(latents), nearest)


def test_codebook_takes_the_first_of_entries_that_are_the_same():
    codebook = WavTokenizerCodebook(tiny_config())
    codebook.embed.copy_(noise(8, 16).repeat(8, 1))
    for num_frames in (1, 3, 50):
        assert codebook(noise(2, 16, num_frames, seed=1)).max() < 8


def test_group_norm_of_a_padded_clip_is_that_of_the_clip_alone():
    norm = _randomised(WavTokenizerGroupNorm(tiny_config()))
    signal = noise(3, 16, 20).double()
    num_valid = [20, 7, 1]
    mask = torch.arange(20)[None, None] < torch.tensor(num_valid)[:, None, None]
    ours = norm(signal, mask)
    for row, length in enumerate(num_valid):
        groups = _array(signal[row, :, :length]).reshape(4, 4, length)
        mean, variance = groups.mean(axis=(1, 2), keepdims=True), groups.var(axis=(1, 2), keepdims=True)
        normed = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(16, length)
        expected = normed * _array(norm.weight)[:, None] + _array(norm.bias)[:, None]
        _close(ours[row, :, :length], expected)
        _close(norm(signal[row : row + 1, :, :length])[0], expected)


def test_causal_group_norm_takes_the_statistics_of_each_frame():
    norm = _randomised(WavTokenizerGroupNorm(tiny_causal_config()))
    signal = noise(2, 16, 5).double()
    expected = np.empty((2, 16, 5))
    for row, frame in np.ndindex(2, 5):
        groups = _array(signal)[row, :, frame].reshape(4, 4)
        normed = (groups - groups.mean(axis=1, keepdims=True)) / np.sqrt(groups.var(axis=1, keepdims=True) + norm.eps)
        expected[row, :, frame] = normed.ravel() * _array(norm.weight) + _array(norm.bias)
    _close(norm(signal), expected)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attention_weighs_all_frames_and_adds_the_input_before_its_norm(implementation):
    config = tiny_config()
    config._attn_implementation = implementation
    attention = _randomised(WavTokenizerAttention(config))
    signal = noise(1, 16, 11).double()
    normed = _array(attention.norm(signal))[0]
    q, k, v = (
        _array(layer.weight)[:, :, 0] @ normed + _array(layer.bias)[:, None]
        for layer in (attention.q, attention.k, attention.v)
    )
    scores = q.T @ k / math.sqrt(16)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    attended = v @ weights.T
    projected = _array(attention.proj_out.weight)[:, :, 0] @ attended + _array(attention.proj_out.bias)[:, None]
    ours, ours_weights = attention(signal)
    _close(ours[0], _array(signal)[0] + projected)
    if implementation == "eager":
        _close(ours_weights[0, 0], weights)


@pytest.mark.parametrize("window", [None, 1, 3, 8, 64])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_causal_attention_weighs_the_frame_and_its_window(implementation, window):
    config = tiny_causal_config(attention_window=window)
    config._attn_implementation = implementation
    attention = _randomised(WavTokenizerAttention(config))
    for length in (1, 8, 19):
        signal = noise(2, 16, length).double()
        ours, ours_weights = attention(signal)
        for row in range(2):
            normed = _array(attention.norm(signal))[row]
            q, k, v = (
                _array(layer.weight)[:, :, 0] @ normed + _array(layer.bias)[:, None]
                for layer in (attention.q, attention.k, attention.v)
            )
            weights = np.zeros((length, length))
            for frame in range(length):
                first = 0 if window is None else max(0, frame - window + 1)
                scores = np.exp(q[:, frame] @ k[:, first : frame + 1] / math.sqrt(16))
                weights[frame, first : frame + 1] = scores / scores.sum()
            projected = _array(attention.proj_out.weight)[:, :, 0] @ (v @ weights.T)
            expected = _array(signal)[row] + projected + _array(attention.proj_out.bias)[:, None]
            _close(ours[row], expected)
            if implementation == "eager":
                _close(ours_weights[row, 0], weights)


@pytest.mark.parametrize(("kernel_size", "groups"), [(7, 1), (3, 1), (7, 4)])
def test_causal_convolution_over_frames_sees_the_last_ones_only(kernel_size, groups):
    conv = _randomised(WavTokenizerFrameConv1d.of(tiny_causal_config(), 4, 8, kernel_size, groups=groups))
    weight = np.zeros((8, 4, kernel_size))
    for row in range(8):  # a group's filters see the channels of the group
        start = row // (8 // groups) * (4 // groups)
        weight[row, start : start + 4 // groups] = _array(conv.weight)[row]
    for length in (1, 2, 12):
        signal = noise(1, 4, length).double()
        padded = np.pad(_array(signal)[0], ((0, 0), (kernel_size - 1, 0)))
        frames = [np.einsum("oik,ik->o", weight, padded[:, t : t + kernel_size]) for t in range(length)]
        _close(conv(signal)[0], np.stack(frames, axis=1) + _array(conv.bias)[:, None])


def _ada_layer_norm(frames: np.ndarray, norm: WavTokenizerAdaLayerNorm, bandwidth_id: int) -> np.ndarray:
    """(L, D) -> (L, D)"""
    normed = (frames - frames.mean(axis=1, keepdims=True)) / np.sqrt(frames.var(axis=1, keepdims=True) + norm.eps)
    return normed * _array(norm.scale.weight)[bandwidth_id] + _array(norm.shift.weight)[bandwidth_id]


def test_adaptive_layer_norm_takes_the_row_of_each_clips_bandwidth_id():
    norm = _randomised(WavTokenizerAdaLayerNorm(tiny_config()))
    frames = noise(3, 5, 16).double()
    ids = [3, 0, 2]
    ours = norm(frames, torch.tensor(ids)[:, None])
    for row, bandwidth_id in enumerate(ids):
        _close(ours[row], _ada_layer_norm(_array(frames[row]), norm, bandwidth_id))


def test_convnext_block_follows_its_definition():
    block = _randomised(WavTokenizerConvNextBlock(tiny_config()))
    signal = noise(1, 16, 12).double()
    padded = np.pad(_array(signal)[0], ((0, 0), (3, 3)))
    kernel = _array(block.dwconv.weight)[:, 0]
    depthwise = np.stack([(padded[:, t : t + 7] * kernel).sum(axis=1) for t in range(12)])  # (L, D)
    frames = _ada_layer_norm(depthwise + _array(block.dwconv.bias), block.norm, 1)
    inner = frames @ _array(block.pwconv1.weight).T + _array(block.pwconv1.bias)
    gelu = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
    outer = gelu @ _array(block.pwconv2.weight).T + _array(block.pwconv2.bias)
    expected = _array(signal)[0] + (_array(block.gamma) * outer).T
    _close(block(signal, torch.tensor([[1]]))[0], expected)


def _inverse_stft(spectrum: np.ndarray, hop_length: int) -> np.ndarray:
    """Complex (L, F) -> (L * hop,): frames as sums of cosines, overlap-added, divided by the squared windows."""
    n_fft = 4 * hop_length
    time, bins = np.arange(n_fft), np.arange(n_fft // 2 + 1)
    weight = np.where((bins == 0) | (bins == n_fft // 2), 1.0, 2.0) / n_fft
    angle = 2 * np.pi * np.outer(time, bins) / n_fft
    window = 0.5 - 0.5 * np.cos(2 * np.pi * time / n_fft)
    total = np.zeros((len(spectrum) + 3) * hop_length)
    envelope = np.zeros_like(total)
    for frame, values in enumerate(spectrum):
        samples = (weight * (values.real * np.cos(angle) - values.imag * np.sin(angle))).sum(axis=1)
        total[frame * hop_length : frame * hop_length + n_fft] += samples * window
        envelope[frame * hop_length : frame * hop_length + n_fft] += window**2
    trim = 3 * hop_length // 2
    return total[trim:-trim] / envelope[trim:-trim]


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 9])
def test_head_inverts_the_predicted_transform_exactly_up_to_both_ends(num_frames):
    config = tiny_config(upsampling_ratios=[4, 2])
    head = _randomised(WavTokenizerISTFTHead(config))
    head.window.copy_(torch.hann_window(32, dtype=torch.float64))
    features = 4 * noise(1, num_frames, 16).double()
    log_magnitude, phase = np.split(_array(head.linear(features))[0], 2, axis=1)
    magnitude = np.minimum(np.exp(log_magnitude), 100)
    _close(head(features)[0], _inverse_stft(magnitude * np.exp(1j * phase), hop_length=8))


def test_head_clips_large_magnitudes_and_its_gradient_stays_finite():
    config = tiny_config(upsampling_ratios=[4, 2])
    head = WavTokenizerISTFTHead(config)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.zero_()
        head.linear.bias[:17] = 1000.0  # log-magnitudes whose exp overflows
    features = torch.zeros(1, 5, 16, requires_grad=True)
    audio = head(features)
    expected = _inverse_stft(np.full((5, 17), 100.0 + 0j), hop_length=8)
    np.testing.assert_allclose(_array(audio)[0], expected, rtol=1e-4, atol=1e-4)
    audio.sum().backward()
    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(head.linear.bias.grad).all()


def test_head_ends_each_clip_of_a_batch_at_its_own_end():
    head = _randomised(WavTokenizerISTFTHead(tiny_config()))
    features = noise(4, 9, 16).double()
    num_valid = torch.tensor([9, 4, 2, 1])
    mask = torch.arange(9)[None, None] < num_valid[:, None, None]
    audio = head(features, mask)
    for row, length in enumerate(num_valid.tolist()):
        _close(audio[row, : length * 80], _array(head(features[row : row + 1, :length]))[0])
        assert not audio[row, length * 80 :].any()


def test_every_bandwidth_id_gives_another_reconstruction_and_the_same_codes():
    model = tiny_model()
    audio_codes = model.encode(noise(1, 1, 2000)).audio_codes
    reconstructions = [model.decode(audio_codes, bandwidth_id=i).audio_values for i in range(4)]
    for i in range(4):
        for j in range(i):
            assert (reconstructions[i] - reconstructions[j]).abs().max() > 1e-2
    per_clip = model.decode(audio_codes.expand(4, -1, -1), bandwidth_id=torch.arange(4)).audio_values
    torch.testing.assert_close(per_clip, torch.cat(reconstructions), rtol=0, atol=1e-5)
