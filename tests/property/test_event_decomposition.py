"""What holds of the events of any sound, under any weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_events import sounds, tiny_model
from wavtokenizer_hf.modeling_sparse_event_codec import SparseEventCodecEncoderOutput

MODELS = {renderer: tiny_model(renderer) for renderer in ("oscillator", "wavetable")}
FIELDS = ("event_vectors", "event_onsets", "event_gains", "event_mask", "event_codes", "event_logits")


def assert_same(one: SparseEventCodecEncoderOutput, other: SparseEventCodecEncoderOutput, names=FIELDS) -> None:
    for name in names:
        ours, theirs = getattr(one, name), getattr(other, name)
        assert (ours is None) == (theirs is None), name
        assert ours is None or torch.equal(ours, theirs), name


def waveform(kind: str, num_samples: int, level: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    times = torch.arange(num_samples)
    made = {
        "noise": lambda: torch.randn(num_samples, generator=generator),
        "square": lambda: ((times // 37) % 2) * 2.0 - 1,
        "clicks": lambda: (times % 1000 == 0).float(),
        "constant": lambda: torch.ones(num_samples),
        "sound": lambda: sounds(num_samples, seed=seed)[0, 0],
    }
    return level * made[kind]()[None, None]


@settings(deadline=None, max_examples=12)
@given(
    kind=st.sampled_from(["noise", "square", "clicks", "constant", "sound"]),
    num_samples=st.integers(1, 20000),
    level=st.sampled_from([1e-6, 0.1, 1.0, 300.0]),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.1, 1.0, 10.0, 1000.0]),
    quantize=st.booleans(),
)
def test_energy_never_rises_and_is_that_of_the_sum(kind, num_samples, level, seed, scale, quantize):
    model = tiny_model(seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= scale
    waveforms = waveform(kind, num_samples, level, seed)
    with torch.no_grad():
        events = model.encode(waveforms, quantize=quantize)
        rendered = model.render(events, length=num_samples + 6000).audio_values
    energy = events.residual_energy[0]
    assert energy[0] == 1
    assert (energy.diff() <= 0).all()
    assert (energy.diff()[: len(events.event_mask[0])][events.event_mask[0]] < 0).all()
    # Of all frames that reach into the clip, as the sum itself has it.
    before = model.config.num_samples_before
    spectra = [
        model.spectrum(torch.nn.functional.pad(signal[0], (before, 6000 + before)))
        for signal in (torch.nn.functional.pad(waveforms, (0, 6000)), rendered)
    ]
    left = (spectra[0] - spectra[1]).double().square().sum() / spectra[0].double().square().sum()
    assert float(left) == pytest.approx(float(energy[-1]), abs=2e-4)


@settings(deadline=None, max_examples=8)
@given(
    renderer=st.sampled_from(["oscillator", "wavetable"]),
    lengths=st.lists(st.integers(1, 20000), min_size=1, max_size=3),
)
def test_a_clip_gets_in_any_batch_what_it_gets_alone(renderer, lengths):
    model = MODELS[renderer]
    longest = max(lengths)
    batch = sounds(longest, len(lengths))
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        together = model.encode(batch * mask[:, None], mask)
        rendered = model.render(together, length=longest).audio_values
        for row, length in enumerate(lengths):
            alone = model.encode(batch[row : row + 1, :, :length])
            num_places = alone.event_mask.shape[1]
            assert num_places == -(-length // model.config.selection_samples) * model.config.num_events
            for name in FIELDS:
                if getattr(alone, name) is not None:
                    padded = getattr(together, name)[row : row + 1]
                    assert torch.equal(padded[:, :num_places], getattr(alone, name)), name
                    assert not padded[:, num_places:].any()
            assert torch.equal(model.render(alone, length=longest).audio_values, rendered[row : row + 1])


@settings(deadline=None, max_examples=8)
@given(order=st.permutations(range(16)), seed=st.integers(0, 100), first=st.integers(1, 15))
def test_an_event_sounds_the_same_in_any_order_and_company(order, seed, first):
    model = MODELS["oscillator"]
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack(
        [torch.randint(size, (1, 16), generator=generator) for size in model.config.codebook_sizes], -1
    )
    with torch.no_grad():
        events = model.events_of(codes)
        whole = model.render(events, length=30000).audio_values
        mixed = SparseEventCodecEncoderOutput(
            **{name: getattr(events, name)[:, list(order)] for name in FIELDS if getattr(events, name) is not None}
        )
        assert torch.equal(model.render(mixed, length=30000).audio_values, whole)
        parts = [
            SparseEventCodecEncoderOutput(
                **{name: getattr(mixed, name)[:, some] for name in FIELDS if getattr(mixed, name) is not None}
            )
            for some in (slice(0, first), slice(first, 16))
        ]
        each = model.render(mixed, per_event=True)
        for place in range(16):
            alone = SparseEventCodecEncoderOutput(
                **{
                    name: getattr(mixed, name)[:, place : place + 1]
                    for name in FIELDS
                    if getattr(mixed, name) is not None
                }
            )
            assert torch.equal(model.render(alone, per_event=True).event_values[0, 0], each.event_values[0, place])
        summed = sum(model.render(part, length=30000).audio_values for part in parts)
        assert torch.allclose(summed, whole, atol=1e-5 * float(whole.abs().max()))


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000))
def test_events_of_codes_have_these_codes(seed):
    quantizer = MODELS["oscillator"].quantizer
    generator = torch.Generator().manual_seed(seed)
    sizes = MODELS["oscillator"].config.codebook_sizes
    codes = torch.stack([torch.randint(size, (64,), generator=generator) for size in sizes], dim=-1)
    assert torch.equal(quantizer.to_codes(*quantizer.from_codes(codes)), codes)
