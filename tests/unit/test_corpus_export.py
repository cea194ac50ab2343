"""Token files, read back by readers that know their layouts and nothing of this package."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_corpus import rows_of, tokenize, write_recordings
from wavtokenizer_hf.corpus import export
from wavtokenizer_hf.corpus.export import export_tokens
from wavtokenizer_hf.corpus.run import run_here
from wavtokenizer_hf.corpus.shards import read_batches
from wavtokenizer_hf.corpus.token_ids import TokenIds


class MegatronReader:
    """Reads an indexed dataset as Megatron-LM does: header, then tables, field by field."""

    def __init__(self, prefix: Path):
        index = Path(f"{prefix}.idx").read_bytes()
        assert index[:9] == b"MMIDIDX\0\0"
        version, code = struct.unpack_from("<QB", index, 9)
        assert version == 1
        self.dtype = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}[code]
        num_sequences, num_documents = struct.unpack_from("<QQ", index, 18)
        at = 34
        self.lengths = np.frombuffer(index, np.int32, num_sequences, at)
        at += self.lengths.nbytes
        self.pointers = np.frombuffer(index, np.int64, num_sequences, at)
        at += self.pointers.nbytes
        self.documents = np.frombuffer(index, np.int64, num_documents, at)
        assert at + self.documents.nbytes == len(index)
        self.tokens = Path(f"{prefix}.bin").read_bytes()

    def __getitem__(self, index: int) -> list[int]:
        return np.frombuffer(self.tokens, self.dtype, self.lengths[index], self.pointers[index]).tolist()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    write_recordings(folder / "in", 7)
    (folder / "in" / "broken.wav").write_text("no audio")
    tokenize(folder / "in", folder / "out", shard_clips=3)
    return folder / "out"


def documents(corpus: Path, ids: TokenIds) -> list[list[int]]:
    """What each document must be."""
    before = [] if ids.begin is None else [ids.begin]
    after = [] if ids.end is None else [ids.end]
    return [before + [code + ids.offset for code in row["codes"]] + after for row in rows_of(corpus)]


IDS = [
    (TokenIds(), np.uint16),
    (TokenIds(offset=1000, begin=5, end=2000), np.uint16),
    (TokenIds(offset=32000, end=2), np.uint16),
    (TokenIds(offset=262344, begin=262343), np.int32),
    (TokenIds(offset=65499 - 64), np.uint16),  # the greatest id is 65498, for which a vocabulary of 65499 is enough
    (TokenIds(offset=65500 - 64), np.int32),
]


@pytest.mark.parametrize(("ids", "dtype"), IDS)
def test_megatron_files_are_read_back_document_by_document(corpus, tmp_path, ids, dtype):
    exported = export_tokens(corpus, tmp_path / "deep" / "speech", "megatron", ids)
    reader = MegatronReader(tmp_path / "deep" / "speech")
    expected = documents(corpus, ids)
    assert reader.dtype == dtype == exported.dtype
    assert [reader[index] for index in range(len(reader.lengths))] == expected
    assert reader.documents.tolist() == list(range(len(expected) + 1))
    assert len(reader.tokens) == sum(map(len, expected)) * np.dtype(dtype).itemsize
    assert (exported.num_documents, exported.num_tokens) == (len(expected), sum(map(len, expected)))


@pytest.mark.parametrize(("ids", "dtype"), [*IDS[:3], (IDS[3][0], np.uint32), (TokenIds(65536 - 64), np.uint16)])
def test_numpy_files_are_read_back_with_the_ends_of_documents(corpus, tmp_path, ids, dtype):
    export_tokens(corpus, tmp_path / "speech", "npy", ids)
    tokens = np.load(tmp_path / "speech.npy", mmap_mode="r")
    ends = np.load(tmp_path / "speech.ends.npy")
    assert (tokens.dtype, ends.dtype) == (dtype, np.int64)
    assert [part.tolist() for part in np.split(tokens, ends)[:-1]] == documents(corpus, ids)
    assert ends[-1] == len(tokens)


def test_a_file_beside_them_says_what_the_ids_are(corpus, tmp_path):
    export_tokens(corpus, tmp_path / "speech", "npy", TokenIds(100, 7, 8))
    about = json.loads((tmp_path / "speech.json").read_text())
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert (about["offset"], about["begin"], about["end"], about["codebook_size"]) == (100, 7, 8, 64)
    assert about["fingerprint"] == manifest["codec"]["fingerprint"]
    assert about["num_documents"] == 7


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (TokenIds(offset=10, begin=10), "10 cannot begin or end a clip: codes have the ids 10 to 73"),
        (TokenIds(offset=10, end=73), "73 cannot begin or end"),
        (TokenIds(offset=-1), "from 0 to 2147483647, got -1 to 62"),
        (TokenIds(end=-5), "and -5"),
        (TokenIds(offset=(1 << 31) - 63), "from 0 to 2147483647"),
    ],
)
def test_ids_that_cannot_be_told_apart_or_stored_are_refused(corpus, tmp_path, ids, message):
    with pytest.raises(ValueError, match=message):
        export_tokens(corpus, tmp_path / "speech", "megatron", ids)
    assert not list(tmp_path.iterdir())


def test_ids_next_to_those_of_the_codes_are_none_of_them(corpus, tmp_path):
    export_tokens(corpus, tmp_path / "speech", "npy", TokenIds(offset=10, begin=9, end=74))


def test_a_damaged_corpus_is_refused_and_nothing_is_written(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "out")
    shard = sorted((tmp_path / "out" / "data").iterdir())[1]
    whole = bytearray(shard.read_bytes())
    whole[len(whole) // 4] ^= 1
    shard.write_bytes(whole)
    for token_format in ("megatron", "npy"):
        with pytest.raises(ValueError, match=r"shard 1 of .* is damaged: its checksum"):
            export_tokens(tmp_path / "out", tmp_path / "tokens" / "speech", token_format, TokenIds())
    assert not list((tmp_path / "tokens").iterdir())


def test_an_export_counts_what_it_writes(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "read_batches", lambda *given: list(read_batches(*given))[:0])
    with pytest.raises(ValueError, match=r"expected 7 documents of .* and the shards hold 0 of 0"):
        export_tokens(corpus, tmp_path / "speech", "npy", TokenIds())
    assert not list(tmp_path.iterdir())


def test_an_unfinished_corpus_is_refused(tmp_path):
    def one_shard(job, indices, *others):
        run_here(job, indices[:1], *others)

    write_recordings(tmp_path / "in", 3)
    tokenize(tmp_path / "in", tmp_path / "out", shard_clips=2, runner=one_shard)
    with pytest.raises(ValueError, match="1 of 2 shards are there"):
        export_tokens(tmp_path / "out", tmp_path / "speech", "megatron", TokenIds())


@given(st.lists(st.lists(st.integers(0, 63), max_size=5), max_size=6), st.sampled_from([None, 99]), st.booleans())
def test_ids_of_any_clips_stand_where_a_loop_puts_them(clips, begin, has_end):
    ids = TokenIds(offset=1, begin=begin, end=98 if has_end else None)
    expected = []
    for clip in clips:
        expected += [99] if begin else []
        expected += [code + 1 for code in clip]
        expected += [98] if has_end else []
    flat = np.array([code for clip in clips for code in clip], dtype=np.uint16)
    made = ids.documents(flat, np.array([len(clip) for clip in clips], dtype=np.int64))
    assert made.token_ids.tolist() == expected
    assert made.lengths.tolist() == [len(clip) + ids.num_added for clip in clips]
