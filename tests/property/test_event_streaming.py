"""Streams of events equal the whole clip, for any partition."""

import io
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.test_event_decomposition import FIELDS, MODELS, assert_same
from tests.tiny_events import sounds
from wavtokenizer_hf.modeling_sparse_event_codec import SparseEventCodecEncoderOutput
from wavtokenizer_hf.streaming import StreamingEventDecoder, StreamingEventEncoder


def joined(parts: list[SparseEventCodecEncoderOutput]) -> SparseEventCodecEncoderOutput:
    return SparseEventCodecEncoderOutput(
        **{
            name: torch.cat([getattr(part, name) for part in parts], dim=1)
            for name in FIELDS
            if getattr(parts[0], name) is not None
        }
    )


def through_a_file(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@settings(deadline=None, max_examples=6)
@given(
    renderer=st.sampled_from(["oscillator", "wavetable"]),
    num_samples=st.integers(1, 40000),
    cuts=st.lists(st.integers(0, 40000), max_size=5),
    is_saved=st.booleans(),
)
def test_events_and_sound_of_a_stream_equal_the_whole(renderer, num_samples, cuts, is_saved):
    model, waveform = MODELS[renderer], sounds(num_samples)
    with torch.no_grad():
        whole = model.encode(waveform)
        rendered = model.render(whole, length=num_samples).audio_values
    encoder, decoder = StreamingEventEncoder(model), StreamingEventDecoder(model)
    edges = [0, *sorted(min(cut, num_samples) for cut in cuts), num_samples]
    parts, heard = [], []
    for start, end in itertools.pairwise(edges):
        if is_saved:
            states = through_a_file(encoder.state), through_a_file(decoder.state)
            encoder, decoder = StreamingEventEncoder(model), StreamingEventDecoder(model)
            encoder.state, decoder.state = states
        parts.append(encoder.push(waveform[..., start:end]))
        heard.append(decoder.push(parts[-1]))
    parts.append(encoder.flush())
    heard.append(decoder.push(parts[-1]))
    heard.append(decoder.flush(length=num_samples))
    assert_same(joined(parts), whole)
    assert torch.equal(torch.cat(heard, dim=-1)[..., :num_samples], rendered)


def test_a_state_stays_what_it_was_while_the_stream_goes_on():
    model, waveform = MODELS["oscillator"], sounds(40000)
    encoder = StreamingEventEncoder(model)
    encoder.push(waveform[..., :25000])
    state = encoder.state
    first = encoder.push(waveform[..., 25000:])
    encoder.state = state
    assert_same(encoder.push(waveform[..., 25000:]), first)


def test_events_come_as_soon_as_their_window_is_there():
    model = MODELS["oscillator"]
    encoder, needed = StreamingEventEncoder(model), model.config.num_samples_ahead
    assert encoder.push(sounds(needed - 1)).event_mask.shape == (1, 0)
    assert encoder.push(torch.zeros(1, 1, 1)).event_mask.shape == (1, model.config.num_events)
    assert encoder.latency_s == needed / 22050


def test_wrong_use_of_a_stream_is_told():
    model = MODELS["oscillator"]
    encoder, decoder = StreamingEventEncoder(model), StreamingEventDecoder(model)
    with pytest.raises(ValueError, match="floats"):
        encoder.push(torch.zeros(2, 1, 5))
    with pytest.raises(ValueError, match="NaN"):
        encoder.push(torch.full((1, 1, 3), torch.nan))
    with pytest.raises(ValueError, match="has the keys"):
        encoder.state = {"other": 1}
    with pytest.raises(ValueError, match="has the keys"):
        decoder.state = {"other": 1}
    other = StreamingEventEncoder(MODELS["wavetable"])
    other.push(sounds(20000))
    with pytest.raises(ValueError, match="another model"):
        encoder.state = other.state
    events = encoder.flush()
    assert events.event_mask.shape == (1, 0)
    with pytest.raises(RuntimeError, match="reset"):
        encoder.push(torch.zeros(1, 1, 1))
    with pytest.raises(RuntimeError, match="reset"):
        encoder.flush()
    encoder.reset()
    encoder.push(sounds(20000))
    first, second = encoder.flush(), model.encode(sounds(20000))
    assert first.event_mask.any()
    decoder.push(second)
    with pytest.raises(ValueError, match="in order"):
        decoder.push(second)
    with pytest.raises(ValueError, match="whole windows"):
        StreamingEventDecoder(model, num_events=5).push(second)
