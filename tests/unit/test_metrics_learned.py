"""Metrics that load a model: small models of the same classes, made here, through the code that loads real ones."""

import json
import warnings
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForXVector,
    Wav2Vec2Model,
)

from tests.tiny import noise
from wavtokenizer_hf.audio.manifest import Entry
from wavtokenizer_hf.evaluation import utmos as utmos_module
from wavtokenizer_hf.evaluation.evaluate import evaluate
from wavtokenizer_hf.evaluation.pair import Pair
from wavtokenizer_hf.evaluation.registry import choose_metrics
from wavtokenizer_hf.evaluation.speaker import SpeakerSimilarity
from wavtokenizer_hf.evaluation.utmos import UTMOS
from wavtokenizer_hf.evaluation.word_errors import WordErrorRate

CPU = torch.device("cpu")
RATE = 8000  # of the small models, so that resampling to a model's own rate shows
LETTERS = "abc|"


def tiny_wav2vec2(**more) -> Wav2Vec2Config:
    return Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(10, 4),
        conv_stride=(40, 4),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        **more,
    )


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    """A folder with a speech recogniser that writes some mixture of four letters."""
    folder = tmp_path_factory.mktemp("asr")
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({letter: index for index, letter in enumerate(["<pad>", "<unk>", *LETTERS])}))
    torch.manual_seed(1)
    model = Wav2Vec2ForCTC(tiny_wav2vec2(vocab_size=6, pad_token_id=0))
    with torch.no_grad():
        model.lm_head.weight.mul_(30)  # else one letter wins everywhere
        model.lm_head.bias.copy_(torch.tensor([-5.0, -99, 0, 0, 0, 0]))
    model.save_pretrained(folder)
    Wav2Vec2CTCTokenizer(vocabulary, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def verifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xvector")
    torch.manual_seed(2)
    config = tiny_wav2vec2(tdnn_dim=(8, 8), tdnn_kernel=(3, 1), tdnn_dilation=(1, 1), xvector_output_dim=6)
    Wav2Vec2ForXVector(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(folder)
    return folder


def pair(seconds: float = 2.0, **more) -> Pair:
    num_samples = round(seconds * RATE)
    return Pair("pair", noise(num_samples), noise(num_samples, seed=1), RATE, "speech", **more)


def transcribe(folder, clip: torch.Tensor) -> str:
    """Greedy decoding written out: the best letter of each frame, repeats merged, blanks dropped."""
    inputs = Wav2Vec2FeatureExtractor.from_pretrained(folder)(clip.numpy(), sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        best = Wav2Vec2ForCTC.from_pretrained(folder)(**inputs).logits[0].argmax(-1).unique_consecutive().tolist()
    return "".join(LETTERS[index - 2] for index in best if index > 1).replace("|", " ")


def edit_distance(first: list[str], second: list[str]) -> int:
    table = np.arange(len(second) + 1)
    for row, word in enumerate(first, start=1):
        new = [row]
        for column, other in enumerate(second, start=1):
            new.append(min(table[column] + 1, new[-1] + 1, table[column - 1] + (word != other)))
        table = new
    return int(table[-1])


def test_word_errors_are_counted_against_what_is_heard_in_the_reference(recogniser):
    made = pair()
    words, heard = (transcribe(recogniser, clip).split() for clip in (made.reference, made.estimate))
    assert len(words) > 3
    assert edit_distance(words, heard) > 0
    metric = WordErrorRate(str(recogniser))
    metric.prepare(CPU)
    assert metric.sampling_rate == RATE
    assert metric.score(made).tolist() == [edit_distance(words, heard), len(words)]
    same = Pair("same", made.reference, made.reference, RATE)
    assert metric.pool([metric.score(same)]) == 0


def test_a_transcript_comes_before_what_is_heard_and_case_and_punctuation_do_not_count(recogniser):
    made = pair()
    heard = transcribe(recogniser, made.estimate).split()
    text = ", ".join(heard[:-1]).upper() + " extra!"
    metric = WordErrorRate(str(recogniser))
    metric.prepare(CPU)
    with_text = pair(transcript=text)
    assert metric.score(with_text).tolist() == [1, len(heard)]


def test_the_word_error_rate_of_a_set_weighs_clips_by_their_words():
    assert WordErrorRate().pool([np.array([1, 2]), np.array([0, 8])]) == pytest.approx(10)


def test_a_reference_without_words_is_refused(recogniser):
    metric = WordErrorRate(str(recogniser))
    metric.prepare(CPU)
    with pytest.raises(ValueError, match="no words in the reference"):
        metric.score(pair(transcript="..."))


def test_speaker_similarity_is_the_cosine_of_embeddings(verifier):
    made = pair()
    model = Wav2Vec2ForXVector.from_pretrained(verifier).eval()
    embeddings = []
    for clip in (made.reference, made.estimate):
        samples = (clip - clip.mean()) / (clip.var(unbiased=False) + 1e-7).sqrt()
        with torch.no_grad():
            embeddings.append(model(samples[None]).embeddings[0].double().numpy())
    expected = np.dot(*embeddings) / np.prod([np.linalg.norm(embedding) for embedding in embeddings])
    metric = SpeakerSimilarity(str(verifier))
    metric.prepare(CPU)
    assert metric.score(made) == pytest.approx(expected, abs=1e-5)
    assert metric.score(made) < 0.999
    assert metric.score(Pair("same", made.reference, made.reference, RATE)) == pytest.approx(1)


def test_a_model_that_would_get_random_weights_is_refused(tmp_path):
    Wav2Vec2Model(tiny_wav2vec2()).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is no x-vector model: it lacks"):
        SpeakerSimilarity(str(tmp_path)).prepare(CPU)


class Loudness(torch.nn.Module):
    """Stands in for the rating network: takes (1, T) and gives one number."""

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return 1 + samples.square().mean(-1).sqrt()


@pytest.fixture
def rating_network(tmp_path):
    path = tmp_path / "utmos.jit"
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        torch.jit.trace(Loudness(), torch.zeros(1, 100)).save(path)
    return path


def test_utmos_rates_the_estimate_at_16_khz(rating_network):
    metric = UTMOS(str(rating_network))
    metric.prepare(CPU)
    made = Pair("pair", noise(16000), noise(16000, seed=1), 16000)
    assert metric.score(made) == pytest.approx(1 + made.estimate.square().mean().sqrt().item())


def test_utmos_comes_from_the_hub_by_the_names_of_repository_and_file(rating_network, monkeypatch):
    asked = []
    monkeypatch.setattr(utmos_module, "hf_hub_download", lambda *name: asked.append(name) or str(rating_network))
    UTMOS().prepare(CPU)
    assert asked == [("balacoon/utmos", "utmos.jit")]


class OnePair:
    entries = (Entry(Path("pair.wav"), "pair.wav", kind="speech"),)
    unmatched = MappingProxyType({})

    def load(self, index: int) -> Pair:
        return pair()


def test_offline_every_metric_with_a_download_says_why_it_is_skipped():
    metrics, left_out = choose_metrics(["utmos", "wer", "speaker_similarity"])
    evaluation = evaluate(OnePair(), metrics, left_out=left_out)
    for metric in metrics:
        summary = evaluation.summary(metric)
        (reason,) = summary.reasons
        assert (summary.value, summary.num_scored, summary.num_skipped) == (None, 0, 1)
        assert reason.startswith(f"{metric.model} cannot be had: ")
