"""Files of codes: whole or not there, and known by what they say of themselves."""

import errno
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tiny import tiny_model
from tests.tiny_corpus import plan_for
from tests.unit.test_corpus_plan import Listed
from wavtokenizer_hf.corpus import shards
from wavtokenizer_hf.corpus.clip import PlannedClip
from wavtokenizer_hf.corpus.reader import Failure
from wavtokenizer_hf.corpus.shards import damage_of, read_record, remove_unfinished, schema, shard_path, write_shard
from wavtokenizer_hf.corpus.worker import EncodedClip, ShardResult

CODES = ([3, 0, 63], [7], [1, 3])
OUTCOMES = [
    EncodedClip(np.array(CODES[0]), 161),
    Failure("silent", "nothing"),
    EncodedClip(np.array(CODES[1]), 1),
    EncodedClip(np.array(CODES[2]), 160),
]


@pytest.fixture
def plan(tmp_path):
    clips = [PlannedClip(f"{index}", f"{index}.wav", columns={"text": f"t{index}"}) for index in range(4)]
    return plan_for(tmp_path / "out", Listed(*clips, PlannedClip("4", "4.wav")), shard_clips=4)


def result(plan, outcomes=OUTCOMES, index: int = 0) -> ShardResult:
    return ShardResult(plan.shard(index), list(outcomes), 1.0)


def test_a_shard_holds_codes_lengths_names_and_kept_columns(plan):
    write_shard(plan, result(plan))
    table = pq.read_table(shard_path(plan, 0))
    assert table.schema.equals(schema(plan))
    assert table.schema.field("codes").type == pa.list_(pa.uint16())
    assert table.to_pylist() == [
        {
            "id": name,
            "codes": codes,
            "num_samples": n,
            "duration": n / 24000,
            "source": f"{name}.wav",
            "text": f"t{name}",
        }
        for name, codes, n in zip("023", CODES, (161, 1, 160), strict=True)
    ]


def test_a_shard_records_its_sums_and_errors(plan):
    written = write_shard(plan, result(plan))
    read = read_record(plan, 0)
    for record in (written, read):
        assert (record.index, record.num_clips, record.num_samples, record.num_codes) == (0, 3, 322, 6)
        assert record.errors == [("1", "1.wav", "silent", "nothing")]
        expected = np.zeros(64, np.int64)
        expected[[0, 1, 7, 63]], expected[3] = 1, 2
        np.testing.assert_array_equal(record.counts, expected)


def test_a_shard_without_a_single_code_is_one_too(plan):
    write_shard(plan, result(plan, [Failure("empty", "nothing")] * 4))
    record = read_record(plan, 0)
    assert (record.num_clips, len(record.errors), record.counts.sum()) == (0, 4, 0)
    assert pq.read_table(shard_path(plan, 0)).num_rows == 0


def test_a_clip_without_a_kept_column_has_none_there(plan):
    write_shard(plan, result(plan, OUTCOMES[:1], index=1))
    assert pq.read_table(shard_path(plan, 1))["text"].to_pylist() == [None]


def test_large_codebooks_need_32_bits(tmp_path):
    model = tiny_model(codebook_size=64)
    model.config.codebook_size = (1 << 16) + 1
    plan = plan_for(tmp_path / "out", Listed(PlannedClip("0", "0")), model)
    write_shard(plan, result(plan, [EncodedClip(np.array([1 << 16]), 80)]))
    table = pq.read_table(shard_path(plan, 0))
    assert table.schema.field("codes").type == pa.list_(pa.uint32())
    assert table["codes"].to_pylist() == [[1 << 16]]


def test_the_same_result_makes_the_same_bytes(plan):
    write_shard(plan, result(plan))
    before = shard_path(plan, 0).read_bytes()
    write_shard(plan, ShardResult(plan.shard(0), OUTCOMES, 99.0))
    assert shard_path(plan, 0).read_bytes() == before


def test_what_is_not_there_or_torn_is_not_finished(plan):
    assert read_record(plan, 0) is None
    write_shard(plan, result(plan))
    whole = shard_path(plan, 0).read_bytes()
    for content in (b"", whole[:100], whole[:-1], b"no parquet"):
        shard_path(plan, 0).write_bytes(content)
        assert read_record(plan, 0) is None
    pq.write_table(pa.table({"id": ["0"]}), shard_path(plan, 0))
    assert read_record(plan, 0) is None


@pytest.mark.parametrize("checksum", ["sha256", "footer_sha256"])
def test_a_name_that_looks_like_a_checksum_is_a_name(tmp_path, checksum):
    name = f'"{checksum}": "{"f" * 64}", "'
    columns = {name: name}
    plan = plan_for(tmp_path / "out", Listed(*(PlannedClip(name * n, name, columns=columns) for n in (1, 2))))
    record = write_shard(plan, result(plan, [OUTCOMES[0], Failure("silent", name)]))
    assert read_record(plan, 0).footer_sha256 == record.footer_sha256 != "f" * 64
    assert damage_of(plan, read_record(plan, 0)) == ""
    assert pq.read_table(shard_path(plan, 0))["id"].to_pylist() == [name]


def test_every_bit_of_a_shard_is_checked(plan):
    record = write_shard(plan, result(plan))
    assert (record.sha256, damage_of(plan, read_record(plan, 0))) == (read_record(plan, 0).sha256, "")
    path = shard_path(plan, 0)
    whole = path.read_bytes()
    for place in range(0, len(whole), 11):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = read_record(plan, 0)
        except ValueError as error:  # of the plan's own name
            assert "another plan" in str(error)  # noqa: PT017
        else:
            assert found is None or damage_of(plan, found), place


def test_a_shard_whose_footer_says_something_else_than_its_record_is_not_finished(plan):
    write_shard(plan, result(plan))
    write_shard(plan, result(plan, OUTCOMES[:1], index=1))
    first, second = shard_path(plan, 0), shard_path(plan, 1)
    table = pq.read_table(first)
    for other in (table.slice(0, 1), table.set_column(1, "codes", pa.array([[1]] * 3, pa.list_(pa.uint16())))):
        pq.write_table(other, first)
        assert read_record(plan, 0) is None
    first.write_bytes(second.read_bytes())
    assert read_record(plan, 0) is None
    first.unlink()
    first.mkdir()
    assert read_record(plan, 0) is None


def test_codes_that_were_changed_are_found_by_the_record_and_the_pages_where_the_file_has_no_checksum(plan):
    """As older shards have none, and what another program writes."""
    path = shard_path(plan, 0)
    write_shard(plan, result(plan))
    table, content = pq.read_table(path), json.loads(pq.read_metadata(path).metadata[b"wavtokenizer"])
    del content["sha256"], content["footer_sha256"]
    codes = pa.array([[3, 0, 62], [7], [1, 3]], table.schema.field("codes").type)
    for written in (table, table.set_column(1, table.schema.field("codes"), codes)):
        with open(path, "wb") as file:
            shards.write_table(written, file, {b"wavtokenizer": json.dumps(content).encode()})
        record = read_record(plan, 0)
        reason = "" if written is table else "its codes are not those that were recorded"
        assert (record.sha256, damage_of(plan, record)) == ("", reason)
    column = pq.read_metadata(path).row_group(0).column(1)
    whole = bytearray(path.read_bytes())
    whole[column.dictionary_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(whole)
    assert "CRC" in damage_of(plan, record)


def test_a_shard_of_another_plan_is_refused(plan, tmp_path):
    other = plan_for(tmp_path / "other", Listed(PlannedClip("0", "0")))
    write_shard(plan, result(plan))
    shard_path(other, 0).parent.mkdir()
    shard_path(plan, 0).rename(shard_path(other, 0))
    with pytest.raises(ValueError, match="was made by another plan"):
        read_record(other, 0)


def test_a_full_disk_leaves_what_was_there_and_says_how_to_go_on(plan, monkeypatch):
    write_shard(plan, result(plan))
    before = {path: path.read_bytes() for path in plan.folder.rglob("*") if path.is_file()}

    def full(writer, table, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shards.pq.ParquetWriter, "write_table", full)
    with pytest.raises(
        OSError, match=r"shard 1 of 2 could not be written to .*No space left.*the same command goes on"
    ):
        write_shard(plan, result(plan, OUTCOMES[:1], index=1))
    assert {path: path.read_bytes() for path in plan.folder.rglob("*") if path.is_file()} == before


def test_what_a_killed_process_was_writing_is_removed(plan):
    write_shard(plan, result(plan))
    for name in (".0123.tmp", "data/.4567.tmp", "plan/.89ab.tmp"):
        (plan.folder / name).write_bytes(b"half")
    remove_unfinished(plan)
    assert sorted(path.name for path in plan.folder.iterdir()) == ["data", "manifest.json", "plan"]
    assert [path.name for path in (plan.folder / "data").iterdir()] == [shard_path(plan, 0).name]
    assert [path.name for path in (plan.folder / "plan").iterdir()] == ["clips.parquet"]
