"""Each line of `docs/migration.md` runs, does what its row says, and gives what the call that it replaces gave."""

import ast
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conversion.checkpoints import RELEASED
from conversion.key_map import map_keys

from tests.docs import original_calls
from tests.docs.commands import run_own_command
from tests.docs.conftest import RECORDING, REPOSITORY
from tests.docs.markdown import Block, Row, blocks_and_rows, read, rows
from tests.original_checkpoint import original_shapes, write_checkpoint
from tests.tiny import noise
from wavtokenizer_hf import WavTokenizerFeatureExtractor, WavTokenizerModel

DOCUMENT = Path("docs/migration.md")
GOLDEN = REPOSITORY / "tests" / "golden"
NAMES = "Names of the released checkpoints"
ROWS = [row for row in rows(read(DOCUMENT)) if row.section != NAMES]

# CodecHub and the wrappers are named, not imitated: what their calls return is not stated in the document.
IMITATED = ("The original repository", "OuteTTS (0.1 to 0.3)", "Differences that bite")

# What a name of the original's code is in terms of ours: our name, and its value on the original's axes.
COUNTERPARTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "wav": ("inputs", lambda inputs: inputs["input_values"][:, 0]),
    "codes": ("codes", lambda codes: codes.transpose(0, 1)),
    "features": ("features", lambda features: features),
    "audio": ("audio", lambda audio: audio[:, 0]),
    "codebook": ("codebook", lambda codebook: codebook),
    "numbers": ("numbers", torch.tensor),
}


@dataclass
class Outcome:
    """What became of a row: what is wrong with it, and the names of the original's that were compared."""

    problems: list[str] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def directory(docs_model, tmp_path_factory) -> Iterator[Path]:
    """What the document starts from: a checkpoint of the original and recordings, and no converted folder."""
    folder = tmp_path_factory.mktemp("migration")
    names = map_keys(original_shapes(ratios=docs_model.config.upsampling_ratios)).kept
    values = docs_model.state_dict()
    write_checkpoint(folder / "original.ckpt", {name: values[ours] for name, ours in names.items()})
    (folder / "recordings").mkdir()
    for name in ("speech.flac", "recordings/first.flac", "recordings/second.flac"):
        shutil.copyfile(RECORDING, folder / name)
    with np.load(GOLDEN / "inputs.npz") as stored:
        soundfile.write(folder / "stereo.wav", stored["stereo_44100"].T, 44100, subtype="PCM_16")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("huggingface_hub.hf_hub_download", lambda *args, **kwargs: str(folder / "original.ckpt"))
        yield folder


@pytest.fixture(scope="module")
def outcomes(directory, docs_model) -> dict[int, Outcome]:
    """Runs the document from top to bottom."""
    theirs = original_calls.names(docs_model)
    two_clips = torch.from_numpy(soundfile.read(RECORDING, dtype="float32")[0])[None]
    two_clips = original_calls.convert_audio(two_clips, 22050, 24000, 1)
    two_clips = torch.cat([two_clips, two_clips.flip(-1)])
    original = theirs["WavTokenizer"].from_pretrained0802("config.yaml", "original.ckpt")
    theirs["old_codes"] = original.encode_infer(two_clips, bandwidth_id=torch.tensor([0]))[1]
    ours: dict[str, Any] = {"old_codes": theirs["old_codes"].clone()}
    found: dict[int, Outcome] = {}
    with torch.enable_grad():  # leaving restores what the document switches off
        for item in blocks_and_rows(read(DOCUMENT)):
            if isinstance(item, Block):
                exec(compile(item.code, DOCUMENT, "exec"), ours)
            elif item.section != NAMES:
                found[item.line] = _run(item, theirs, ours)
    return found


def _run(row: Row, theirs: dict[str, Any], ours: dict[str, Any]) -> Outcome:
    outcome = Outcome()
    today, here, then = row.cells
    replaced = [code for code in today.code if row.section in IMITATED and _is_statement(code)]
    for code in replaced:
        exec(code, theirs)
    try:
        if then.code == ("ValueError",):
            with pytest.raises(ValueError):  # noqa: PT011 - the row claims no more
                _run_lines(here.code, ours)
        else:
            _run_lines(here.code, ours)
            outcome.problems += [f"not true: {check}" for check in then.code if eval(check, ours) is not True]
    except (Exception, pytest.fail.Exception) as error:
        outcome.problems.append(f"{type(error).__name__}: {error}")
        return outcome
    made = _assigned("\n".join(code for code in here.code if not code.startswith("$ ")))
    for name in sorted(_assigned("\n".join(replaced)) & COUNTERPARTS.keys()):
        our_name, on_their_axes = COUNTERPARTS[name]
        if our_name in made:
            outcome.compared.append(name)
            outcome.problems += _differences(name, torch.as_tensor(theirs[name]), on_their_axes(ours[our_name]))
    return outcome


def _run_lines(lines: Iterable[str], names: dict[str, Any]) -> None:
    for line in lines:
        if line.startswith("$ "):
            run_own_command(line.removeprefix("$ "))
        else:
            exec(line, names)


def _differences(name: str, theirs: torch.Tensor, ours: torch.Tensor) -> list[str]:
    if name == "audio":
        theirs = theirs[..., : ours.shape[-1]]  # `forward` cuts to the input's length
    if theirs.shape != ours.shape:
        return [f"{name}: the original's has shape {tuple(theirs.shape)}, ours {tuple(ours.shape)}"]
    if name in ("codes", "numbers"):
        return [] if torch.equal(theirs, ours) else [f"{name} differ"]
    largest = (theirs - ours).abs().max().item()
    return [] if largest < 1e-5 else [f"{name} differs by up to {largest:.2g}"]


def _parsed(code: str) -> ast.Module:
    try:
        return ast.parse(code)
    except SyntaxError:  # a file's name, for example
        return ast.Module([], [])


def _is_statement(code: str) -> bool:
    body = _parsed(code).body
    return bool(body) and (isinstance(body[0], ast.Assign) or isinstance(getattr(body[0], "value", None), ast.Call))


def _assigned(code: str) -> set[str]:
    return {
        node.id for node in ast.walk(_parsed(code)) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def _first_words(row: Row) -> str:
    return f"{row.line}: {(row.cells[0].text or row.cells[1].text)[:40]}"


@pytest.mark.parametrize("row", ROWS, ids=_first_words)
def test_a_row_does_what_it_says_and_gives_what_the_replaced_call_gave(row, outcomes):
    assert outcomes[row.line].problems == []


@pytest.mark.parametrize("row", ROWS, ids=_first_words)
def test_a_row_has_a_line_to_run_and_something_to_check_or_says_not_yet(row):
    _, here, then = row.cells
    assert (here.code and then.code) or here.text.startswith("Not yet")


def test_every_kind_of_result_is_compared_with_the_original(outcomes):
    compared = [name for outcome in outcomes.values() for name in outcome.compared]
    assert set(compared) == COUNTERPARTS.keys()
    assert {name: compared.count(name) for name in ("codes", "audio")} == {"codes": 4, "audio": 5}


def test_the_converted_folder_holds_the_weights_of_the_checkpoint(outcomes, directory, docs_model):
    converted = WavTokenizerModel.from_pretrained(directory / "wavtokenizer-75").state_dict()
    expected = docs_model.state_dict()
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], value) for name, value in expected.items())


def test_a_clip_of_a_padded_batch_keeps_its_codes(directory, docs_model):
    """The claim of the row on clips of different lengths, of which the row itself checks the number of codes."""
    extractor = WavTokenizerFeatureExtractor(hop_length=320)
    clips = [str(directory / "speech.flac"), str(directory / "stereo.wav")]
    with torch.inference_mode():
        batched = docs_model.encode(**extractor(clips, resample=True, return_tensors="pt"))
        for index, clip in enumerate(clips):
            alone = docs_model.encode(**extractor(clip, resample=True, return_tensors="pt")).audio_codes[0]
            assert torch.equal(batched.audio_codes[index, :, : alone.shape[-1]], alone)


def test_the_stand_in_has_the_axes_of_the_original_outputs(docs_model):
    with np.load(GOLDEN / "cases_hop320.npz") as stored:
        codes, audio = stored["batch2_24000/codes"], stored["batch2_24000/audio_bw3_first"]
    wavtokenizer = original_calls.names(docs_model)["WavTokenizer"]()
    clips = noise(2, 24000)
    features, our_codes = wavtokenizer.encode_infer(clips, bandwidth_id=torch.tensor([3]))
    assert our_codes.shape == codes.shape == (1, 2, 75)
    our_audio = wavtokenizer.decode(features, bandwidth_id=torch.tensor([3]))
    assert our_audio.shape == (2, 24000)
    assert our_audio.ndim == audio.ndim


@pytest.mark.parametrize("sampling_rate", [16000, 22050, 24000, 44100, 48000])
def test_the_stand_in_prepares_recordings_as_the_original_did(sampling_rate):
    with np.load(GOLDEN / "inputs.npz") as stored, np.load(GOLDEN / "preprocess.npz") as expected:
        stereo = torch.from_numpy(stored[f"stereo_{sampling_rate}"].astype(np.float32) / np.float32(32768))
        mono = original_calls.convert_audio(stereo, sampling_rate, 24000, 1)
        np.testing.assert_allclose(mono, expected[f"stereo_to_mono_{sampling_rate}"], rtol=0, atol=3e-6)


def test_the_list_of_checkpoints_is_that_of_the_converter():
    listed = [row.cells for row in rows(read(DOCUMENT)) if row.section == NAMES]
    assert [(file.code[0], name.code[0], int(rate.text)) for file, name, rate in listed] == [
        (release.file, release.name, release.codes_per_second) for release in RELEASED
    ]
