"""What a corpus is made of: files, manifests, archives and datasets."""

import errno
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import soundfile

from tests.tiny_corpus import noise, write_recordings
from wavtokenizer_hf.corpus.clip import PlannedClip
from wavtokenizer_hf.corpus.source import find_source

RATE = 24000


def encoded(seed: int = 0, suffix: str = "flac") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, noise(2000, seed=seed), RATE, format=suffix)
    return file.getvalue()


def write_tar(path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def samples_of(source, clip) -> np.ndarray:
    opened = source.open(clip)
    return soundfile.read(opened)[0]


def test_a_folder_and_a_pattern_list_audio_files_by_their_names_below_it(tmp_path):
    paths = write_recordings(tmp_path, 4)
    clips = list(find_source(tmp_path).clips())
    assert [clip.id for clip in clips] == ["first/00.wav", "first/02.ogg", "second/01.flac", "second/03.wav"]
    assert [clip.source for clip in clips] == [clip.id for clip in clips]
    assert [clip.path for clip in clips] == sorted(map(str, paths))
    seen = os.stat(paths[0])
    assert (clips[0].size, clips[0].mtime_ns) == (seen.st_size, seen.st_mtime_ns)
    assert [clip.id for clip in find_source(f"{tmp_path}/*/*.wav").clips()] == ["first/00.wav", "second/03.wav"]
    assert find_source(tmp_path).name == tmp_path.name


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    write_recordings(tmp_path / "elsewhere", 2)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "first" / "out").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "itself.wav").symlink_to("itself.wav")
    expected = ["itself.wav", "link/first/00.wav", "link/second/01.flac"]
    for source in (tmp_path / "in", f"{tmp_path}/in/**/*"):
        assert [clip.id for clip in find_source(source).clips()] == expected


def test_what_lies_beside_the_recordings_is_counted(tmp_path):
    write_recordings(tmp_path, 2)
    for name in ("a.txt", "b.TXT", "c", ".hidden.wav", "first/x.tar", "a.\x1b[31m<script>"):
        (tmp_path / name).touch()
    source = find_source(tmp_path)
    assert len(list(source.clips())) == len(list(source.clips())) == 2
    assert source.passed_over == {
        ".txt": 2,
        "without a suffix": 1,
        "hidden": 1,
        ".tar": 1,
        "with another suffix": 1,
    }


def test_a_folder_that_may_not_be_listed_is_a_clip_that_says_so(tmp_path, monkeypatch):
    write_recordings(tmp_path, 2)
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "second":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    first, second = find_source(tmp_path).clips()
    assert (first.id, second.id) == ("first/00.wav", "second")
    assert second.problem == "it cannot be opened: Permission denied"


def test_a_bad_line_of_a_manifest_is_a_clip_that_says_which(tmp_path):
    path = tmp_path / "list.jsonl"
    lines = ['{"file": "a.wav"}', "nonsense", '{"file": "b\\u0000.wav"}', '{"file": "\\ud800.wav"}', '{"file": 7}']
    path.write_text("\n".join(lines))
    clips = list(find_source(path).clips())
    assert [clip.id for clip in clips] == ["a.wav", "list.jsonl:2", "b\0.wav", "\\ud800.wav", "list.jsonl:5"]
    problems = ["", "line 2: Expecting value", "no file can", "no file can", "line 5: file must be text, got 7"]
    assert all(clip.problem.startswith(problem) for clip, problem in zip(clips, problems, strict=True))


def test_a_manifest_gives_parts_ids_and_columns(tmp_path):
    write_recordings(tmp_path, 2)
    path = tmp_path / "list.tsv"
    path.write_text(
        "file\tstart\tend\tid\ttext\n"
        "first/00.wav\t0.01\t0.03\t\thello\n"
        "first/00.wav\t0.03\t\tmine\tworld\n"
        "gone.wav\t\t\t\t\n"
    )
    part, named, gone = find_source(path).clips()
    assert (part.id, part.source, part.start_s, part.end_s) == ("first/00@0.01-0.03.wav", "first/00.wav", 0.01, 0.03)
    assert part.columns == {"start": "0.01", "end": "0.03", "text": "hello"}
    assert (named.id, named.columns["text"]) == ("mine", "world")
    assert (gone.size, gone.mtime_ns) == (None, None)


def test_names_of_files_that_are_no_text_are_listed_and_read(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    with open(path, "wb") as file:
        file.write(encoded(suffix="wav"))
    source = find_source(tmp_path)
    (clip,) = source.clips()
    assert clip.id == r"caf\udce9.wav"
    assert os.fsencode(clip.path) == path
    assert len(samples_of(source, clip)) == 2000


def test_archives_list_recordings_with_the_text_beside_them(tmp_path):
    recordings = {f"talk/{name}.flac": encoded(seed) for seed, name in enumerate("ab")}
    members = {
        "talk/a.txt": b"hello",
        "talk/a.flac": recordings["talk/a.flac"],
        "talk/a.json": json.dumps({"speaker": 7, "tags": ["x"], "id": "one"}).encode(),
        "talk/b.flac": recordings["talk/b.flac"],
        "talk/b.json": b"[1]",
        "talk/c.txt": b"without a recording",
    }
    write_tar(tmp_path / "00.tar", members)
    write_tar(tmp_path / "01.tar", {"talk/a.flac": encoded(2)})
    source = pickle.loads(pickle.dumps(find_source(tmp_path)))
    a, b, *unpaired, other = source.clips()
    assert a.id == a.source == "00.tar/talk/a.flac"
    assert a.columns == {"txt": "hello", "speaker": "7", "tags": '["x"]', "id": "one"}
    assert (b.id, b.columns) == ("00.tar/talk/b.flac", {"json": "[1]"})
    assert other.id == "01.tar/talk/a.flac"
    assert {clip.id: (clip.problem_kind, clip.problem) for clip in unpaired} == {
        "00.tar/talk/b.txt": (
            "unpaired",
            "talk/b.flac has no such text, and others of the archive have",
        ),
        "00.tar/talk/c.txt": ("unpaired", "no recording has its name"),
    }
    for clip, seed in ((a, 0), (b, 1), (other, 2)):
        np.testing.assert_array_equal(samples_of(source, clip), soundfile.read(io.BytesIO(encoded(seed)))[0])
    assert [clip.id for clip in find_source(f"{tmp_path}/*1.tar").clips()] == ["01.tar/talk/a.flac"]


def clips_of(path, members: list[tuple[str | tarfile.TarInfo, bytes]]) -> dict[str, PlannedClip]:
    """The clips of an archive of these members, some of which may have one name, by what follows the archive's."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return {clip.id.removeprefix(f"{path.name}/"): clip for clip in find_source(path).clips()}


def test_a_text_belongs_to_the_recording_of_its_name_up_to_the_last_dot_wherever_it_stands(tmp_path):
    names = ["talk_0.5-1.2", "talk_0.7-2.0", "talk_1.25-3.5"]
    texts = [(f"{name}.txt", name.encode()) for name in names]
    recordings = [(f"./{name}.wav", encoded(suffix="wav")) for name in names]
    for members in (texts + recordings, recordings + texts, [*texts[:2], *recordings, texts[2]]):
        clips = clips_of(tmp_path / "a.tar", members)
        assert {key: clip.columns["txt"] for key, clip in clips.items()} == {f"{name}.wav": name for name in names}


def test_two_candidates_are_never_chosen_between(tmp_path):
    recording = encoded()
    clips = clips_of(
        tmp_path / "a.tar",
        [
            *[("a.flac", recording), ("a.wav", recording), ("a.txt", b"whose")],
            *[("b.flac", recording), ("b.txt", b"one"), ("b.txt", b"other")],
        ],
    )
    assert {name: clip.problem for name, clip in clips.items() if clip.problem} == {
        "a.txt": "a.flac and a.wav both have its name",
        "b.txt": "2 texts have this name",
    }
    assert all(not clip.columns for clip in clips.values())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[" * 100_000, "recursion"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": "\xff"}', "utf-8"),
        (b"{", "Expecting"),
    ],
)
def test_an_object_that_cannot_be_read_is_a_row_of_its_own(tmp_path, content, problem):
    clips = clips_of(tmp_path / "a.tar", [("a.json", content), ("a.flac", encoded()), ("a.txt", b"kept")])
    assert clips["a.flac"].columns == {"txt": "kept"}
    assert problem in clips["a.json"].problem
    assert len(clips) == 2


def test_texts_that_no_file_could_hold_are_written_out(tmp_path):
    said = b'{"\\ud800": "\\udfff", "nul": "a\\u0000b", "line": "\\u2028", "txt": "mine"}'
    clips = clips_of(tmp_path / "a.tar", [("a.json", said), ("a.txt", b"\0"), ("a.flac", encoded())])
    assert clips["a.flac"].columns == {
        "txt": "\0",
        "\\ud800": "\\udfff",
        "nul": "a\0b",
        "line": "\u2028",
        "json_txt": "mine",
    }


def test_what_holds_no_bytes_of_its_own_is_a_problem(tmp_path):
    link, pipe = tarfile.TarInfo("link.wav"), tarfile.TarInfo("pipe.wav")
    link.type, link.linkname, pipe.type = tarfile.LNKTYPE, "a.flac", tarfile.FIFOTYPE
    clips = clips_of(tmp_path / "a.tar", [("a.flac", encoded()), (link, b""), (pipe, b""), ("cover.jpg", b"x")])
    assert "link to a.flac" in clips["link.wav"].problem
    assert clips["pipe.wav"].problem == "it is no file"
    assert not clips["a.flac"].problem
    source = find_source(tmp_path / "a.tar")
    list(source.clips())
    assert source.passed_over == {".jpg": 1}


def test_a_member_with_holes_is_refused_and_its_neighbours_are_read(tmp_path):
    content = encoded(suffix="wav")
    with open(tmp_path / "a.wav", "wb") as file:
        file.truncate(1 << 20)
    (tmp_path / "b.wav").write_bytes(content)
    for form in ("gnu", "posix"):
        command = ["tar", "--sparse", f"--format={form}", "-cf", "a.tar", "a.wav", "b.wav"]
        subprocess.run(command, cwd=tmp_path, check=True)
        source = find_source(tmp_path / "a.tar")
        holes, whole = source.clips()
        assert (holes.id, "tar --sparse" in holes.problem) == ("a.tar/a.wav", True)
        assert source.open(whole).read() == content


@pytest.mark.parametrize(
    ("damage", "problem", "num_listed"),
    [
        (lambda raw, second: raw[: second + 100], "the header at byte", 1),
        (lambda raw, second: raw[:second] + b"x" * 512 + raw[second + 512 :], "is damaged, and what follows", 1),
        (lambda raw, second: raw[:second], "its end is missing", 1),
        (lambda raw, second: raw + raw, "archives that were joined", 3),
        (lambda raw, second: b"x" * 1000, "header", 0),
    ],
)
def test_an_archive_whose_list_ends_before_it_says_so(tmp_path, damage, problem, num_listed):
    path = tmp_path / "a.tar"
    clips = clips_of(path, [(f"{name}.flac", encoded()) for name in "abc"])
    second = clips["b.flac"].offset - 512
    path.write_bytes(damage(path.read_bytes(), second))
    *listed, broken = find_source(path).clips()
    assert (broken.id, len(listed)) == ("a.tar", num_listed)
    assert problem in broken.problem


def test_of_an_archive_that_breaks_off_the_rest_is_listed_and_the_break_is_named(tmp_path):
    write_tar(tmp_path / "00.tar", {f"{name}.flac": encoded(suffix="flac") for name in "abc"})
    whole = (tmp_path / "00.tar").read_bytes()
    source = find_source(tmp_path)
    third = list(source.clips())[2]
    (tmp_path / "00.tar").write_bytes(whole[: third.offset + 100])
    *clips, broken = source.clips()
    assert [clip.id for clip in clips][:2] == ["00.tar/a.flac", "00.tar/b.flac"]
    assert broken.id == "00.tar"
    assert "breaks off" in broken.problem
    with pytest.raises(ValueError, match="the archive ends after 100 of the recording's"):
        source.open(third)


def test_compressed_archives_are_refused(tmp_path):
    with pytest.raises(ValueError, match="decompress it"):
        find_source(tmp_path / "00.tar.gz")


def test_a_folder_with_audio_files_is_taken_for_these_even_if_archives_lie_there(tmp_path):
    write_recordings(tmp_path, 1)
    write_tar(tmp_path / "00.tar", {"x.flac": encoded()})
    assert [clip.id for clip in find_source(tmp_path).clips()] == ["first/00.wav"]


@pytest.fixture
def dataset():
    datasets = pytest.importorskip("datasets")
    audio = [{"bytes": encoded(seed), "path": None} for seed in range(3)]
    columns = {"audio": audio, "text": ["a", None, "c"], "id": ["x", "x", None], "words": [["a"], ["b"], []]}
    return datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(sampling_rate=RATE))


def test_a_saved_dataset_lists_its_rows_and_opens_them_in_any_process(dataset, tmp_path, monkeypatch):
    dataset.save_to_disk(tmp_path / "saved")
    monkeypatch.chdir(tmp_path)
    source = find_source("saved")
    clips = list(source.clips())
    assert [(clip.id, clip.source) for clip in clips] == [
        ("000000000", "saved[0]"),
        ("000000001", "saved[1]"),
        ("000000002", "saved[2]"),
    ]
    assert [clip.columns for clip in clips] == [{"text": "a", "id": "x"}, {"id": "x"}, {"text": "c"}]
    there = pickle.loads(pickle.dumps(source))
    monkeypatch.chdir("/")
    expected = soundfile.read(io.BytesIO(encoded(2)))[0]
    np.testing.assert_array_equal(samples_of(there, clips[2]), expected)


def test_another_state_of_a_dataset_is_told_apart(dataset, tmp_path):
    dataset.save_to_disk(tmp_path / "one")
    dataset.select([0, 1, 2]).save_to_disk(tmp_path / "other")
    assert find_source(tmp_path / "one").identity == find_source(tmp_path / "one").identity
    assert find_source(tmp_path / "one").identity != find_source(tmp_path / "other").identity


def test_a_name_on_the_hub_is_loaded_with_its_split(dataset, monkeypatch):
    import datasets

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **named: asked.append((given, named)) or dataset)
    assert find_source("someone/speech_17.0").location == "someone/speech_17.0"
    source = find_source("someone/speech", config="clean", split="test", revision="v1")
    assert [clip.source for clip in source.clips()] == ["someone/speech[0]", "someone/speech[1]", "someone/speech[2]"]
    assert asked == [(("someone/speech", "clean"), {"split": "test", "revision": "v1"})]


def test_a_name_that_is_neither_here_nor_on_the_hub_says_so(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def refuse(*given, **named):
        raise datasets.exceptions.DatasetNotFoundError("no such dataset")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(OSError, match="someone/speech is neither here nor to be had from the Hub"):
        next(find_source("someone/speech").clips())


def test_options_of_a_dataset_are_refused_for_anything_else(tmp_path):
    write_recordings(tmp_path, 1)
    with pytest.raises(ValueError, match="that of a dataset on the Hub"):
        find_source(tmp_path, split="test")


def test_what_holds_nothing_is_an_error(tmp_path):
    for given in (tmp_path, tmp_path / "gone.wav", tmp_path / "*.wav", tmp_path / "gone.tar", tmp_path / "{0..3}.tar"):
        with pytest.raises(FileNotFoundError):
            list(find_source(given).clips())


def test_a_dataset_without_its_package_is_an_error_that_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "dataset_info.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"wavtokenizer-hf\[corpus\]"):
        next(find_source(tmp_path).clips())
