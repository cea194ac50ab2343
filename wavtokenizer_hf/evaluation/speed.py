"""Real-time factors: seconds of computing per second of audio."""

from collections.abc import Sequence

import numpy as np

from wavtokenizer_hf.evaluation.coding import coding_of
from wavtokenizer_hf.evaluation.metric import Metric, Score
from wavtokenizer_hf.evaluation.pair import Coding, Pair


class _RealTimeFactor(Metric):
    direction = "lower"
    needs_codes = True
    decimals = 4

    def score(self, pair: Pair) -> np.ndarray:
        return np.array([self._elapsed_s(coding_of(pair)), pair.duration_s])

    def pool(self, scores: Sequence[Score]) -> float:
        elapsed_s, duration_s = np.sum(scores, axis=0)
        return float(elapsed_s / duration_s)

    def _elapsed_s(self, coding: Coding) -> float:
        raise NotImplementedError


class EncodeRealTimeFactor(_RealTimeFactor):
    name = "encode_rtf"
    label = "real-time factor, encode"
    meaning = (
        "Seconds that encoding a second of audio takes, one clip at a time; 0.1 is ten times as fast as it plays."
    )

    def _elapsed_s(self, coding: Coding) -> float:
        return coding.encode_s


class DecodeRealTimeFactor(_RealTimeFactor):
    name = "decode_rtf"
    label = "real-time factor, decode"
    meaning = "Seconds that decoding a second of audio takes, one clip at a time."

    def _elapsed_s(self, coding: Coding) -> float:
        return coding.decode_s
