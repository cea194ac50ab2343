"""Every format, whole and damaged, through everything that reads recordings: one expectation for all."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.recordings import DAMAGES, FFMPEG_FORMATS, SOUNDFILE_FORMATS, encoded, suffix_of
from tests.tiny import tiny_model
from tests.tiny_corpus import FEATURE_EXTRACTOR, rows_of, tokenize
from wavtokenizer_hf.audio.codes import CodeFile
from wavtokenizer_hf.audio.manifest import Entry
from wavtokenizer_hf.audio_input import RecordingWarning, open_audio, read_audio, read_blocks
from wavtokenizer_hf.cli import main
from wavtokenizer_hf.codecs.registry import codec_of
from wavtokenizer_hf.corpus.reader import ClipReader, ReadClip
from wavtokenizer_hf.corpus.source import find_source
from wavtokenizer_hf.evaluation.pairs import CodecPairs
from wavtokenizer_hf.streaming import encode_long
from wavtokenizer_hf.training.clips import Clip

MODEL = tiny_model()
FORMATS = [*SOUNDFILE_FORMATS, "bare_mp3", *FFMPEG_FORMATS]
# Of a stream of samples without marks nothing tells that some are other ones than there were.
UNMARKED = {"pcm16", "float", "adpcm", "gsm", "g721", "aiff", "au", "w64"}
# Containers whose second half is another file to FFmpeg and libsndfile, or is not looked for.
NOT_CHAINED = {"aiff", "au", "w64", *FFMPEG_FORMATS}


def expectation(form: str, damage: str) -> str:
    """`taken`, `twice` as long, `refused`, or `alike` where all that counts is that all agree."""
    if damage == "whole":
        return "taken"
    if damage == "twice":
        return "alike" if form in NOT_CHAINED else "twice"
    if damage == "flipped":
        return "alike"
    if damage == "lying":
        has_length = form in {*UNMARKED, "flac", "mp3"} - {"w64"}
        return "refused" if has_length else "alike"
    if form == "webm":
        return "alike"
    if form == "bare_mp3" and damage == "cut":
        return "alike"  # unless a frame was cut through, nothing tells
    return "refused"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """All files of the matrix, and a model."""
    pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "in").mkdir()
    for form in FORMATS:
        content = encoded(form, seconds=0.5)
        for damage, change in DAMAGES.items():
            (folder / "in" / f"{form}_{damage}{suffix_of(form)}").write_bytes(change(content))
    MODEL.save_pretrained(folder / "model")
    FEATURE_EXTRACTOR.save_pretrained(folder / "model")
    return folder


def run(*arguments: object) -> None:
    with pytest.raises(SystemExit):
        main([str(argument) for argument in arguments])


@pytest.fixture(scope="module", params=[False, True], ids=["strict", "allow_incomplete"])
def by_command(request, folder) -> tuple[bool, dict[str, dict[str, list[int] | int]]]:
    """What the commands make of the whole folder at once: codes, or lengths, by file."""
    allow = request.param
    out = folder / f"out_{allow}"
    options = ["--model", folder / "model", *(["--allow-incomplete"] if allow else [])]
    run("encode", folder / "in", "-o", f"{out}/codes/", *options)
    run("reconstruct", folder / "in", f"{out}/audio/", *options)
    codes = {path.name: CodeFile.load(path) for path in (out / "codes").iterdir()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        tokenize(folder / "in", out / "corpus", MODEL, allow_incomplete=allow, keep_silent=True)
    return allow, {
        "encode": {name.removesuffix(".npz"): code.audio_codes[0].tolist() for name, code in codes.items()},
        "corpus": {row["id"]: row["codes"] for row in rows_of(out / "corpus")},
        "reconstruct": {path.name: soundfile.info(path).frames for path in (out / "audio").iterdir()},
    }


def result_of(results: dict, name: str):
    """The result for a file; those that share a stem with others keep their suffix."""
    stem = name.rpartition(".")[0]
    return next((results[key] for key in (name, stem, f"{name}.wav", f"{stem}.wav") if key in results), None)


def by_call(path: Path, allow: bool) -> dict[str, np.ndarray | None]:
    """What the functions make of a file: mono samples at 24 kHz, None where they refuse it."""

    def prepared(samples: np.ndarray, rate: int) -> np.ndarray:
        return FEATURE_EXTRACTOR(samples, sampling_rate=rate, resample=True)["input_values"][0, 0]

    def in_blocks() -> np.ndarray:
        with open_audio(path, allow_incomplete=allow) as recording:
            rate = recording.sampling_rate
        return prepared(np.concatenate(list(read_blocks(path, 0.07, allow_incomplete=allow)), axis=1), rate)

    def in_parts() -> np.ndarray:
        with open_audio(path, allow_incomplete=allow) as recording:
            parts = [recording.read(start, start + 4321) for start in range(0, recording.num_samples, 4321)]
            return prepared(np.concatenate(parts, axis=1), recording.sampling_rate)

    def of_a_corpus(long_samples: float) -> np.ndarray:
        reader = ClipReader(
            find_source(path), FEATURE_EXTRACTOR, long_samples=long_samples, allow_incomplete=allow, keep_silent=True
        )
        (clip,) = reader.source.clips()
        outcome = reader.read(clip)
        if isinstance(outcome, ReadClip):
            return outcome.samples
        raise ValueError(outcome.reason)

    def for_evaluation() -> np.ndarray:
        pairs = CodecPairs(codec_of(MODEL, FEATURE_EXTRACTOR), [Entry(path, path.name)], allow_incomplete=allow)
        return pairs.load(0).reference.numpy()

    ways = {
        "read_audio": lambda: prepared(*read_audio(path, allow_incomplete=allow)),
        "blocks": in_blocks,
        "parts": in_parts,
        "extractor": lambda: FEATURE_EXTRACTOR(path, resample=True, allow_incomplete=allow)["input_values"][0, 0],
        "training": lambda: prepared(*Clip(path.name, path).read(allow_incomplete=allow)),
        "corpus": lambda: of_a_corpus(np.inf),
        "evaluation": for_evaluation,
    }
    found: dict[str, np.ndarray | None] = {}
    reasons: list[str] = []
    for way, read in ways.items():
        try:
            found[way] = read()
        except ValueError as error:
            found[way] = None
            reasons.append(str(error))
    # Where damage left nothing at all, blocks and parts that there are not are put together above.
    told = [reason for reason in reasons if "at least one" not in reason]
    assert all(path.stem in reason for reason in told), told
    return found


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_all_that_reads_recordings_takes_the_same_samples_or_none(form, damage, folder, by_command):
    allow, commands = by_command
    path = folder / "in" / f"{form}_{damage}{suffix_of(form)}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RecordingWarning)
        found = by_call(path, allow)
    reference = found["read_audio"]
    if allow and form == "flac" and damage in ("holed", "flipped"):
        del found["parts"]  # the whole ends at the damage, and a part behind it does not know
    for way, samples in found.items():
        assert (samples is None) == (reference is None), way
        if reference is not None:
            np.testing.assert_array_equal(samples, reference, err_msg=way)
    expected = expectation(form, damage)
    whole = FEATURE_EXTRACTOR(folder / "in" / f"{form}_whole{suffix_of(form)}", resample=True)["input_values"][0, 0]
    if expected in ("taken", "twice"):
        assert reference is not None
        assert abs(len(reference) - len(whole) * (2 if expected == "twice" else 1)) <= 2
        assert not any("cut short" in str(warning.message) for warning in caught)
    if expected == "refused":
        assert reference is None or allow
        # Nothing is left of what was one page, or one frame that was needed.
        assert reference is not None or not allow or form in {*FFMPEG_FORMATS, "vorbis", "opus"}
        if reference is not None:
            assert any("cut short or damaged" in str(warning.message) for warning in caught)
            # No sample is invented. What is left at the end of resampling hears what is not there.
            if damage in ("cut", "lying") and form not in ("gsm", "g721"):
                num_same = min(len(reference), len(whole)) - 50
                np.testing.assert_allclose(reference[:num_same], whole[:num_same], atol=1e-5)
    for command, results in commands.items():
        result = result_of(results, path.name)
        assert (result is None) == (reference is None), command
    if reference is not None:
        with torch.inference_mode():
            codes = MODEL.encode(torch.from_numpy(reference)[None, None]).audio_codes[0, 0].tolist()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RecordingWarning)
            long = encode_long(MODEL, path, block_s=0.1, progress=False, allow_incomplete=allow)
        # In blocks, resampling may round a sample the other way, and a tie of two entries may fall the other way.
        for in_blocks in (long[0, 0].tolist(), result_of(commands["encode"], path.name)):
            assert len(in_blocks) == len(codes)
            assert np.mean(np.array(in_blocks) == codes) > 0.97
        assert result_of(commands["corpus"], path.name) == codes
        assert result_of(commands["reconstruct"], path.name) == len(reference)
