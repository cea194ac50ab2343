"""Lists of recordings."""

import json

import numpy as np
import pytest
import soundfile

from wavtokenizer_hf.audio.manifest import find_entries, read_manifest


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
    first, second, third = read_manifest(path)
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
    from_json, from_tsv = read_manifest(tmp_path / "list.jsonl"), read_manifest(tmp_path / "list.tsv")
    assert [(e.path, e.name, e.start_s, e.end_s, e.kind) for e in from_json] == [
        (e.path, e.name, e.start_s, e.end_s, e.kind) for e in from_tsv
    ]
    assert from_json[0].columns == from_tsv[0].columns


def test_the_file_column_comes_before_the_path_column(tmp_path):
    path = tmp_path / "list.tsv"
    path.write_text("file\tpath\nhere.flac\tsome/repository/there.wav\n")
    assert [entry.name for entry in read_manifest(path)] == ["here.flac"]


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
        ("list.csv", "path\na.wav\n", r"a manifest ends in \.tsv or \.jsonl"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_manifest(path)


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
