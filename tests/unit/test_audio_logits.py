"""What may follow what while a language model generates."""

import pytest
import torch
from transformers import LogitsProcessorList

from tests.tiny import tiny_config
from tests.tiny_language import FAMILIES, tiny_language_model, tiny_tokenizer
from wavtokenizer_hf import AudioVocabulary
from wavtokenizer_hf.language import AudioLogitsProcessor

TOKENIZER = tiny_tokenizer()
VOCABULARY = AudioVocabulary.add_to(TOKENIZER, tiny_config())
NUM_IDS = len(TOKENIZER)
CODES = set(VOCABULARY.token_ids.tolist())
BEGIN, END = VOCABULARY.begin_token_id, VOCABULARY.end_token_id
TEXT = set(range(NUM_IDS)) - CODES - {BEGIN, END}


def allowed(processor: AudioLogitsProcessor, *rows: list[int]) -> list[set[int]]:
    """Which ids may follow each row."""
    scores = torch.randn(len(rows), NUM_IDS)
    barred = processor(torch.tensor(rows), scores)
    is_finite = barred.isfinite()
    torch.testing.assert_close(barred[is_finite], scores[is_finite], rtol=0, atol=0)
    return [set(row.nonzero().flatten().tolist()) for row in is_finite]


def ids(pattern: str) -> list[int]:
    marks = {"(": BEGIN, ")": END, "t": 7}
    return [marks[letter] if letter in marks else int(VOCABULARY.token_ids[int(letter)]) for letter in pattern]


def test_inside_a_span_codes_follow_and_outside_anything_else_row_by_row():
    rows = allowed(AudioLogitsProcessor(VOCABULARY), ids("tt(1"), ids("t(1)"), ids("tttt"), ids("t1(("))
    assert rows == [CODES | {END}, TEXT | {BEGIN}, TEXT | {BEGIN}, CODES]


def test_a_span_has_at_least_its_least_and_at_most_its_most_codes():
    processor = AudioLogitsProcessor(VOCABULARY, min_codes=2, max_codes=3)
    rows = allowed(processor, ids("ttt(1"), ids("tt(12"), ids("t(123"), ids("(1)t("))
    assert rows == [CODES, CODES | {END}, {END}, CODES]


def test_a_fixed_number_of_codes_may_differ_between_rows_and_is_shared_by_beams():
    processor = AudioLogitsProcessor(VOCABULARY, num_codes=[1, 2])
    assert allowed(processor, ids("(1"), ids("(1")) == [{END}, CODES]
    assert allowed(processor, *[ids("(1")] * 4) == [{END}, {END}, CODES, CODES]
    with pytest.raises(ValueError, match="bounds for 2 rows, and the batch has 3"):
        allowed(processor, *[ids("(1")] * 3)


def test_a_span_is_closed_before_generation_ends_and_none_is_begun_that_cannot_be():
    processor = AudioLogitsProcessor(VOCABULARY, min_codes=2, max_length=6)
    assert allowed(processor, ids("t(12")) == [CODES | {END}]
    assert allowed(processor, ids("t(123")) == [{END}]
    assert allowed(processor, ids("tttt(")) == [{END}]
    assert allowed(processor, ids("tt")) == [TEXT | {BEGIN}]
    assert allowed(processor, ids("ttt")) == [TEXT]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"num_codes": 3, "max_codes": 4}, "not both"),
        ({"num_codes": 3, "min_codes": 2}, "not both"),
        ({"min_codes": 3, "max_codes": 2}, "got 3 and 2"),
        ({"min_codes": 0, "max_codes": 0}, "got 0 and 0"),
        ({"min_codes": -1}, "got -1 and None"),
        ({"num_codes": [1, 0]}, r"got \[1, 0\]"),
    ],
)
def test_contradictory_bounds_are_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        AudioLogitsProcessor(VOCABULARY, **bounds)


def test_a_model_without_rows_for_the_codes_is_refused():
    with pytest.raises(ValueError, match=r"scores \d+ ids.*resize_embeddings"):
        AudioLogitsProcessor(VOCABULARY)(torch.tensor([[1]]), torch.zeros(1, NUM_IDS - 1))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_every_family_generates_well_formed_spans_in_a_padded_batch(family, num_beams):
    tokenizer = tiny_tokenizer(family)
    model = tiny_language_model(family, tokenizer)
    vocabulary = AudioVocabulary.add_to(tokenizer, tiny_config())
    vocabulary.resize_embeddings(model)
    tokenizer.padding_side = "left"
    prompts = [f"say it{vocabulary.begin_token}", f"the quick brown fox{vocabulary.begin_token}"]
    inputs = tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
    processor = AudioLogitsProcessor(vocabulary, num_codes=[3, 5])
    generated = model.generate(
        **inputs,
        max_new_tokens=12,
        do_sample=True,
        num_beams=num_beams,
        eos_token_id=vocabulary.end_token_id,
        logits_processor=LogitsProcessorList([processor]),
    )
    for row, prompt, num_codes in zip(generated, prompts, (3, 5), strict=True):
        num_generated = len(row) - inputs["input_ids"].shape[1]
        assert num_generated == 6
        end = int((row == vocabulary.end_token_id).nonzero()[0])
        segments = vocabulary.split(row[: end + 1])
        assert [segment.is_audio for segment in segments] == [False, True]
        assert len(segments[1].values) == num_codes
        assert tokenizer.decode(segments[0].values, skip_special_tokens=True).strip() == prompt.removesuffix(
            vocabulary.begin_token
        )
