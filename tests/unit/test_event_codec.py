"""The codec of sparse events as a model of transformers, and what its events can be made into."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from tests.tiny_events import sounds, tiny_config, tiny_model
from wavtokenizer_hf import (
    SparseEventCodecConfig,
    SparseEventCodecEncoderOutput,
    SparseEventCodecFeatureExtractor,
    SparseEventCodecModel,
)
from wavtokenizer_hf.rendering_sparse_event_codec import OscillatorRenderer, event_numbers, mel_triangles

RENDERERS = pytest.mark.parametrize("renderer", ["oscillator", "wavetable"])


@RENDERERS
def test_a_saved_model_loads_by_the_auto_classes_and_finds_the_same_events(renderer, tmp_path):
    model, waveform = tiny_model(renderer), sounds(9000)
    model.save_pretrained(tmp_path)
    SparseEventCodecFeatureExtractor(normalize=True).save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert type(again) is SparseEventCodecModel
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == again.config.to_dict()
    assert AutoFeatureExtractor.from_pretrained(tmp_path).normalize
    with torch.no_grad():
        one, other = model(waveform), again(waveform)
    assert one.event_mask.any()
    assert torch.equal(one.audio_values, other.audio_values)


@RENDERERS
def test_weights_that_a_checkpoint_lacks_are_drawn_and_not_left_as_they_are(renderer, tmp_path):
    model = tiny_model(renderer)
    state = {name: value for name, value in model.state_dict().items() if name == "encoder.switch_head.bias"}
    again = SparseEventCodecModel.from_pretrained(None, config=model.config, state_dict=state)
    assert all(value.isfinite().all() and value.abs().max() < 10 for value in again.state_dict().values())
    assert again.encoder.blocks[0].conv.weight.std() > 0.05


@RENDERERS
def test_silence_has_no_events_and_gives_silence(renderer):
    output = tiny_model(renderer)(torch.zeros(1, 1, 9000))
    assert not output.event_mask.any()
    assert (output.residual_energy == 1).all()
    assert not output.audio_values.any()


@RENDERERS
def test_any_length_from_one_sample_on_has_a_result_of_its_length(renderer):
    model = tiny_model(renderer)
    for num_samples in (1, 2, 255, 257, 8193):
        with torch.no_grad():
            output = model(sounds(num_samples))
        assert output.audio_values.shape == (1, 1, num_samples)
        assert (output.event_onsets[output.event_mask] < num_samples).all()


def test_no_event_begins_in_the_last_quarter_in_the_originals_windows_and_some_do_in_ours():
    model, waveform = tiny_model("wavetable"), sounds(4 * 16384)
    with torch.no_grad():
        ours, original = model.encode(waveform), model.encode(waveform, original_windows=True)
    assert original.event_onsets.max() < 3 * 16384
    assert ours.event_onsets.max() > 3 * 16384
    num_places = original.event_mask.shape[1]
    assert torch.equal(ours.event_vectors[:, :num_places], original.event_vectors)


def test_encoding_stops_where_it_is_told_to():
    model, waveform = tiny_model(), sounds(8000)
    whole = model.encode(waveform)
    assert int(whole.event_mask.sum()) == 8
    assert model.encode(waveform, num_events=3).event_mask.shape == (1, 3)
    halfway = 10 * math.log10(float(whole.residual_energy[0, 4])) + 1e-4
    stopped = model.encode(waveform, stop_residual_db=halfway)
    assert int(stopped.event_mask.sum()) == 4
    assert torch.equal(stopped.event_vectors[:, :4], whole.event_vectors[:, :4])
    strict = model.encode(waveform, min_drop_db=-12.0)
    assert int(strict.event_mask.sum()) < 8


def test_residuals_of_all_places_are_what_the_energies_say():
    model, waveform = tiny_model(), sounds(12000)
    events = model.encode(waveform, output_residuals=True)
    assert events.residual_spectra.shape == (1, 17, 513, 47)
    energy = events.residual_spectra.double().square().sum(dim=(2, 3))
    # Frames before the clip and after it count, too, but hardly anything is there.
    assert torch.allclose(energy / energy[:, :1], events.residual_energy, atol=0.05)
    assert (energy.diff(dim=-1) <= 1e-3).all()


@pytest.mark.parametrize("quantize", [True, False])
def test_gradients_reach_encoder_and_renderer(quantize):
    model = tiny_model().train()
    events = model.encode(sounds(8000), quantize=quantize)
    rendered = model.render(events, length=8000).audio_values
    (rendered.square().sum() + events.event_logits.sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if name.startswith(
            ("encoder.input", "encoder.vector", "encoder.switch", "renderer.hidden", "renderer.output")
        ):
            assert parameter.grad.abs().max() > 0, name


def test_a_renderings_partials_are_those_of_the_formula():
    config = tiny_config()
    renderer = OscillatorRenderer(config)
    torch.manual_seed(3)
    renderer.init_tables()
    with torch.no_grad():
        parameters = renderer.parameters_of(torch.rand(2, 4) * 2 - 1)
    parameters["glide"] = torch.zeros_like(parameters["glide"])
    times = torch.arange(config.event_samples, dtype=torch.float64) / config.sampling_rate
    expected = torch.zeros(2, config.event_samples, dtype=torch.float64)
    for order in range(1, config.num_partials + 1):
        hertz = order * parameters["f0_hz"] * (1 + parameters["inharmonicity"] * order**2).sqrt()
        start = torch.complex(parameters["real"], parameters["imaginary"])[:, order - 1 : order]
        decay = parameters["decay_per_s"][:, order - 1 : order]
        heard = ((0.48 - hertz / config.sampling_rate) / 0.04).clamp(0, 1)
        turning = torch.polar((-decay * times).exp(), 2 * math.pi * hertz * times)
        expected += heard * (start * turning).real
    sound = renderer.partials(parameters)
    assert expected.abs().max() > 0.1
    assert torch.allclose(sound.double(), expected, atol=2e-4 * float(expected.abs().max()))


def test_an_event_has_unit_energy_and_has_ended_at_its_length():
    model = tiny_model()
    vectors = torch.rand(5, 4) * 2 - 1
    sound = model.renderer(vectors, model.noise_numbers(vectors, torch.arange(5))).detach()
    assert torch.allclose(sound.square().sum(dim=-1), torch.ones(5), atol=1e-4)
    assert sound[:, -1].abs().max() < 1e-6


def test_noise_follows_from_seed_and_event():
    codes, frames = torch.tensor([5, 5, 6]), torch.tensor([1, 2, 1])
    numbers = event_numbers(0, codes, frames)
    assert len(set(numbers)) == 3
    assert event_numbers(0, codes[1:2], frames[1:2]) == numbers[1:2]
    assert event_numbers(1, codes, frames) != numbers
    model = tiny_model()
    events = model.encode(sounds(8000))
    assert not torch.equal(model.render(events, seed=1).audio_values, model.render(events).audio_values)


def test_an_onset_between_samples_moves_the_sound_by_this_part():
    model = tiny_model().requires_grad_(False)
    events = model.events_of(torch.tensor([[[4000, 9]]]), num_events=8)
    here = model.render(events, length=9000).audio_values
    events.event_onsets = events.event_onsets + 0.5
    between = model.render(events, length=9000).audio_values
    shifted = torch.fft.irfft(
        torch.fft.rfft(here.double()) * torch.polar(torch.ones(4501), -math.pi / 9000 * torch.arange(4501)), 9000
    )
    assert torch.allclose(between.double(), shifted, atol=1e-3 * float(here.abs().max()))


@RENDERERS
def test_events_go_through_json_and_sound_the_same(renderer):
    model = tiny_model(renderer)
    with torch.no_grad():
        events = model.encode(sounds(9000))
        again = SparseEventCodecEncoderOutput.from_json(json.loads(json.dumps(events.to_json())))
        assert torch.equal(model.render(again, 9000).audio_values, model.render(events, 9000).audio_values)
    if renderer == "oscillator":
        assert torch.equal(again.event_codes[0], events.event_codes[0, events.event_mask[0]])


def test_rows_are_notes_in_the_order_in_which_they_sound():
    model = tiny_model()
    rows = model.to_rows(model.encode(sounds(9000)))
    onsets = [row["onset_s"] for row in rows]
    assert onsets == sorted(onsets)
    lowest, highest = (69 + 12 * math.log2(hertz / 440) for hertz in (55, 880))
    for row in rows:
        assert lowest <= row["pitch"] <= highest
        assert 0 < row["duration_s"] <= 4096 / 22050
        assert 1 <= row["velocity"] <= 127
    assert SparseEventCodecEncoderOutput.from_json(rows).event_mask.shape == (1, len(rows))


def test_events_at_other_times_or_with_other_vectors_are_as_many():
    model = tiny_model()
    events = model.encode(sounds(9000, 2))
    generator = torch.Generator().manual_seed(0)
    for vectors in ("keep", "uniform", "reservoir", "shuffle"):
        for onsets in ("keep", "uniform", "shuffle"):
            drawn = model.sample_events(events, vectors, onsets, generator)
            assert torch.equal(drawn.event_mask, events.event_mask)
            assert torch.equal(drawn.event_vectors, events.event_vectors) == (vectors == "keep")
            assert torch.equal(drawn.event_onsets, events.event_onsets) == (onsets == "keep")
            assert (drawn.event_onsets <= 16384).all()
            assert model.render(drawn).audio_values.isfinite().all()
    original = model.sample_events(events, onsets="uniform", original_rule=True, generator=generator)
    assert (original.event_onsets % 256 == 0).all()
    assert (original.event_gains[events.event_mask] > 0.5).all()
    with pytest.raises(ValueError, match="one of keep"):
        model.sample_events(events, vectors="other")


def test_the_feature_extractor_divides_by_the_highest_sample_and_says_by_what():
    extractor = SparseEventCodecFeatureExtractor(normalize=True)
    clips = [np.array([0.25, -0.5], dtype=np.float32), np.array([0.1], dtype=np.float32)]
    features = extractor(clips, return_tensors="pt")
    assert features["input_values"].shape == (2, 1, 2)
    assert torch.allclose(features["input_values"][0, 0], torch.tensor([1.0, -2.0]))
    assert torch.allclose(features["audio_scale"], torch.tensor([0.25, 0.1]))
    assert "audio_scale" not in SparseEventCodecFeatureExtractor()(clips)
    with pytest.raises(NotImplementedError, match="event_mask"):
        extractor.get_num_audio_codes(100)


def test_mel_bands_cover_all_frequencies_once():
    filters = mel_triangles(80, 513, 22050)
    assert filters.shape == (80, 513)
    assert (filters.sum(dim=1) > 0).all()
    assert torch.allclose(filters[:, 30:480].sum(dim=0), torch.ones(450), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"renderer": "other"}, "renderer"),
        ({"event_dim": 5}, "fsq_levels"),
        ({"event_samples": 70000}, "event_samples"),
        ({"onset_steps": 3}, "onset_steps"),
        ({"min_f0_hz": 900.0}, "min_f0_hz"),
        ({"num_events": 0}, "num_events"),
        ({"num_frames": 511}, "num_frames"),
        ({"renderer": "wavetable", "noise_expressivity": 2}, "instr_expressivity"),
    ],
)
def test_settings_that_do_not_fit_are_told(settings, said):
    with pytest.raises(Exception, match=said):
        SparseEventCodecConfig(**settings)


def test_wrong_input_is_told():
    model = tiny_model()
    with pytest.raises(ValueError, match=r"\(B, 1, T\)"):
        model.encode(torch.zeros(3, 100))
    with pytest.raises(ValueError, match="empty"):
        model.encode(torch.zeros(1, 1, 0))
    with pytest.raises(ValueError, match="Clip 1"):
        model.encode(torch.stack([torch.zeros(1, 5), torch.full((1, 5), torch.inf)]))
    with pytest.raises(ValueError, match="clip 0"):
        model.encode(torch.zeros(1, 1, 4), torch.tensor([[0, 1, 1, 1]]))
    with pytest.raises(ValueError, match="num_events"):
        model.encode(torch.zeros(1, 1, 4), num_events=0)
    with pytest.raises(ValueError, match="sizes"):
        model.decode(torch.tensor([[[0, 10**6]]]))
    with pytest.raises(ValueError, match="no codes"):
        tiny_model("wavetable").decode(torch.zeros(1, 1, 2, dtype=torch.int64))
    events = model.encode(sounds(5000))
    with pytest.raises(ValueError, match="length"):
        model.render(events, length=0)
    with pytest.raises(ValueError, match="event_vectors"):
        tiny_model("wavetable").render(events)
    with pytest.raises(ValueError, match="float32 or float64"):
        tiny_model().to(torch.bfloat16).encode(sounds(100))
    with pytest.raises(ValueError, match="empty list"):
        SparseEventCodecEncoderOutput.from_json([])
    with pytest.raises(ValueError, match="lacks gain"):
        SparseEventCodecEncoderOutput.from_json([{"onset": 1, "vector": [0.0]}])
