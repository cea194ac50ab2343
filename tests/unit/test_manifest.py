"""Lists of recordings."""

import json

import numpy as np
import pytest
import soundfile

from wavtokenizer_hf.audio.manifest import find_entries, iterate_entries


@pytest.fixture
def folder(tmp_path):
    for name in ("a.wav", "deep/b.flac"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.zeros(100), 16000)
    return tmp_path


def test_a_tsv_names_recordings_relative_to_itself_with_bounds_kind_and_other_columns(tmp_path):
    path = tmp_path / "list.tsv"
    path.write_text(
        "path\tstart\tend\tkind\tspeaker\n"
        'x/a.wav\t0.5\t2\tSpeech\tann "the" voice\n'
        "\n"
        "b.flac\t\t\tmusic\n"
        "/data/c.mp3\t3\n"
    )
    first, second, third = find_entries(path)
    assert (first.path, first.name) == (tmp_path / "x/a.wav", "x/a@0.5-2.wav")
    assert (first.start_s, first.end_s, first.kind) == (0.5, 2.0, "speech")
    assert first.columns["speaker"] == 'ann "the" voice'
    assert (second.name, second.start_s, second.end_s, second.kind) == ("b.flac", 0.0, None, "music")
    assert (str(third.path), third.name, third.kind) == ("/data/c.mp3", "/data/c@3-.mp3", "")


def test_jsonl_says_the_same_as_tsv(tmp_path):
    rows = [{"path": "a.wav", "start": 0.5, "end": 2, "domain": "sound", "text": "hé"}, {"path": "b.wav", "end": None}]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    (tmp_path / "list.tsv").write_text(
        "path\tstart\tend\tdomain\ttext\na.wav\t0.5\t2\tsound\thé\nb.wav\n", encoding="utf-8"
    )
    from_json, from_tsv = find_entries(tmp_path / "list.jsonl"), find_entries(tmp_path / "list.tsv")
    assert [(e.path, e.name, e.start_s, e.end_s, e.kind) for e in from_json] == [
        (e.path, e.name, e.start_s, e.end_s, e.kind) for e in from_tsv
    ]
    assert from_json[0].columns == from_tsv[0].columns


def test_the_offset_and_duration_of_nemo_are_a_part_and_a_duration_alone_is_not(tmp_path):
    (tmp_path / "list.jsonl").write_text(
        '{"audio_filepath": "a.wav", "offset": 0.5, "duration": 0.25, "text": "hi"}\n'
        '{"audio_filepath": "a.wav", "duration": 2.0}\n'
        '{"audio_filepath": "a.wav", "start": 1, "end": 2, "duration": "00:01", "segment": "7"}\n'
    )
    part, whole, bounded = find_entries(tmp_path / "list.jsonl")
    assert (part.start_s, part.end_s, part.name) == (0.5, 0.75, "a@0.5-0.75.wav")
    assert (whole.start_s, whole.end_s, whole.columns["duration"]) == (0.0, None, "2.0")
    assert (bounded.start_s, bounded.end_s) == (1.0, 2.0)


def test_a_line_in_another_encoding_is_named_and_a_separator_of_unicode_ends_none(tmp_path):
    (tmp_path / "list.tsv").write_bytes("path\ttext\na.wav\tone\u2028line\nb.wav\tcaf".encode() + b"\xe9\n")
    first, second = iterate_entries(tmp_path / "list.tsv")
    assert first.columns["text"] == "one\u2028line"
    assert second.problem.startswith("line 3: it is not UTF-8")


@pytest.mark.parametrize("name", ["l.csv", "l.txt", "l.json", "l.parquet", "l"])
def test_a_list_of_another_kind_is_an_error_that_says_what_a_manifest_is(tmp_path, name):
    (tmp_path / name).write_text("file,text\na.wav,hi\n")
    with pytest.raises(ValueError, match=r"a manifest, which is a list of recordings, ends in \.tsv or \.jsonl"):
        find_entries(tmp_path / name)


def test_the_file_column_comes_before_the_path_column(tmp_path):
    path = tmp_path / "list.tsv"
    path.write_text("file\tpath\nhere.flac\tsome/repository/there.wav\n")
    assert [entry.name for entry in find_entries(path)] == ["here.flac"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.tsv", "path\tstart\na.wav\tsoon\n", "line 2: start must be a number of seconds, 0 or more, got 'soon'"),
        ("list.tsv", "path\tstart\na.wav\t-1\n", "line 2: start must be"),
        ("list.tsv", "path\tend\n\na.wav\tnan\n", "line 3: end must be"),
        (
            "list.tsv",
            "path\tstart\tend\na.wav\t2\t1\n",
            "line 2: a.wav ends at 1 s, which is not after its start at 2",
        ),
        ("list.tsv", "path\na.wav\tspeech\n", "line 2: 2 cells under a header of 1"),
        ("list.tsv", "speaker\nann\n", "line 2: no recording is named; expected a column file or path"),
        ("list.tsv", "path\n", "lists no recording"),
        ("list.jsonl", '{"path": "a.wav"}\n{"path"\n', "line 2: Expecting"),
        ("list.jsonl", '["a.wav"]\n', "line 1: expected an object"),
        ("list.tsv", "path\ttext\ttext\n", "line 1: two columns are called text"),
        ("list.jsonl", '{"path": "a.wav", "x": ' + "[" * 100_000, "line 1: maximum recursion"),
        ("list.jsonl", '{"path": "a.wav", "x": ' + "9" * 5000 + "}", "line 1: Exceeds the limit"),
        ("list.tsv", "path\tstart\tstart_s\na.wav\t1\t2\n", "line 2: start and start_s contradict each other"),
        ("list.tsv", "path\tstart_ms\na.wav\t1\n", "line 2: the column start_ms seems to cut a part out of a.wav"),
        ("list.tsv", "path\tend_time\na.wav\t1\n", "line 2: the column end_time seems to cut"),
        ("list.tsv", "path\tframe_offset\na.wav\t1\n", "line 2: the column frame_offset seems to cut"),
        ("list.jsonl", '{"path": "a.wav", "segment": [0.5, 2]}', "line 1: the column segment seems to cut"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        find_entries(path)


def test_a_folder_is_walked_unless_it_holds_a_manifest(folder):
    assert [entry.name for entry in find_entries(folder)] == ["a.wav", "deep/b.flac"]
    assert [entry.name for entry in find_entries(str(folder / "*" / "*.flac"))] == ["deep/b.flac"]
    (folder / "manifest.tsv").write_text("file\tkind\ndeep/b.flac\tmusic\n")
    (entry,) = find_entries(folder)
    assert (entry.path, entry.kind) == (folder / "deep/b.flac", "music")
    assert find_entries(folder / "manifest.tsv") == [entry]


@pytest.mark.parametrize("name", ["gone.wav", "gone.tsv", "gone*.wav"])
def test_what_is_not_there_is_named(folder, name):
    with pytest.raises(FileNotFoundError, match=r"gone"):
        find_entries(folder / name)
