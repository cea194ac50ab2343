"""From the scores of clips to one value, with how sure it is and what it leaves out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wavtokenizer_hf.evaluation.metric import Metric, Score

CONFIDENCE = 0.95
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Summary:
    """One metric over some clips.

    Args:
        value: `None` if no clip was scored.
        low: Lower end of the interval; `None` for fewer than two scored clips, or a metric without intervals.
        high: Its upper end.
        reasons: How many clips were skipped for which reason.
    """

    value: float | None
    low: float | None
    high: float | None
    num_scored: int
    reasons: Mapping[str, int]

    @property
    def num_skipped(self) -> int:
        return sum(self.reasons.values())


def summarise(metric: Metric, scores: Sequence[Score], reasons: Sequence[str], seed: int) -> Summary:
    """Pools the scores.

    Args:
        scores: Of the clips that were scored.
        reasons: One for each clip that was not.
        seed: Of the resampling.
    """
    low, high = _interval(metric, scores, seed) if metric.has_interval and len(scores) > 1 else (None, None)
    return Summary(
        value=metric.pool(scores) if scores else None,
        low=low,
        high=high,
        num_scored=len(scores),
        reasons=dict(Counter(reasons).most_common()),
    )


def _interval(metric: Metric, scores: Sequence[Score], seed: int) -> tuple[float, float]:
    """Percentile bootstrap: what the value would be for other draws of as many clips from these."""
    drawn = np.random.default_rng(seed).integers(len(scores), size=(NUM_RESAMPLES, len(scores)))
    stacked = np.asarray(scores)
    values = [metric.pool(stacked[rows]) for rows in drawn]
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [outside, 1 - outside])
    return float(low), float(high)
