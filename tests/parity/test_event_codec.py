"""The wavetable codec of sparse events computes what the original computed, from spectrum to streams."""

import numpy as np
import pytest
import torch
from conversion.errors import ConversionError
from conversion.event_codec import DISCRIMINATOR_KEPT, KEPT, convert, to_ours, why_dropped

from tests.golden.events import event_reference_weights as weights
from tests.parity.events import (
    CLIPS,
    clips,
    largest,
    loaded_model,
    manifest,
    noise,
    original_state,
    recorded,
    relative,
)
from wavtokenizer_hf.modeling_sparse_event_codec import SparseEventCodecEncoderOutput
from wavtokenizer_hf.training.event_losses import loss_features

DOUBLE = 1e-10


@pytest.fixture(scope="module")
def small():
    return loaded_model("small")


@pytest.fixture(scope="module")
def small_double():
    return loaded_model("small").double()


@pytest.fixture(scope="module")
def full():
    return loaded_model("full")


@pytest.fixture(scope="module", params=["float32", "float64"])
def either(request, small, small_double):
    """The small model in a dtype, and what was recorded in it: a function of the array's name."""
    if request.param == "float32":
        return small, recorded("small")
    return small_double, recorded("small") | recorded("small", "float64")


def first_events(events: SparseEventCodecEncoderOutput, number: int) -> SparseEventCodecEncoderOutput:
    names = ("event_vectors", "event_onsets", "event_gains", "event_mask")
    return SparseEventCodecEncoderOutput(**{name: getattr(events, name)[:, :number] for name in names})


def pieces(signal: torch.Tensor) -> dict[str, torch.Tensor]:
    quarter = signal.shape[-1] // 4
    return {
        "head": signal[..., :2048],
        "mid": signal[..., quarter : quarter + 512],
        "tail": signal[..., -512:],
    }


@pytest.mark.parametrize("geometry", ["small", "full"])
def test_weights_are_the_ones_that_the_original_ran_with(geometry):
    for group in ("model",) if geometry == "full" else ("model", "discriminator"):
        assert weights.digest(original_state(geometry, group)) == manifest(geometry)["digests"][group]


@pytest.mark.parametrize("geometry", ["small", "full"])
def test_every_key_of_the_original_is_mapped_once_or_dropped_by_name(geometry):
    names = manifest(geometry)["tensors"]
    model_names = [name for name in names if not name.startswith("disc.")]
    ours = [to_ours(name) for name in model_names if to_ours(name)]
    assert len(set(ours)) == len(ours)
    assert {name for name in model_names if to_ours(name) is None} == {
        name for name in model_names if ".norm." in name or "scheduler" in name or "noise_mixes" in name
    }
    assert all(to_ours(name, DISCRIMINATOR_KEPT) for name in names if name.startswith("disc."))
    assert all((why_dropped(name) is None) == (to_ours(name) is not None) for name in model_names)
    assert len({row.ours for row in KEPT}) == len(KEPT)


def test_a_key_that_the_map_does_not_know_is_an_error():
    with pytest.raises(ConversionError, match=r"leftover keys.*resonance\.other"):
        convert({"resonance.other": torch.zeros(1)})


def test_the_original_has_as_many_weights_as_its_author_says(full):
    dead = 8 * 2 * 512 + 512 + 66  # batch norms, the scheduler's table, a head that is dropped
    assert sum(parameter.numel() for parameter in full.parameters()) + dead == 14_228_719


def test_spectra_and_loss_features_are_the_originals(small):
    gold, waveforms = recorded("small"), clips(32768, *CLIPS["small"])
    spectrum = small.spectrum(waveforms, 128)
    assert largest(spectrum[..., ::8], gold["features/S.every8"]) < 2e-6
    parts = [part.sum(dim=-1, dtype=torch.float64) for part in loss_features(waveforms)]
    sums = torch.stack(parts, dim=-1)[:, None]
    assert np.abs(sums.numpy() / gold["features/loss_features.part_sums"] - 1).max() < 1e-6
    assert [part.shape[-1] for part in loss_features(waveforms)] == gold["features/loss_features.part_sizes"].tolist()


def test_spectra_of_whole_windows_are_the_originals(small):
    gold, waveforms = recorded("small"), clips(32768, *CLIPS["small"])
    spectrum = small.spectrum(waveforms, 128).double()
    assert np.abs(spectrum.sum(dim=1).numpy() / gold["features/S.frame_sum"] - 1).max() < 1e-5
    assert np.abs(spectrum.sum(dim=2).numpy() / gold["features/S.bin_sum"] - 1).max() < 1e-5


def test_every_frame_of_the_encoder_is_the_originals(either):
    model, gold = either
    dtype = model.sample_dtype
    layers = {}
    model.encoder.blocks[3].register_forward_hook(lambda *call: layers.update(block3=call[2]))
    residual = model.spectrum(clips(32768, *CLIPS["small"]).to(dtype), 128)
    with torch.no_grad():
        vectors, switches = model.encoder(residual, 128)
    exact = dtype == torch.float64
    assert largest(vectors, gold["encode/V"]) < (DOUBLE if exact else 2e-5)
    assert largest(switches[:, None], gold["encode/switch"]) < (DOUBLE if exact else 1e-6)
    if not exact:
        assert largest(layers["block3"][..., ::8], gold["encode/block3"]) < 2e-5


def test_frames_that_no_event_may_begin_at_are_not_computed(small):
    residual = small.spectrum(clips(32768, *CLIPS["small"]), 128)
    with torch.no_grad():
        all_frames, some = small.encoder(residual, 128), small.encoder(residual, 40)
    assert torch.allclose(all_frames[0][..., :40], some[0], atol=1e-6)


def test_every_stage_of_a_rendering_is_the_originals(small):
    gold = {key.removeprefix("render_first/"): value for key, value in recorded("small").items() if "_first" in key}
    renderer, heads = small.renderer, small.renderer.parameters_of(torch.from_numpy(gold["vectors"][0]))
    with torch.no_grad():
        attack = renderer.attack(heads, noise("small", 1, 1)[0].float())
        assert largest(attack[None, :, :2048], gold["noise_mixed.head"][:, 0]) < 1e-6
        resonance, middle = renderer.resonance(heads), slice(32768 // 4, 32768 // 4 + 512)
        assert largest(resonance[..., middle][None], gold["resonance.mid"]) < 2e-6
        assert largest(renderer.decay(heads)[..., middle], gold["decay.mid"]) < 1e-6
        sound = renderer.resound(heads, attack)
        assert largest(sound[None, :, middle], gold["before_room.mid"]) < 2e-6
        sound = heads["amplitudes"].abs() * renderer.room(heads, sound)
        assert largest(sound[None, :, middle], gold["before_schedule.mid"]) < 5e-5
        frames, gains = torch.from_numpy(gold["frames"][0]).long(), torch.from_numpy(gold["amplitudes"][0])
        scheduled = renderer.schedule(sound, frames, gains)
        assert largest(scheduled[None, :, middle], gold["scheduled.mid"]) < 5e-5
        assert largest(renderer.shift(heads, scheduled)[None], gold["event"]) < 5e-5


@pytest.mark.parametrize("case", ["render_first", "render_edges"])
def test_events_of_given_vectors_are_the_originals(either, case):
    model, gold = either
    dtype = model.sample_dtype
    vectors, frames, gains = (
        torch.from_numpy(gold[f"{case}/{name}"])[:, 0] for name in ("vectors", "frames", "amplitudes")
    )
    bursts = noise("small", 1, len(vectors))[:, 0].to(dtype)
    with torch.no_grad():
        sound = model.renderer(vectors.to(dtype), frames.long(), gains.to(dtype), bursts)[:, None]
    if dtype == torch.float32:
        every = 4 if case == "render_edges" else 1
        assert largest(sound[..., ::every], gold[f"{case}/event"]) < 5e-5
    else:
        assert all(largest(part, gold[f"{case}/event.{name}"]) < DOUBLE for name, part in pieces(sound).items())


def test_the_events_of_a_window_are_the_originals(either):
    model, gold = either
    exact = model.sample_dtype == torch.float64
    number = 1 if exact else 2  # of clips; double precision takes its time
    theirs = {name: gold[f"decompose/{name}"][:number] for name in ("vectors", "frames", "amplitudes", "residual_l2")}
    waveforms = clips(32768, *CLIPS["small"])[:number, None].to(model.sample_dtype)
    bursts = noise("small", 16, number)
    with torch.no_grad():
        found = model.encode(waveforms, excitation_noise=bursts, output_residuals=not exact)
        events = first_events(found, 8)
        total = model.render(events, length=32768, excitation_noise=bursts[:, :8]).audio_values
    assert (events.event_onsets.numpy() == theirs["frames"] * 256).all()
    assert largest(events.event_vectors, theirs["vectors"]) < (DOUBLE if exact else 3e-4)
    assert largest(events.event_gains, theirs["amplitudes"]) < (DOUBLE if exact else 1e-5)
    norms = theirs["residual_l2"]
    left = torch.sqrt(found.residual_energy[:, :9]).numpy() * norms[:, :1]
    assert np.abs(left / norms - 1).max() < 1e-5
    if exact:
        for name, part in pieces(total).items():
            assert largest(part, gold[f"decompose/sum.{name}"][:number]) < DOUBLE
    else:
        assert relative(total, gold["decompose/sum"]) < 5e-3
        steps = gold["decompose/residuals.steps"] + 1
        assert largest(found.residual_spectra[:1, steps][..., ::32], gold["decompose/residuals.every8"]) < 1e-4


def test_a_stream_in_the_originals_windows_is_the_originals(either):
    model, gold = either
    exact = model.sample_dtype == torch.float64
    # In double precision the first two of the six windows, which the first half of the recording settles.
    length, num_windows = (65536, 2) if exact else (131072, 6)
    places = num_windows * 8
    theirs = {name: gold[f"stream/{name}"][:, :places] for name in ("vectors", "frames", "amplitudes")}
    waveform = clips(131072, ("long", 0))[:, None, :length].to(model.sample_dtype)
    bursts = noise("small", places, 1)
    with torch.no_grad():
        events = model.encode(waveform, excitation_noise=bursts, original_windows=True)
        total = model.render(events, length=131072, excitation_noise=bursts).audio_values
    frames = events.event_onsets.numpy() / 256 - np.repeat(np.arange(num_windows), 8) * 64
    mask = events.event_mask.numpy()
    # Where nothing is switched on, the original returns a silent event at a frame that a sort happens to choose.
    assert (mask == (theirs["amplitudes"] > 0)).all()
    assert (frames[mask] == theirs["frames"][mask]).all()
    assert np.abs((events.event_vectors.numpy() - theirs["vectors"])[mask]).max() < (DOUBLE if exact else 5e-4)
    assert largest(events.event_gains, theirs["amplitudes"]) < (DOUBLE if exact else 5e-4)
    if exact:
        assert largest(total[..., :2048], gold["stream/sum.head"]) < DOUBLE
    else:
        assert relative(total, gold["stream/sum"]) < 5e-3


def test_random_vectors_and_random_times_sound_as_the_originals(small):
    gold = recorded("small")
    bursts = noise("small", 8, 1)
    vectors = torch.from_numpy(gold["decompose/vectors"][:1])
    mask = torch.ones(1, 8, dtype=torch.bool)
    variations = {
        "random_events": (gold["generate/random_vectors"], gold["decompose/frames"], gold["decompose/amplitudes"]),
        "random_times": (vectors, gold["generate/random_times_frames"], gold["generate/random_times_amplitudes"]),
    }
    for name, (chosen, frames, gains) in variations.items():
        sounds = [
            small.renderer(
                torch.as_tensor(chosen)[:, number],
                torch.from_numpy(frames[:1, number]).long(),
                torch.from_numpy(gains[:1, number]),
                bursts[:, number].float(),
            ).detach()
            for number in range(8)
        ]
        total = torch.stack(sounds).sum(dim=0)[None]
        assert largest(total / (total.abs().max() + 1e-8), gold[f"generate/{name}"]) < 1e-4
    events = SparseEventCodecEncoderOutput(
        event_vectors=torch.from_numpy(gold["generate/random_vectors"]),
        event_onsets=torch.from_numpy(gold["decompose/frames"][:1]).double() * 256,
        event_gains=torch.from_numpy(gold["decompose/amplitudes"][:1]),
        event_mask=mask,
    )
    with torch.no_grad():
        total = small.render(events, length=32768, excitation_noise=bursts).audio_values
    assert largest(total / (total.abs().max() + 1e-8), gold["generate/random_events"]) < 1e-4


def test_the_published_geometry_finds_the_originals_events(full):
    gold = recorded("full")
    number = 3
    residual = full.spectrum(clips(131072, ("window", 0)), 512)
    with torch.no_grad():
        for step, burst in enumerate(noise("full", number, 1)[0].float()):
            vectors, frames, gains = full.pick(residual, 256)
            assert frames.item() == gold["decompose/frames"][0, step]
            assert largest(vectors, gold["decompose/vectors"][:, step]) < 3e-4
            assert largest(gains, gold["decompose/amplitudes"][:, step]) < 1e-5
            residual = residual - full.spectrum(full.renderer(vectors, frames, gains, burst[None]), 512)
            norm = float(residual.double().norm())
            assert norm == pytest.approx(gold["decompose/residual_l2"][0, step + 1], rel=1e-5)


def test_the_published_geometry_renders_the_originals_events(full):
    gold = recorded("full")
    vectors, frames, gains = (
        torch.from_numpy(gold[f"render_edges/{name}"])[:, 0] for name in ("vectors", "frames", "amplitudes")
    )
    with torch.no_grad():
        sound = full.renderer(vectors, frames.long(), gains, noise("full", 1, 2)[:, 0].float())
    assert largest(sound[:, None, ::16], gold["render_edges/event"]) < 5e-5


@pytest.mark.slow
def test_all_events_of_a_window_of_the_published_geometry_are_the_originals(full):
    gold, bursts = recorded("full"), noise("full", 64, 1)
    with torch.no_grad():
        events = full.encode(clips(131072, ("window", 0))[:, None], excitation_noise=bursts)
        window = first_events(events, 32)
        total = full.render(window, length=131072, excitation_noise=bursts[:, :32]).audio_values
    assert (window.event_onsets.numpy() == gold["decompose/frames"] * 256).all()
    assert largest(window.event_vectors, gold["decompose/vectors"]) < 3e-4
    assert relative(total[..., ::2], gold["decompose/sum"]) < 5e-3
