"""Discriminators against the same networks written out in NumPy, and what they refuse."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.nn.parallel import DistributedDataParallel

from tests.golden.reference_weights import load_manifest
from tests.tiny import noise
from wavtokenizer_hf.training.discriminators import (
    BandDiscriminator,
    DiscriminatorConfig,
    Discriminators,
    MultiBandDiscriminator,
    PeriodDiscriminator,
    ResolutionDiscriminator,
    halves,
    load_original_discriminators,
)

GOLDEN = Path(__file__).parent.parent / "golden"
SMALL = DiscriminatorConfig(
    width=0.05, periods=(2, 3), resolutions=(64, 32), band_periods=(3,), band_resolutions=(64,), band_edges=(0, 0.4, 1)
)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Draws every parameter, so that activations neither fade nor explode."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if name.endswith("weight.original0"):  # the length of each filter
                drawn = 1 + drawn.abs()
            parameter.copy_(0.1 * drawn if name.endswith("bias") else drawn)
    return module


def convolved(hidden: np.ndarray, conv: torch.nn.Module, stride: tuple[int, int]) -> np.ndarray:
    """(C, H, W) through a weight-normalised convolution, padded with half its kernel."""
    length, direction = (getattr(conv.parametrizations.weight, f"original{i}").detach().numpy() for i in (0, 1))
    weight = length * direction / np.sqrt((direction**2).sum(axis=(1, 2, 3), keepdims=True))
    kernel = weight.shape[2:]
    padded = np.pad(hidden, [(0, 0), *[(size // 2, size // 2) for size in kernel]])
    windows = sliding_window_view(padded, kernel, axis=(1, 2))[:, :: stride[0], :: stride[1]]
    return np.einsum("chwij,ocij->ohw", windows, weight) + conv.bias.detach().numpy()[:, None, None]


def layers_of(hidden: np.ndarray, convs, strides: list[tuple[int, int]]) -> list[np.ndarray]:
    layers = []
    for conv, stride in zip(convs, strides, strict=True):
        hidden = convolved(hidden, conv, stride)
        hidden = np.where(hidden > 0, hidden, 0.1 * hidden)
        layers.append(hidden)
    return layers


def spectrum_of(samples: np.ndarray, n_fft: int) -> np.ndarray:
    """(F, L): frames a quarter apart, centred, reflected at the ends, not windowed."""
    padded = np.pad(samples, n_fft // 2, mode="reflect")
    return np.fft.rfft(sliding_window_view(padded, n_fft)[:: n_fft // 4]).T


def assert_judged(judgement, clip: int, score: np.ndarray, features: list[np.ndarray]) -> None:
    np.testing.assert_allclose(judgement.score[clip].detach(), score.reshape(-1), rtol=1e-9, atol=1e-9)
    assert len(judgement.features) == len(features)
    for ours, expected in zip(judgement.features, features, strict=True):
        np.testing.assert_allclose(ours[clip].detach(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_samples", [180, 181, 184])
@pytest.mark.parametrize("num_bandwidths", [None, 3])
def test_a_period_discriminator_convolves_along_the_columns_of_the_folded_clip(num_samples, num_bandwidths):
    period = 5
    judge = randomised(PeriodDiscriminator(period, width=0.05, num_bandwidths=num_bandwidths)).double()
    audio = noise(2, num_samples).double()
    judgement = judge(audio, torch.tensor([2, 0]))
    for clip, bandwidth_id in enumerate([2, 0]):
        # The variant without ids adds a row even where none is missing.
        missing = math.ceil(num_samples / period) * period - num_samples
        if num_bandwidths is None and missing == 0:
            missing = period
        folded = np.pad(audio[clip].numpy(), (0, missing), mode="reflect").reshape(1, -1, period)
        layers = layers_of(folded, judge.convs, [(3, 1)] * 4 + [(1, 1)])
        score = convolved(layers[-1], judge.conv_post, (1, 1))
        if num_bandwidths is None:
            assert_judged(judgement, clip, score, layers)
        else:
            direction = judge.emb.weight[bandwidth_id].detach().numpy()
            score = score + np.tensordot(direction, layers[-1], axes=1)
            assert_judged(judgement, clip, score, [*layers[1:], score])


def test_a_resolution_discriminator_convolves_magnitudes_of_unwindowed_frames():
    judge = randomised(ResolutionDiscriminator(64, width=0.05, num_bandwidths=3)).double()
    audio = noise(2, 300).double()
    judgement = judge(audio, torch.tensor([1, 2]))
    for clip, bandwidth_id in enumerate([1, 2]):
        magnitude = np.abs(spectrum_of(audio[clip].numpy(), 64))[None]
        layers = layers_of(magnitude, judge.convs, [(2, 2), (2, 1), (2, 2), (2, 1), (2, 2)])
        direction = judge.emb.weight[bandwidth_id].detach().numpy()
        score = convolved(layers[-1], judge.conv_post, (1, 1)) + np.tensordot(direction, layers[-1], axes=1)
        assert_judged(judgement, clip, score, [*layers, score])


def test_a_band_discriminator_gives_each_band_of_the_complex_spectrum_its_own_convolutions():
    judge = randomised(BandDiscriminator(64, width=0.1, edges=(0, 0.4, 1))).double()
    audio = noise(2, 300).double()
    judgement = judge(audio)
    for clip in range(2):
        spectrum = spectrum_of(audio[clip].numpy(), 64).T  # (L, F)
        parts = np.stack([spectrum.real, spectrum.imag])
        bands = [
            layers_of(band, convs, [(1, 1), (1, 2), (1, 2), (1, 2), (1, 1)])
            for band, convs in zip((parts[..., :13], parts[..., 13:]), judge.band_convs, strict=True)
        ]
        score = convolved(np.concatenate([layers[-1] for layers in bands], axis=-1), judge.conv_post, (1, 1))
        assert_judged(judgement, clip, score, [*bands[0], *bands[1]])


def test_the_multi_band_family_hears_neither_level_nor_offset():
    judge = randomised(MultiBandDiscriminator(SMALL)).double()
    clip = noise(1, 400).double()
    plain, changed, centred = (judge(audio) for audio in (clip, 0.3 * clip - 0.2, clip - clip.mean()))
    peak = (clip - clip.mean()).abs().max()
    direct = [member(0.8 * (clip - clip.mean()) / peak) for member in judge.discriminators]
    for one, two, three, four in zip(plain, changed, centred, direct, strict=True):
        for other in (two, three, four):
            torch.testing.assert_close(one.score, other.score, rtol=1e-6, atol=1e-6)


def test_a_silent_clip_is_judged_without_dividing_by_its_peak():
    for judgements in Discriminators(SMALL)(torch.zeros(1, 400), 0).values():
        assert all(judgement.score.isfinite().all() for judgement in judgements)


@pytest.mark.parametrize("bandwidth_id", [2, torch.tensor(2), torch.tensor([2]), torch.tensor([2, 2])])
def test_one_id_may_be_given_in_any_form(bandwidth_id):
    discriminators = randomised(Discriminators(SMALL))
    audio = noise(2, 400)
    expected = discriminators(audio, torch.tensor([2, 2], dtype=torch.int32))
    judged = discriminators(audio, bandwidth_id)
    torch.testing.assert_close(judged, expected, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["multi_period", "multi_resolution"])
def test_each_clip_of_a_batch_is_judged_under_its_own_id(family):
    judge = getattr(randomised(Discriminators(SMALL)), family)
    audio = noise(2, 400)
    together = judge(audio, torch.tensor([3, 1]))
    for clip, bandwidth_id in enumerate([3, 1]):
        for one, alone in zip(together, judge(audio[clip : clip + 1], bandwidth_id), strict=True):
            torch.testing.assert_close(one.score[clip], alone.score[0], rtol=1e-5, atol=1e-5)
    other = judge(audio, 0)
    assert all((one.score - two.score).abs().max() > 0.1 for one, two in zip(together, other, strict=True))


def test_an_untrained_discriminator_judges_all_ids_alike():
    discriminators = Discriminators(SMALL)
    audio = noise(1, 400)
    torch.testing.assert_close(discriminators(audio, 0), discriminators(audio, 3), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("bandwidth_id", "message"),
    [
        (4, r"0\.\.3, got 4"),
        (-1, r"0\.\.3, got -1"),
        (torch.tensor([0, 7]), r"0\.\.3, got \[0, 7\]"),
        (1.0, r"float32 \(\)"),
        (True, r"bool \(\)"),
        (torch.tensor([0, 1, 2]), r"shape \(2,\).*got torch.int64 \(3,\)"),
        (torch.tensor([[0], [1]]), r"\(2, 1\)"),
    ],
)
def test_ids_that_do_not_fit_are_refused(bandwidth_id, message):
    with pytest.raises(ValueError, match=message):
        Discriminators(SMALL)(noise(2, 400), bandwidth_id)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(1, 1, 400), r"\(B, T\), got torch.float32 \(1, 1, 400\)"),
        (torch.zeros(1, 400, dtype=torch.int16), "int16"),
        (torch.zeros(1, 32), "more than 32 samples, got 32"),
    ],
)
def test_audio_that_cannot_be_judged_is_refused(audio, message):
    with pytest.raises(ValueError, match=message):
        Discriminators(DiscriminatorConfig(use_multi_period=False, width=0.05, resolutions=(64,)))(audio, 0)


def test_the_shortest_audio_that_is_not_refused_is_judged():
    audio = noise(1, 33)
    assert all(judgement.score.isfinite().all() for judgement in Discriminators(SMALL)(audio, 0)["multi_band"])


def test_two_halves_of_one_call_are_what_two_calls_say():
    discriminators = randomised(Discriminators(SMALL))
    real, fake = noise(2, 400), noise(2, 400, seed=1)
    ids = torch.tensor([0, 3])
    judged = halves(discriminators(torch.cat([real, fake]), ids.repeat(2)))
    torch.testing.assert_close(judged[0], discriminators(real, ids), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(judged[1], discriminators(fake, ids), rtol=1e-5, atol=1e-5)


def test_families_that_are_off_are_not_there():
    for family in ("multi_period", "multi_resolution", "multi_band"):
        others = {
            f"use_{name}": False for name in ("multi_period", "multi_resolution", "multi_band") if name != family
        }
        discriminators = Discriminators(DiscriminatorConfig(width=0.02, **others))
        assert {name.partition(".")[0] for name in discriminators.state_dict()} == {family}
        assert list(discriminators(noise(1, 1200), 0)) == [family]


def test_width_scales_every_layer():
    def channels(width: float) -> dict[str, int]:
        with torch.device("meta"):
            state = Discriminators(DiscriminatorConfig(width=width)).state_dict()
        return {name: tensor.shape[0] for name, tensor in state.items() if "convs" in name}

    whole, quarter = channels(1.0), channels(0.25)
    assert set(whole.values()) == {32, 64, 128, 512, 1024}
    assert quarter == {name: number // 4 for name, number in whole.items()}


def test_lists_from_a_file_make_the_same_configuration_as_tuples():
    assert DiscriminatorConfig(periods=[2, 3], band_edges=[0, 1]) == DiscriminatorConfig(
        periods=(2, 3), band_edges=(0, 1)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_multi_period": False, "use_multi_resolution": False, "use_multi_band": False}, "No family"),
        ({"width": 0}, "`width` must be above 0, got 0"),
        ({"periods": [2, 0]}, r"`periods`.*1 samples and more, got \[2, 0\]"),
        ({"resolutions": [2]}, r"`resolutions`.*4 samples and more"),
        ({"resolutions": []}, "`use_multi_resolution` is on"),
        ({"band_periods": [], "band_resolutions": []}, "`use_multi_band` is on"),
        ({"band_edges": [0, 0.5]}, "rise from 0 to 1"),
        ({"band_edges": [0, 0.5, 0.5, 1]}, "rise from 0 to 1"),
        ({"band_edges": [0, 0.01, 1], "band_resolutions": [64]}, "no bin of an FFT of 64"),
    ],
)
def test_settings_that_make_no_discriminator_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DiscriminatorConfig(**settings)


def test_half_precision_convolutions_leave_spectra_and_gradients_in_float32():
    discriminators = randomised(Discriminators(SMALL))
    audio = noise(2, 400).requires_grad_()
    exact = discriminators(audio, 1)
    with torch.autocast("cpu", torch.bfloat16):
        judged = discriminators(audio, 1)
    for family, judgements in judged.items():
        for ours, expected in zip(judgements, exact[family], strict=True):
            assert ours.score.dtype == ours.features[0].dtype == torch.bfloat16
            error = (ours.score.float() - expected.score).norm() / expected.score.norm()
            assert error < 0.03
    sum(judgement.score.float().mean() for judgements in judged.values() for judgement in judgements).backward()
    gradients = [audio.grad, *(parameter.grad for parameter in discriminators.parameters())]
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)
    assert audio.grad.abs().sum() > 0


def test_every_parameter_takes_part_in_every_call_of_a_wrapped_module(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(Discriminators(SMALL))
        for _ in range(2):  # the second call fails if the first left a parameter without a gradient
            judged = halves(wrapped(noise(4, 400), torch.tensor([0, 1, 2, 3])))
            sum(judgement.score.mean() for half in judged for each in half.values() for judgement in each).backward()
    finally:
        torch.distributed.destroy_process_group()


def test_keys_and_shapes_are_the_originals_under_a_simple_rule():
    prefixes = {
        "multiperioddisc.": "multi_period.",
        "multiresddisc.": "multi_resolution.",
        "dacdiscriminator.discriminator.": "multi_band.",
    }
    expected = {}
    for name, tensor in load_manifest(GOLDEN / "manifest_hop320.json")["tensors"].items():
        for theirs, ours in prefixes.items():
            if name.startswith(theirs):
                *path, leaf = name.removeprefix(theirs).split(".")
                if ours == "multi_band." and path[-1] == "0":
                    path.pop()
                leaf = leaf.replace("weight_g", "parametrizations.weight.original0")
                leaf = leaf.replace("weight_v", "parametrizations.weight.original1")
                expected[ours + ".".join([*path, leaf])] = tuple(tensor["shape"])
    with torch.device("meta"):
        state = Discriminators(DiscriminatorConfig()).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected


def test_an_incomplete_set_of_original_discriminators_is_refused():
    with pytest.raises(ValueError, match=r"lack 4\d\d tensors, the first is multi_period"):
        load_original_discriminators({"multiresddisc.discriminators.0.emb.weight": torch.zeros(4, 64)})
