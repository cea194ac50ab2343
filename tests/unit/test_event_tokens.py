"""Events as ids of a language model, and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_events import sounds, tiny_config, tiny_model
from wavtokenizer_hf import SparseEventCodecConfig
from wavtokenizer_hf.language.events import EventLogitsProcessor, EventVocabulary

VOCABULARY = EventVocabulary(tiny_config(), first_id=100)


@given(counts=st.lists(st.integers(0, 8), max_size=4), seed=st.integers(0, 1000))
def test_codes_of_ids_of_codes_are_these_codes(counts, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(counts), 8, dtype=torch.bool)
    for row, count in zip(mask, counts, strict=True):
        row[:count] = True
    mask = mask.flatten()
    codes = [torch.randint(size, mask.shape, generator=generator) for size in VOCABULARY.sizes]
    codes = torch.stack(codes, dim=-1) * mask[:, None]
    ids = VOCABULARY.to_ids(codes, mask)
    assert len(ids) == 2 * sum(counts) + len(counts)
    assert ((ids >= 100) & (ids < 100 + len(VOCABULARY))).all()
    again, again_mask = VOCABULARY.to_codes(ids)
    assert torch.equal(again, codes)
    assert torch.equal(again_mask, mask)


def test_sound_through_ids_is_the_sound_of_the_events():
    model, waveform = tiny_model(), sounds(12000)
    events = model.encode(waveform)
    ids = VOCABULARY.to_ids(events.event_codes[0], events.event_mask[0])
    codes, mask = VOCABULARY.to_codes(ids)
    decoded = model.decode(codes[None], mask[None], length=12000).audio_values
    assert events.event_mask.sum() > 3
    assert torch.equal(decoded, model.render(events, length=12000).audio_values)


def test_the_published_rate_is_two_ids_of_16_bits_per_event():
    config = SparseEventCodecConfig()
    assert config.codebook_sizes == (65536, 65536)
    assert 2 * config.max_event_rate == pytest.approx(21.53, abs=0.01)
    assert config.max_bitrate_kbps == pytest.approx(0.3445, abs=1e-4)
    assert len(EventVocabulary(config)) == 131073


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (lambda v: [v.vector_ids[0], v.end_of_window_id], "position 0"),
        (lambda v: [v.onset_ids[0], v.end_of_window_id], "position 1"),
        (lambda v: [v.onset_ids[0], v.vector_ids[0]], "end within a window"),
        (lambda v: [v.onset_ids[0], v.vector_ids[0]] * 9, "position 16"),
        (lambda v: [7], "position 0"),
    ],
)
def test_ids_that_are_not_where_they_may_stand_are_told(ids, said):
    with pytest.raises(ValueError, match=said):
        VOCABULARY.to_codes(ids(VOCABULARY))


def test_codes_that_have_no_ids_are_told():
    with pytest.raises(ValueError, match="whole windows"):
        VOCABULARY.to_ids(torch.zeros(5, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="sizes"):
        VOCABULARY.to_ids(torch.full((8, 2), 10**6))
    with pytest.raises(ValueError, match="wavetable"):
        EventVocabulary(tiny_config("wavetable"))


def test_whatever_is_drawn_under_the_mask_are_events():
    processor = EventLogitsProcessor(VOCABULARY, prompt_length=2)
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[1, 2], [3, 4]])
    for _ in range(60):
        scores = torch.randn(2, 100 + len(VOCABULARY), generator=generator)
        scores[:, VOCABULARY.end_of_window_id] += 2
        ids = torch.cat([ids, processor(ids, scores).argmax(dim=-1, keepdim=True)], dim=1)
    for row in ids[:, 2:]:
        last = int((row == VOCABULARY.end_of_window_id).nonzero()[-1]) + 1
        codes, mask = VOCABULARY.to_codes(row[:last])
        assert codes.shape == (8 * int((row == VOCABULARY.end_of_window_id).sum()), 2)
        assert mask.any()
