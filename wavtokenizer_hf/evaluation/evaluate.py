"""Runs metrics over pairs. Every clip gets, for every metric, either a score or the reason why it has none."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from wavtokenizer_hf.evaluation.coding import NO_CODES
from wavtokenizer_hf.evaluation.metric import Metric, Score
from wavtokenizer_hf.evaluation.pair import Pair
from wavtokenizer_hf.evaluation.pairs import Pairs
from wavtokenizer_hf.evaluation.summary import Summary, summarise
from wavtokenizer_hf.evaluation.tone import frame_tone, tone_warning

# What a metric, a model or a file may raise that is no mistake of ours. It costs a clip, never the run.
_EXPECTED = (ValueError, OSError, RuntimeError, ImportError)


@dataclass(frozen=True)
class ClipResult:
    """One clip.

    Args:
        index: Of its pair.
        duration_s: 0 if it could not be read.
        scores: By the metric's name.
        skipped: Why there is no score, by the metric's name.
        failure: Why there is no pair; empty if there is one.
        tone_db: At the frame rate, whatever was asked for; `None` where that is not defined.
    """

    index: int
    name: str
    kind: str
    duration_s: float = 0.0
    sampling_rate: int | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    failure: str = ""
    tone_db: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """What metrics say of pairs.

    Args:
        unmatched: Files without a counterpart, by the side that they are on.
        seed: Of the intervals.
        setting: What else a reader needs to know: model, data, machine, versions.
        unavailable: Why metrics scored nothing, by name.
    """

    metrics: Sequence[Metric]
    clips: Sequence[ClipResult]
    unmatched: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seed: int = 0
    setting: Mapping[str, Any] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    _summaries: dict[tuple[str, str | None], Summary] = field(default_factory=dict, repr=False)

    @property
    def kinds(self) -> list[str]:
        """Of the clips, those with most clips first. A kind that is not known does not count as one."""
        found = [clip.kind for clip in self.clips if clip.kind]
        return sorted(set(found), key=lambda kind: (-found.count(kind), kind))

    def of_kind(self, kind: str | None) -> list[ClipResult]:
        """The clips of a kind; `None` is all of them."""
        return [clip for clip in self.clips if kind in (None, clip.kind)]

    def summary(self, metric: Metric, kind: str | None = None) -> Summary:
        """One metric over the clips of one kind; `None` is all of them. Computed once."""
        key = metric.name, kind
        if key not in self._summaries:
            clips = self.of_kind(kind)
            scores = [clip.scores[metric.name] for clip in clips if metric.name in clip.scores]
            reasons = [clip.skipped[metric.name] for clip in clips if metric.name in clip.skipped]
            self._summaries[key] = summarise(metric, scores, reasons, self.seed)
        return self._summaries[key]

    def warnings(self) -> list[str]:
        """What makes figures look better than the sound is: a line for all clips, or for each kind that hums."""
        lines = []
        for kind in [None, *self.kinds]:
            tones_db = [clip.tone_db for clip in self.of_kind(kind) if clip.tone_db is not None]
            if line := tone_warning(float(np.mean(tones_db)) if tones_db else None):
                lines.append(f"{kind or 'All clips'}: {line}")
        return lines

    def value(self, metric: Metric, clip: ClipResult) -> float | None:
        """One metric over one clip."""
        return metric.pool([clip.scores[metric.name]]) if metric.name in clip.scores else None


def evaluate(
    pairs: Pairs,
    metrics: Sequence[Metric],
    *,
    left_out: Mapping[str, str] | None = None,
    asked: Collection[str] = (),
    device: torch.device | str = "cpu",
    seed: int = 0,
    setting: Mapping[str, Any] | None = None,
    on_clip: Callable[[ClipResult, Pair | None], None] = lambda clip, pair: None,
) -> Evaluation:
    """Scores every pair with every metric.

    Args:
        metrics: As `registry.choose_metrics` makes them.
        left_out: Metrics that are to be named in the results and not computed, with the reason.
        asked: Names of metrics without which the others are not worth the work.
        device: Where models of metrics compute.
        seed: Of the intervals.
        setting: Goes into the results as it is.
        on_clip: Called after each clip, with its pair where there is one.

    Raises:
        ValueError: If a metric of `asked` cannot be computed, before the first clip is read.
    """
    unavailable = dict(left_out or {})
    for metric in metrics:
        if metric.name not in unavailable and (reason := _cannot_be_had(metric, pairs, torch.device(device))):
            unavailable[metric.name] = reason
    if missing := [f"{name}: {reason}" for name, reason in unavailable.items() if name in asked]:
        raise ValueError(f"what was asked for cannot be computed. {'; '.join(missing)}")
    clips = []
    for index, entry in enumerate(pairs.entries):
        pair: Pair | None
        try:
            pair = pairs.load(index)
        except _EXPECTED as error:
            pair = None
            skipped = {metric.name: unavailable.get(metric.name, "no pair could be made") for metric in metrics}
            clip = ClipResult(index, entry.name, entry.kind, skipped=skipped, failure=_one_line(error))
        else:
            clip = score_pair(index, pair, metrics, unavailable)
        clips.append(clip)
        on_clip(clip, pair)
    return Evaluation(metrics, clips, pairs.unmatched, seed, setting or {}, unavailable)


def _cannot_be_had(metric: Metric, pairs: Pairs, device: torch.device) -> str:
    """Makes a metric ready; if it will not be, says why."""
    if metric.needs_codes and not pairs.has_codes:
        return NO_CODES
    if metric.needs_frame_rate and pairs.frame_rate is None:
        return "the codec's frame rate is not known; --frame-rate says it"
    try:
        metric.prepare(device)
    except _EXPECTED as error:
        return _one_line(error, f"{metric.model} cannot be had" if metric.model else "")
    return ""


def score_pair(index: int, pair: Pair, metrics: Sequence[Metric], unavailable: Mapping[str, str]) -> ClipResult:
    """One pair with every metric that is prepared.

    Args:
        unavailable: Metrics that score nothing, with the reason.
    """
    scores: dict[str, Score] = {}
    skipped: dict[str, str] = {}
    for metric in metrics:
        if metric.name in unavailable:
            skipped[metric.name] = unavailable[metric.name]
        elif pair.kind and metric.kinds is not None and pair.kind not in metric.kinds:
            skipped[metric.name] = f"meant for {' and '.join(metric.kinds)}, and the clip is {pair.kind}"
        else:
            try:
                score = metric.score(pair)
                if not math.isfinite(metric.pool([score])):
                    raise ValueError("the value is not finite")
                scores[metric.name] = score
            except ValueError as error:
                skipped[metric.name] = _one_line(error)
            except _EXPECTED as error:
                about = f"{metric.model} does not take this clip" if metric.model else ""
                skipped[metric.name] = _one_line(error, about)
    try:
        tone_db = pair.once(frame_tone)
    except ValueError:
        tone_db = None
    return ClipResult(
        index, pair.name, pair.kind, pair.duration_s, pair.sampling_rate, scores, skipped, tone_db=tone_db
    )


def _one_line(error: Exception, about: str = "") -> str:
    """What an error says, as one sentence or some; of a traceback within, as TorchScript has it, only the end."""
    text = str(error).strip()
    if "Traceback" in text:
        text = text.splitlines()[-1]
    message = " ".join(text.split()) or type(error).__name__
    return f"{about}: {message}" if about else message
