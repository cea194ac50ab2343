"""Codes survive the way through a language model's ids, and no malformed sequence loses any."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import tiny_config
from tests.tiny_language import tiny_tokenizer
from wavtokenizer_hf import AudioVocabulary

TOKENIZER = tiny_tokenizer()
VOCABULARY = AudioVocabulary.add_to(TOKENIZER, tiny_config())
MARKS = (VOCABULARY.begin_token_id, VOCABULARY.end_token_id)

# A vocabulary whose ids are neither in order nor without gaps.
_SCATTERED_TOKENIZER = tiny_tokenizer()
_NAMES = [f"<|audio_{code}|>" for code in np.random.default_rng(0).permutation(64)]
_SCATTERED_TOKENIZER.add_tokens(
    [name for pair in zip(_NAMES, map("<|gap_{}|>".format, range(64)), strict=True) for name in pair]
)
SCATTERED = AudioVocabulary.add_to(_SCATTERED_TOKENIZER, tiny_config())

codes = st.lists(st.integers(0, 63), max_size=30)
any_ids = st.lists(
    st.one_of(st.sampled_from(MARKS), st.sampled_from(VOCABULARY.token_ids.tolist()), st.integers(0, 50)), max_size=40
)


@given(codes, st.sampled_from([VOCABULARY, SCATTERED]))
def test_codes_to_ids_and_back_are_the_same(values, vocabulary):
    tensor = torch.tensor(values, dtype=torch.int64)
    torch.testing.assert_close(vocabulary.to_codes(vocabulary.to_token_ids(tensor)), tensor)
    assert vocabulary.from_text(vocabulary.to_text(values)).tolist() == values


@given(codes)
def test_the_tokenizer_reads_codes_as_text_in_the_same_ids(values):
    [span] = VOCABULARY.to_spans(np.array([values], dtype=np.int64))
    assert TOKENIZER(VOCABULARY.to_text(values), add_special_tokens=False)["input_ids"] == span.tolist()


@given(any_ids)
def test_repair_keeps_every_code_and_every_text_in_order(ids):
    segments = VOCABULARY.split(ids, repair=True)
    kept = [
        token_id
        for segment in segments
        for token_id in (VOCABULARY.to_token_ids(segment.values) if segment.is_audio else segment.values)
    ]
    assert kept == [token_id for token_id in ids if token_id not in MARKS]
    bounds = [bound for segment in segments for bound in (segment.start, segment.stop)]
    assert bounds == sorted(bounds)


@given(any_ids)
def test_what_is_repaired_is_well_formed_and_what_is_well_formed_needs_no_repair(ids):
    segments = VOCABULARY.split(ids, repair=True)
    repaired = np.concatenate(
        [np.array([], dtype=np.int64)]
        + [VOCABULARY.to_spans(s.values[None])[0] if s.is_audio else s.values for s in segments]
    )
    again = VOCABULARY.split(repaired)
    # Text that an end token stood in is one stretch after it is gone.
    assert [s.values.tolist() for s in again if s.is_audio] == [s.values.tolist() for s in segments if s.is_audio]
    try:
        strict = VOCABULARY.split(ids)
    except ValueError:
        assert repaired.tolist() != ids
    else:
        assert repaired.tolist() == ids
        assert [(s.start, s.stop) for s in strict] == [(s.start, s.stop) for s in segments]
