"""Word error rate: whether speech recognition still finds the same words."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutomaticSpeechRecognitionPipeline, pipeline

from wavtokenizer_hf.audio_input import import_for
from wavtokenizer_hf.evaluation.metric import SPEECH, Metric, Score
from wavtokenizer_hf.evaluation.pair import Pair


class WordErrorRate(Metric):
    """Word errors of all clips over words of all clips.

    The words are compared in lower case and without punctuation: with the transcript where there is one, else with
    what the same model hears in the reference, which leaves the model's own mistakes out of the count.

    Args:
        model: Any model of transformers that recognises speech.
    """

    name = "wer"
    label = "word error rate"
    unit = "%"
    meaning = "Words that speech recognition gets wrong, against the transcript or what it hears in the reference."
    direction = "lower"
    sampling_rate: int = 16000
    kinds = SPEECH
    model: str
    default_model = "facebook/wav2vec2-base-960h"
    decimals = 2
    _recogniser: AutomaticSpeechRecognitionPipeline

    def prepare(self, device: torch.device) -> None:
        self._recogniser = pipeline("automatic-speech-recognition", model=self.model, device=device)
        extractor = self._recogniser.feature_extractor
        if extractor is None:
            raise ValueError(f"{self.model} has no feature extractor, so that its sampling rate is unknown")
        self.sampling_rate = extractor.sampling_rate

    def score(self, pair: Pair) -> np.ndarray:
        reference, estimate = pair.at(self.sampling_rate)
        words = _words(pair.transcript or self._hear(reference))
        if not words:
            raise ValueError("there are no words in the reference")
        heard = _words(self._hear(estimate))
        functional = import_for("word error rates", "torchaudio.functional")
        return np.array([functional.edit_distance(words, heard), len(words)])

    def pool(self, scores: Sequence[Score]) -> float:
        num_errors, num_words = np.sum(scores, axis=0)
        return float(100 * num_errors / num_words)

    def _hear(self, clip: torch.Tensor) -> str:
        # Whisper hears 30 s at a time, and longer clips only if it may write down times.
        is_long = self._recogniser.type == "seq2seq_whisper" and len(clip) > 30 * self.sampling_rate
        options = {"return_timestamps": True} if is_long else {}
        result: Any = self._recogniser({"raw": clip.numpy(), "sampling_rate": self.sampling_rate}, **options)
        return result["text"]


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.casefold())
