"""Sequences of text and audio: made from codes, split again, and told where they are malformed."""

import numpy as np
import pytest
import torch

from tests.tiny import tiny_config
from tests.tiny_language import tiny_tokenizer
from wavtokenizer_hf import AudioVocabulary

TOKENIZER = tiny_tokenizer()
VOCABULARY = AudioVocabulary.add_to(TOKENIZER, tiny_config())
TEXT = 7  # the id of some text


def sequence(pattern: str) -> list[int]:
    """Ids of a pattern in which a digit is that code, `(` begins, `)` ends, and `t` is text."""
    marks = {"(": VOCABULARY.begin_token_id, ")": VOCABULARY.end_token_id, "t": TEXT}
    return [marks[letter] if letter in marks else int(VOCABULARY.token_ids[int(letter)]) for letter in pattern]


def read(pattern: str, repair: bool = False) -> list[str]:
    """The segments of a pattern: text as `t…`, audio as its digits in brackets, each with its bounds."""
    segments = VOCABULARY.split(sequence(pattern), repair=repair)
    return [
        (f"({''.join(map(str, segment.values))})" if segment.is_audio else "t" * len(segment.values))
        + f"@{segment.start}-{segment.stop}"
        for segment in segments
    ]


@pytest.mark.parametrize(
    ("pattern", "segments"),
    [
        ("", []),
        ("ttt", ["ttt@0-3"]),
        ("(12)", ["(12)@0-4"]),
        ("tt(123)t(4)", ["tt@0-2", "(123)@2-7", "t@7-8", "(4)@8-11"]),
        ("(1)(2)", ["(1)@0-3", "(2)@3-6"]),
        ("t()t", ["t@0-1", "()@1-3", "t@3-4"]),
    ],
)
def test_well_formed_sequences_split_into_text_and_spans(pattern, segments):
    assert read(pattern) == segments
    assert read(pattern, repair=True) == segments


@pytest.mark.parametrize(
    ("pattern", "message", "repaired"),
    [
        ("t12)", "Position 1 .*a code outside a span", ["t@0-1", "(12)@1-4"]),
        ("12", "Position 0 .*a code outside a span", ["(12)@0-2"]),
        ("(12t3)", "Position 3 .*text in the span that began at 0", ["(12)@0-3", "t@3-4", "(3)@4-6"]),
        ("t(12", "Position 4: the sequence ends in the span that began at 1", ["t@0-1", "(12)@1-4"]),
        ("t(", "Position 2: the sequence ends", ["t@0-1", "()@1-2"]),
        ("(1(2)", "Position 2 .*begin in the span that began at 0", ["(1)@0-2", "(2)@2-5"]),
        ("((1)", "Position 1 .*begin in the span", ["()@0-1", "(1)@1-4"]),
        ("(1))t", "Position 3 .*an end token outside", ["(1)@0-3", "t@4-5"]),
        (")t", "Position 0 .*an end token outside", ["t@1-2"]),
        ("(1)2", "Position 3 .*a code outside a span", ["(1)@0-3", "(2)@3-4"]),
    ],
)
def test_malformed_sequences_are_errors_that_name_the_position_or_repaired(pattern, message, repaired):
    with pytest.raises(ValueError, match=message):
        VOCABULARY.split(sequence(pattern))
    assert read(pattern, repair=True) == repaired


def test_an_error_names_the_id_that_stands_there():
    with pytest.raises(ValueError, match=rf"^Position 2 \(id {TEXT}\): text in the span that began at 0"):
        VOCABULARY.split(sequence("(1t"))


def test_split_takes_one_sequence_in_any_container():
    for ids in (sequence("t(12)"), np.array(sequence("t(12)"), np.int32), torch.tensor(sequence("t(12)"))):
        text, audio = VOCABULARY.split(ids)
        assert (text.is_audio, text.values.tolist()) == (False, [TEXT])
        assert (audio.is_audio, audio.values.tolist(), audio.values.dtype) == (True, [1, 2], np.int64)
    with pytest.raises(ValueError, match=r"one sequence \(n,\), got shape \(1, 5\)"):
        VOCABULARY.split([sequence("t(12)")])


def test_spans_of_a_batch_leave_padding_out():
    audio_codes = torch.tensor([[[1, 2, 3]], [[4, 0, 0]]])
    mask = torch.tensor([[[1, 1, 1]], [[1, 0, 0]]], dtype=torch.int32)
    first, second = VOCABULARY.to_spans(audio_codes, mask)
    assert first.tolist() == sequence("(123)")
    assert second.tolist() == sequence("(4)")
    assert isinstance(first, torch.Tensor)
    assert [span.tolist() for span in VOCABULARY.to_spans(audio_codes[:, 0].numpy())] == [
        sequence("(123)"),
        sequence("(400)"),
    ]


def test_spans_need_a_batch_of_codes_and_a_mask_of_the_same_shape():
    with pytest.raises(ValueError, match=r"shape \(B, 1, L\) or \(B, L\), got \(3,\)"):
        VOCABULARY.to_spans([1, 2, 3])
    with pytest.raises(ValueError, match=r"got \(1, 2, 3\)"):
        VOCABULARY.to_spans(np.zeros((1, 2, 3), dtype=np.int64))
    with pytest.raises(ValueError, match=r"codes' shape \(1, 3\), got \(1, 2\)"):
        VOCABULARY.to_spans([[1, 2, 3]], [[1, 1]])


def test_audio_ids_are_codes_and_marks_but_no_placeholder():
    ids = [*sequence("t(1)"), VOCABULARY.placeholder_token_id]
    assert VOCABULARY.is_audio(ids).tolist() == [False, True, True, True, False]
    assert VOCABULARY.is_audio(torch.tensor([ids])).tolist() == [[False, True, True, True, False]]
