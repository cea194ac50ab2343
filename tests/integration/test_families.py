"""A family of codecs is served by every wing without being named there."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from tests import tiny_events
from tests.tiny_language import tiny_tokenizer
from tests.toy_family import register_toy, toy_codec, tune
from wavtokenizer_hf.audio.codes import CodeFile
from wavtokenizer_hf.cli import main
from wavtokenizer_hf.codecs.loading import load_codec
from wavtokenizer_hf.codecs.registry import codec_of, family_of
from wavtokenizer_hf.hub.export import export_to_hub_folder
from wavtokenizer_hf.language import AudioLogitsProcessor, AudioStreamer, AudioVocabulary
from wavtokenizer_hf.streaming import decode_long, encode_long

PACKAGE = Path(__file__).parents[2] / "wavtokenizer_hf"
WINGS = ("audio", "codecs", "corpus", "evaluation", "hub", "cli")


@pytest.fixture(scope="module", params=["toy", "events"])
def folder(request, tmp_path_factory) -> Path:
    register_toy()
    place = tmp_path_factory.mktemp("models") / request.param
    codec = toy_codec() if request.param == "toy" else codec_of(tiny_events.tiny_model(sampling_rate=8000))
    codec.model.save_pretrained(place)
    codec.feature_extractor.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("recordings")
    for index in range(3):
        soundfile.write(place / f"{index}.wav", tune(4000 + 1500 * index, index), 8000)
    return place


@pytest.fixture
def run(capsys):
    def run_command(*arguments: object) -> str:
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
        said = capsys.readouterr()
        assert not ended.value.code, said.err
        return said.out

    return run_command


def codes_alone(codec, path: Path) -> np.ndarray:
    clip = codec.feature_extractor(path, resample=True, return_tensors="pt")["input_values"]
    with torch.inference_mode():
        return codec.encode(clip).of_clip(0).numpy()


def test_files_of_codes_come_from_recordings_and_go_back(folder, recordings, run, tmp_path):
    codec = load_codec(str(folder))
    assert codec.spec.hop_length is None
    run("encode", recordings, "-o", tmp_path / "codes", "-m", folder)
    run("decode", tmp_path / "codes", "-o", tmp_path / "sound", "-m", folder)
    for path in sorted(recordings.iterdir()):
        codes = CodeFile.load(tmp_path / "codes" / f"{path.stem}.npz")
        assert np.array_equal(codes.audio_codes, codes_alone(codec, path))
        assert (codes.fingerprint, codes.spec) == (codec.fingerprint, codec.spec)
        assert soundfile.info(tmp_path / "sound" / f"{path.stem}.wav").frames == codes.num_samples
        codes.save(tmp_path / "again.json")
        assert np.array_equal(CodeFile.load(tmp_path / "again.json").audio_codes, codes.audio_codes)
    facts = json.loads(run("info", "--json", tmp_path / "codes" / "0.npz"))
    assert facts["codebook_size"] == list(codec.spec.codebook_sizes)
    assert json.loads(run("info", "--json", folder))["codes_per_second"] is None


def test_streams_equal_the_whole(folder, recordings):
    codec, path = load_codec(str(folder)), recordings / "2.wav"
    encoded = encode_long(codec, path, block_s=0.1, progress=False)
    assert np.array_equal(encoded.audio_codes[0].numpy(), codes_alone(codec, path))
    pieces = torch.cat(list(decode_long(codec, encoded, progress=False)), dim=-1)
    with torch.inference_mode():
        whole = codec.decode(encoded.audio_codes, num_samples=encoded.num_samples)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-6)


def test_a_corpus_holds_the_codes_frame_by_frame(folder, recordings, run, tmp_path):
    codec = load_codec(str(folder))
    run("tokenize-corpus", recordings, tmp_path / "corpus", "-m", folder, "--workers", "0")
    (shard,) = (tmp_path / "corpus" / "data").iterdir()
    for row in pq.read_table(shard).to_pylist():
        codes = codec.spec.unflatten(np.array(row["codes"]))
        assert np.array_equal(codes, codes_alone(codec, recordings / row["source"]))
    run("export-tokens", tmp_path / "corpus", tmp_path / "tokens")
    run("status", tmp_path / "corpus", "--verify")


def test_it_is_evaluated_and_reported(folder, recordings, run, tmp_path):
    run("evaluate", folder, recordings, "-o", tmp_path / "scores", "--metrics", "log_mel_l1,codebook_usage,bitrate")
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert results["model"]["hop_length"] is None
    run("reconstruct", recordings / "0.wav", tmp_path / "0.wav", "-m", folder, "--report", tmp_path / "page")
    assert "Codes over time" in (tmp_path / "page" / "index.html").read_text()


def test_a_folder_for_the_hub_is_made_of_it(folder, run, tmp_path):
    run("export-hub", folder, tmp_path / "out")
    assert load_codec(str(tmp_path / "out")).fingerprint == load_codec(str(folder)).fingerprint
    assert "8000 Hz" in (tmp_path / "out" / "README.md").read_text()


@pytest.fixture
def vocabulary(folder):
    codec = load_codec(str(folder))
    return AudioVocabulary.add_to(tiny_tokenizer(), codec.spec, first_token_id=1000), codec


def test_codes_are_tokens_of_a_language_model_and_come_back(vocabulary, recordings):
    vocabulary, codec = vocabulary
    codes = codes_alone(codec, recordings / "0.wav")
    (span,) = vocabulary.to_spans(codec.spec.flatten(codes)[None])
    (segment,) = vocabulary.split(span)
    assert len(span) == codes.size + 2
    assert np.array_equal(codec.spec.unflatten(segment.values), codes)
    with pytest.raises(ValueError, match="only once it is encoded"):
        vocabulary.num_tokens(8000)


def test_what_is_drawn_under_the_mask_are_frames_and_sounds_the_same_in_a_stream(vocabulary):
    vocabulary, codec = vocabulary
    processor = AudioLogitsProcessor(vocabulary, num_codes=20, max_length=40)
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[3, vocabulary.begin_token_id], [vocabulary.begin_token_id, int(vocabulary.token_ids[0])]])
    for _ in range(38):
        scores = torch.randn(2, 1000 + codec.spec.num_entries, generator=generator)
        ids = torch.cat([ids, processor(ids, scores).argmax(dim=-1, keepdim=True)], dim=1)
    for row in ids.numpy():
        first = next(segment for segment in vocabulary.split(row) if segment.is_audio)
        assert codec.spec.unflatten(first.values).shape == (2, 10)

    frames = codec.encode(torch.from_numpy(tune(3000)).float()[None, None]).of_clip(0)
    pieces: list[torch.Tensor] = []
    streamer = AudioStreamer(vocabulary, codec.stream_decoder(), on_audio=pieces.append)
    (span,) = vocabulary.to_spans(torch.from_numpy(codec.spec.flatten(frames.numpy()))[None])
    streamer.put(torch.tensor([[3]]))
    for token_id in span:
        streamer.put(token_id[None])
    streamer.end()
    whole = codec.decode(frames[None])[0, 0]
    heard = torch.cat(pieces)
    # A stream of windows ends with the last one, and the whole with the last event.
    torch.testing.assert_close(heard[: len(whole)], whole[: len(heard)], rtol=0, atol=1e-6)


FOREIGN_PROCESS = """
import sys
import numpy as np
from transformers import AutoFeatureExtractor, AutoModel
sys.modules["wavtokenizer_hf"] = None
folder, clip, found = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
events = model.encode(**extractor(clip, resample=True, return_tensors="pt"))
np.save(found, events.event_codes.numpy())
for part in (model, extractor):
    part.save_pretrained(folder + "-again")
"""


def test_events_load_from_the_hub_without_the_package(recordings, tmp_path):
    codec, path = codec_of(tiny_events.tiny_model()), recordings / "0.wav"
    folder = export_to_hub_folder(codec.model, codec.feature_extractor, tmp_path / "exported")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-c", FOREIGN_PROCESS, *map(str, (folder, path, tmp_path / "found.npy"))]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    with torch.no_grad():
        events = codec.model.encode(**codec.feature_extractor(path, resample=True, return_tensors="pt"))
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), events.event_codes.numpy())
    code = {file.name for file in folder.glob("*.py")}
    assert {file.name for file in (tmp_path / "exported-again").glob("*.py")} == code
    assert "rendering_sparse_event_codec.py" in code


def test_an_unknown_family_is_named_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"type 'opus', only for wavtokenizer.*sparse_event_codec"):
        family_of("opus")


@pytest.mark.parametrize("wing", WINGS)
def test_no_wing_names_a_class_of_a_family(wing):
    named = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in (PACKAGE / wing).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in [getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "name", None)]
        if isinstance(name, str) and name.startswith(("WavTokenizer", "SparseEvent"))
    }
    assert not named
