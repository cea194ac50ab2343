"""What the codes say without listening: how much of the codebook is used, and what the codes cost."""

from collections.abc import Sequence

import numpy as np
import torch

from wavtokenizer_hf.audio.codebook_use import CodebookUse, codebook_use
from wavtokenizer_hf.evaluation.metric import Metric, Score
from wavtokenizer_hf.evaluation.pair import Coding, Pair

NO_CODES = "there are no codes: the estimates came without their codec"


def coding_of(pair: Pair) -> Coding:
    """The pair's coding; raises ValueError if it came without one."""
    if pair.coding is None:
        raise ValueError(NO_CODES)
    return pair.coding


class _CodebookMetric(Metric):
    """A score is the clip's coding itself: pooling counts its codes."""

    needs_codes = True
    has_interval = False

    def score(self, pair: Pair) -> Coding:
        return coding_of(pair)

    @staticmethod
    def _use(scores: Sequence[Coding]) -> CodebookUse:
        """Of the codes of all clips together."""
        codes = torch.cat([coding.audio_codes.flatten().cpu() for coding in scores])
        return codebook_use(torch.bincount(codes, minlength=scores[0].spec.num_entries))


class CodebookUsage(_CodebookMetric):
    name = "codebook_usage"
    label = "codebook usage"
    unit = "%"
    meaning = "Share of the codebook's entries that occur at all, over the whole set."
    direction = "higher"
    decimals = 1

    def pool(self, scores: Sequence[Score]) -> float:
        return 100 * self._use(scores).usage


class CodebookPerplexity(_CodebookMetric):
    name = "codebook_perplexity"
    label = "codebook perplexity"
    unit = "entries"
    meaning = (
        "How many entries used equally often would carry as much: 2 to the entropy of the codes, over the whole set."
    )
    direction = "higher"
    decimals = 0

    def pool(self, scores: Sequence[Score]) -> float:
        return self._use(scores).perplexity


class _Rate(Metric):
    """A score is an amount and the seconds it took up; the value is all of the one over all of the other."""

    direction = "neither"
    needs_codes = True
    has_interval = False

    def pool(self, scores: Sequence[Score]) -> float:
        amount, duration_s = np.sum(scores, axis=0)
        return float(amount / duration_s)


class CodesPerSecond(_Rate):
    name = "codes_per_second"
    label = "codes per second"
    unit = "1/s"
    meaning = "Codes per second of audio, counted; the last code of a clip is seldom full."
    decimals = 2

    def score(self, pair: Pair) -> np.ndarray:
        return np.array([coding_of(pair).audio_codes.numel(), pair.duration_s])


class Bitrate(_Rate):
    name = "bitrate"
    label = "bitrate"
    unit = "kbps"
    meaning = "Bits per second of audio, where a code takes the binary logarithm of the codebook's size."

    def score(self, pair: Pair) -> np.ndarray:
        coding = coding_of(pair)
        num_frames = coding.audio_codes.numel() / coding.spec.num_codebooks
        return np.array([num_frames * coding.spec.bits_per_frame / 1000, pair.duration_s])
