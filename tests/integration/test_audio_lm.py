"""The audio language model of the examples, from recordings to sound, in a setting that takes seconds."""

import json
import math
import shutil

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModelForCausalLM, AutoProcessor

from benchmarks import audio_lm, table
from examples import train_audio_lm
from tests.golden import AUDIO
from tests.tiny import tiny_causal_model
from wavtokenizer_hf import WavTokenizerFeatureExtractor

SMALL = ["--hidden-size", "32", "--layers", "1", "--context", "128", "--batch", "4", "--steps", "30"]
SHORT = ["--prompt-seconds", "0.5", "--new-seconds", "0.75", "--held-out-every", "4", "--threads", "1"]

# Trainer hands torch's Accelerator arguments whose names have changed since.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def run(*options) -> dict:
    return train_audio_lm.run(train_audio_lm.parser().parse_args([*SMALL, *SHORT, *map(str, options)]))


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_model_learns_from_recordings_and_goes_on_with_one(tmp_path, capsys, architecture):
    figures = run(AUDIO, "--output", tmp_path, "--architecture", architecture)
    assert figures["num_train_recordings"] == 6
    assert figures["num_held_out_recordings"] == 2
    # Six recordings teach nothing of two others, but can be learned by heart.
    assert figures["train_loss_nats"] < math.log(4096) - 0.8
    assert figures["held_out_loss_nats"] < 1.1 * math.log(4096)
    assert figures["unigram_entropy_bits"] < figures["unigram_held_out_bits"] < 12
    printed = capsys.readouterr().out
    assert f"entropy {figures['unigram_entropy_bits']:.3f} bits" in printed
    assert f"held-out loss {figures['held_out_loss_nats']:.3f} nats" in printed

    samples, sampling_rate = soundfile.read(tmp_path / "continuation.wav", dtype="float32")
    # 0.5 s are 37.5 codes, 0.75 s are 56.25: 38 and 56, of 320 samples each.
    assert (len(samples), sampling_rate) == ((38 + 56) * 320, 24000)
    assert np.abs(samples).max() > 0.01
    continuation = figures["continuation"]
    assert 0 < continuation["first_new_sound_s"] < continuation["elapsed_s"]
    assert continuation["difference_to_decoding_in_pieces"] < 1e-5
    # Steps of 16 bits.
    assert continuation["difference_of_the_file_to_decoding_in_pieces"] < 2**-15
    # How far decoding in pieces lies from decoding whole; docs/streaming.md has it of real codes.
    assert continuation["snr_to_decoding_at_once_db"] > 5

    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.config.model_type == architecture
    assert model.get_input_embeddings().weight.shape[0] == len(processor.tokenizer)


def test_a_short_continuation_is_what_decoding_its_ids_at_once_gives(tmp_path):
    """As `ChunkedDecoder` states of clips that are no longer than a chunk and what it looks ahead, 25 + 15 codes."""
    figures = run(AUDIO, "--output", tmp_path, "--steps", "1", "--prompt-seconds", "0.2", "--new-seconds", "0.33")
    assert len(soundfile.read(tmp_path / "continuation.wav")[0]) == (15 + 25) * 320
    assert figures["continuation"]["difference_of_the_file_to_decoding_at_once"] < 2**-15


def test_recordings_whose_names_differ_in_their_suffix_only_are_told_apart(tmp_path):
    for name, source in (("a.flac", "sonic_x_0049.flac"), ("a.wav", "sonic_x_0060.flac")):
        samples, sampling_rate = soundfile.read(AUDIO / source)
        (tmp_path / "in" / "set").mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "in" / "set" / name, samples, sampling_rate)
    recordings = train_audio_lm.find_files([tmp_path / "in"])
    processor = train_audio_lm.WavTokenizerProcessor(
        WavTokenizerFeatureExtractor(hop_length=80), train_audio_lm.label_tokenizer(["set"]), tiny_causal_model()
    )
    for _ in range(2):
        codes = train_audio_lm.encode(recordings, processor, tmp_path / "codes")
        for recording, found in zip(recordings, codes, strict=True):
            known = train_audio_lm.encode_file(recording.path, processor, "").audio_codes[0]
            np.testing.assert_array_equal(found, known)


def test_what_cannot_be_trained_on_is_told_before_anything_is_computed(tmp_path, capsys):
    parser = train_audio_lm.parser()
    for options, message in (
        ([str(tmp_path / "nowhere")], "nowhere is no folder"),
        ([str(AUDIO), "--hidden-size", "40"], "40 is no multiple of 32"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(options)
        assert message in capsys.readouterr().err
    shutil.copy(AUDIO / "sonic_x_0049.flac", tmp_path)
    with pytest.raises(ValueError, match="holds 1 recording"):
        run(tmp_path, "--output", tmp_path / "out")


def test_the_benchmark_keeps_the_figures_of_both_starts_of_the_embeddings(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_lm, "RESULTS", tmp_path)
    options = [*SMALL, *SHORT, "--steps", "3", "--output", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["audio_lm", str(AUDIO), *options])
    audio_lm.main()
    result = json.loads((tmp_path / "audio_lm.json").read_text())
    informed, random = result["measurements"]
    assert result["settings"]["codec"] == "nano-75"
    # Three steps in, what the codec knows of its codes is all the difference.
    assert informed["held_out_loss_nats"] < random["held_out_loss_nats"] - 0.02
    text = table.audio_lm_table(result)
    for model in (informed, random):
        assert f"{model['variant']}: held out | {model['held_out_loss_bits']:.2f} |" in text
    assert f"{informed['unigram_entropy_bits']:.2f} |" in text


def test_a_causal_codec_streams_exactly(tmp_path):
    codec = tiny_causal_model(upsampling_ratios=[8, 5, 4, 2])
    codec.save_pretrained(tmp_path / "codec")
    WavTokenizerFeatureExtractor(hop_length=320).save_pretrained(tmp_path / "codec")
    recording = AUDIO / "sonic_x_0049.flac"
    figures = run(AUDIO, "--output", tmp_path, "--codec", tmp_path / "codec", "--steps", "1", "--prompt", recording)
    # What is heard first is the recording, as the codec has it.
    heard, _ = soundfile.read(tmp_path / "continuation.wav", dtype="float32")
    inputs = WavTokenizerFeatureExtractor(hop_length=320)(recording, return_tensors="pt")
    with torch.no_grad():
        known = codec.decode(codec.encode(**inputs).audio_codes).audio_values[0, 0, : 36 * 320]
    np.testing.assert_allclose(heard[: 36 * 320], known.clamp(-1, 1).numpy(), atol=1e-4)
    assert figures["continuation"]["snr_to_decoding_at_once_db"] > 90


def test_codes_are_kept_for_the_next_run_with_the_same_codec(tmp_path):
    recordings = train_audio_lm.find_files([AUDIO])[:2]
    feature_extractor = WavTokenizerFeatureExtractor(hop_length=80)

    def encode(seed: int) -> tuple[list[np.ndarray], list[int]]:
        codec = tiny_causal_model(seed=seed)
        tokenizer = train_audio_lm.label_tokenizer(["audio"])
        processor = train_audio_lm.WavTokenizerProcessor(feature_extractor, tokenizer, codec)
        codes = train_audio_lm.encode(recordings, processor, tmp_path)
        return codes, [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.npz"))]

    codes, written = encode(seed=0)
    for recording, found in zip(recordings, codes, strict=True):
        inputs = feature_extractor(recording.path, return_tensors="pt")
        with torch.no_grad():
            np.testing.assert_array_equal(found, tiny_causal_model().encode(**inputs).audio_codes[0, 0].numpy())
    again, kept = encode(seed=0)
    assert kept == written
    for first, second in zip(codes, again, strict=True):
        np.testing.assert_array_equal(first, second)
    others, _ = encode(seed=1)
    assert all((first != second).any() for first, second in zip(codes, others, strict=True))


def test_blocks_hold_every_token_once_and_learn_codes_only(tmp_path):
    labels, codes = ["a", "b", "a"], [np.arange(5), np.arange(3), np.array([63])]
    processor = train_audio_lm.WavTokenizerProcessor(
        WavTokenizerFeatureExtractor(hop_length=80), train_audio_lm.label_tokenizer(labels), tiny_causal_model()
    )
    blocks = train_audio_lm.blocks(processor, labels, codes, context=7)
    spans = [span.tolist() for clip in codes for span in processor.vocabulary.to_spans(clip[None])]
    tokenizer = processor.tokenizer
    stream = [
        token_id
        for name, span in zip(labels, spans, strict=True)
        for token_id in (tokenizer.convert_tokens_to_ids(name), *span, tokenizer.eos_token_id)
    ]
    assert [token_id for block in blocks for token_id in block["input_ids"]] == stream[: len(stream) // 7 * 7]
    for block in blocks:
        for token_id, target in zip(block["input_ids"], block["labels"], strict=True):
            assert target == (token_id if token_id in processor.vocabulary.token_ids else -100)
    assert len(train_audio_lm.blocks(processor, labels, codes, context=1000)) == 1


def test_single_codes_score_their_entropy():
    codes = [np.array([0, 0, 1, 2])]
    found = train_audio_lm.unigram(codes, [np.array([0, 3])], codebook_size=4)
    assert found["entropy_bits"] == pytest.approx(1.5)
    # One more of each: 3/8 and 1/8.
    assert found["held_out_bits"] == pytest.approx(-(math.log2(3 / 8) + math.log2(1 / 8)) / 2)


def test_a_model_that_learns_nothing_scores_no_better_than_single_codes():
    """The loss that the example prints is that of the codes: uniform scores give the logarithm of their number."""
    labels = ["a"]
    processor = train_audio_lm.WavTokenizerProcessor(
        WavTokenizerFeatureExtractor(hop_length=80), train_audio_lm.label_tokenizer(labels), tiny_causal_model()
    )
    arguments = train_audio_lm.parser().parse_args([str(AUDIO), *SMALL])
    model = train_audio_lm.make_model(arguments, processor, num_text=4)
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    [block] = train_audio_lm.blocks(processor, labels, [np.arange(64)], context=100)
    loss = model(**{name: torch.tensor([values]) for name, values in block.items()}).loss
    assert loss.item() == pytest.approx(math.log(len(processor.tokenizer)), rel=1e-5)
