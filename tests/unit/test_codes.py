"""The file of codes."""

import dataclasses
import hashlib
import io
import itertools
import json
import math
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from wavtokenizer_hf.audio.codes import CodeFile

SUFFIXES = (".npz", ".json")


def make(num_codes: int = 7, codebook_size: int = 4096, **changes) -> CodeFile:
    codes = np.random.default_rng(0).integers(0, codebook_size, num_codes)
    fields = {
        "audio_codes": codes,
        "sampling_rate": 24000,
        "num_samples": 600 * num_codes - 13,
        "hop_length": 600,
        "codebook_size": codebook_size,
        "fingerprint": "ab" * 32,
        "model": "org/model",
        "source": "süß 音.wav",
    }
    return CodeFile(**(fields | changes))


def assert_same(one: CodeFile, other: CodeFile) -> None:
    for field in dataclasses.fields(CodeFile):
        left, right = getattr(one, field.name), getattr(other, field.name)
        assert type(left) is type(right)
        assert np.array_equal(left, right), field.name


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("codebook_size", [1, 64, 4096, 65536, 65537, 1 << 20])
def test_what_is_saved_is_loaded(tmp_path, suffix, codebook_size):
    codes = make(codebook_size=codebook_size)
    highest = make(1, codebook_size, audio_codes=[codebook_size - 1])
    for saved in (codes, highest):
        saved.save(tmp_path / f"a{suffix}")
        assert_same(CodeFile.load(tmp_path / f"a{suffix}"), saved)


def test_npz_holds_two_bytes_a_code_and_opens_without_pickle(tmp_path):
    codes = make()
    codes.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert archive["audio_codes"].dtype == np.uint16
        assert archive["audio_codes"].shape == (1, 7)
        assert archive["num_samples"] == codes.num_samples
        assert str(archive["fingerprint"]) == codes.fingerprint


def test_json_is_plain(tmp_path):
    codes = make()
    codes.save(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "format": "wavtokenizer-codes",
        "format_version": 1,
        "sampling_rate": 24000,
        "num_samples": 4187,
        "hop_length": 600,
        "codebook_size": 4096,
        "fingerprint": "ab" * 32,
        "model": "org/model",
        "source": "süß 音.wav",
        "audio_codes": codes.audio_codes.tolist(),
        "checksum": "sha256:"
        + hashlib.sha256(
            (
                f'{{"audio_codes": {codes.audio_codes.tolist()}, "codebook_size": 4096, "fingerprint": "{"ab" * 32}", '
                '"hop_length": 600, "model": "org/model", "num_samples": 4187, "sampling_rate": 24000, '
                '"source": "s\\u00fc\\u00df \\u97f3.wav"}'
            ).encode()
        ).hexdigest(),
    }


def test_the_same_codes_make_the_same_bytes(tmp_path):
    for suffix in SUFFIXES:
        for name in ("a", "b"):
            make().save(tmp_path / f"{name}{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_one_axis_and_two_mean_the_same():
    flat = make(audio_codes=[1, 2, 3], num_samples=1300)
    assert flat.audio_codes.dtype == np.int64
    assert_same(flat, make(audio_codes=np.array([[1, 2, 3]], np.uint16), num_samples=1300))


def test_rates_follow_from_the_fields():
    codes = make()
    assert codes.num_codes == 7
    assert codes.duration_s == 4187 / 24000
    assert codes.frame_rate == 40.0
    assert math.isclose(codes.bitrate_kbps, 0.48)  # 40 codes a second of 12 bits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_codes": [0.5]}, "whole numbers"),
        ({"audio_codes": [True] * 7}, "whole numbers"),
        ({"audio_codes": ["1"] * 7}, "whole numbers"),
        ({"audio_codes": np.zeros((2, 7), int)}, r"shape \(L,\) or \(1, L\)"),
        ({"audio_codes": np.zeros((1, 1, 7), int)}, r"shape \(L,\) or \(1, L\)"),
        ({"audio_codes": np.zeros(8, int)}, "make 7 codes, but audio_codes holds 8"),
        ({"audio_codes": np.zeros(0, int)}, "make 7 codes, but audio_codes holds 0"),
        ({"audio_codes": [-1] * 7}, "from 0 to 4095, got -1"),
        ({"audio_codes": [4096] * 7}, "from 0 to 4095, got 4096"),
        ({"num_samples": 0}, "num_samples must be a whole number above 0"),
        ({"hop_length": -600}, "hop_length must be a whole number above 0"),
        ({"sampling_rate": 24000.0}, "sampling_rate must be a whole number above 0"),
        ({"codebook_size": True}, "codebook_size must be a whole number above 0"),
        ({"fingerprint": None}, "fingerprint must be a string"),
    ],
)
def test_values_that_do_not_belong_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize("name", ["a.npy", "a", "a.npz.txt"])
def test_another_suffix_is_refused_both_ways(tmp_path, name):
    with pytest.raises(ValueError, match=r"\.npz or \.json"):
        make().save(tmp_path / name)
    with pytest.raises(ValueError, match=r"\.npz or \.json"):
        CodeFile.load(tmp_path / name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_file_is_named(tmp_path, suffix):
    with pytest.raises(FileNotFoundError, match=f"no such file: .*gone{suffix}"):
        CodeFile.load(tmp_path / f"gone{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_anywhere_is_an_error_that_names_it(tmp_path, suffix):
    make(2).save(tmp_path / f"a{suffix}")
    content = (tmp_path / f"a{suffix}").read_bytes()
    for length in range(0, len(content) - 2, max(1, len(content) // 50)):
        (tmp_path / f"a{suffix}").write_bytes(content[:length])
        with pytest.raises(ValueError, match=f"a{suffix} is not a readable"):
            CodeFile.load(tmp_path / f"a{suffix}")


def test_damaged_bytes_in_an_archive_are_an_error_or_change_nothing(tmp_path):
    codes = make()
    codes.save(tmp_path / "a.npz")
    content = (tmp_path / "a.npz").read_bytes()
    num_refused = 0
    for position, bits in itertools.product(range(0, len(content), 7), (0xFF, 0x80, 0x01)):  # 0x80: places far away
        damaged = bytearray(content)
        damaged[position] ^= bits
        (tmp_path / "a.npz").write_bytes(damaged)
        try:
            assert_same(CodeFile.load(tmp_path / "a.npz"), codes)
        except ValueError:
            num_refused += 1
    assert num_refused > 0


@pytest.mark.parametrize("name", ["audio_codes", "format", "num_samples"])
@pytest.mark.parametrize(
    "header", ["(((\n", "{'descr'\n", "'''a\n", "  a\n b\n", "{[]: 1}\n", "{b'a': 1, 'b': 2}\n", "\0\n"]
)
def test_an_array_whose_header_is_no_header_is_an_error_that_names_the_file(tmp_path, name, header):
    make().save(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz") as good, zipfile.ZipFile(tmp_path / "b.npz", "w") as bad:
        for member in good.namelist():
            broken = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
            bad.writestr(member, broken if member == f"{name}.npy" else good.read(member))
    with pytest.raises(ValueError, match=r"b\.npz is not a readable"):
        CodeFile.load(tmp_path / "b.npz")


class Exploding:
    """Unpickling it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_nothing_is_ever_unpickled(tmp_path):
    trap = tmp_path / "unpickled"
    pickle.loads(pickle.dumps(Exploding(trap)))
    assert trap.exists()
    trap.unlink()
    fields = {"format": "wavtokenizer-codes", "format_version": 1, "audio_codes": np.array([Exploding(trap)])}
    np.savez(tmp_path / "a.npz", **fields)
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Exploding(trap)))
    for name in ("a.npz", "b.npz"):
        with pytest.raises(ValueError, match=f"{name} is not a readable"):
            CodeFile.load(tmp_path / name)
    assert not trap.exists()


def test_an_archive_or_object_of_something_else_is_an_error(tmp_path):
    array = io.BytesIO()
    np.save(array, np.arange(3))
    (tmp_path / "a.npz").write_bytes(array.getvalue())
    with pytest.raises(ValueError, match="not a zip archive"):
        CodeFile.load(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("format", "wavtokenizer-codes")
    with pytest.raises(ValueError, match=r"b\.npz"):
        CodeFile.load(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", weights=np.zeros(3))
    with pytest.raises(ValueError, match="'format' is not 'wavtokenizer-codes'"):
        CodeFile.load(tmp_path / "c.npz")
    for text in ("[1, 2]", "[" * 100_000, "{", "\xff", '{"model_type": "wavtokenizer"}'):
        (tmp_path / "d.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=r"d\.json"):
            CodeFile.load(tmp_path / "d.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 3}, "format version 3, and this package reads version 1 and 2: update"),
        ({"format_version": 1.0}, "format version 1.0, and"),
        ({"audio_codes": [[1, 2], [3]]}, "damaged"),
        ({"audio_codes": [[1.5] * 7]}, "damaged"),
        ({"audio_codes": [[10**30] * 7]}, "damaged"),
        ({"audio_codes": None}, "damaged"),
        ({"audio_codes": [[9999] * 7]}, "from 0 to 4095"),
        ({"num_samples": 1}, "make 1 codes"),
        ({"num_samples": "4187"}, "num_samples must be"),
        ({"hop_length": None}, "hop_length must be"),
    ],
)
def test_a_json_file_with_wrong_values_is_refused(tmp_path, changes, message):
    make().save(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    (tmp_path / "a.json").write_text(json.dumps(content | changes))
    with pytest.raises(ValueError, match=message) as caught:
        CodeFile.load(tmp_path / "a.json")
    assert "a.json" in str(caught.value)


@pytest.mark.parametrize("changes", [{"audio_codes": [[1] * 7]}, {"num_samples": 4188}, {"source": "other.wav"}])
def test_a_json_file_that_was_changed_within_its_bounds_is_refused(tmp_path, changes):
    make().save(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) | changes
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="its checksum is that of other values"):
        CodeFile.load(tmp_path / "a.json")
    del content["checksum"]  # as in a file of other origin, or an older one
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert getattr(CodeFile.load(tmp_path / "a.json"), next(iter(changes))) is not None


@pytest.mark.parametrize(
    ("name", "array", "is_refused"),
    [
        ("evil", np.zeros(1 << 26, np.uint8), False),  # of no use, so it is not read
        ("model", np.zeros(1 << 26, np.uint8), True),
        ("audio_codes", np.zeros(1 << 26, np.uint8), True),
        ("num_samples", np.zeros(1 << 26, np.uint8), True),
    ],
)
def test_an_archive_of_a_few_bytes_cannot_take_much_memory(tmp_path, name, array, is_refused):
    make().save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:
        np.savez_compressed(tmp_path / "b.npz", **(dict(archive) | {name: array}))
    assert (tmp_path / "b.npz").stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        if is_refused:
            with pytest.raises(ValueError, match=f"{name} has the shape"):
                CodeFile.load(tmp_path / "b.npz")
        else:
            assert_same(CodeFile.load(tmp_path / "b.npz"), make())
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def test_a_file_without_a_field_names_it_and_a_further_field_is_ignored(tmp_path):
    make().save(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    (tmp_path / "a.json").write_text(json.dumps(content | {"remark": "kept out"}))
    assert_same(CodeFile.load(tmp_path / "a.json"), make())
    del content["num_samples"], content["fingerprint"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="lacks num_samples, fingerprint"):
        CodeFile.load(tmp_path / "a.json")


def test_an_interrupted_save_leaves_the_earlier_file_whole_and_nothing_else(tmp_path, monkeypatch):
    make().save(tmp_path / "a.npz")
    before = (tmp_path / "a.npz").read_bytes()

    def interrupted(file, **arrays):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(9).save(tmp_path / "a.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    assert (tmp_path / "a.npz").read_bytes() == before
