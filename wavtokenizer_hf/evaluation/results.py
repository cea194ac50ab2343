"""The results of an evaluation as files: `results.json` for programs, `results.md` for people."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wavtokenizer_hf.audio.atomic import replacing
from wavtokenizer_hf.audio.shown import markdown
from wavtokenizer_hf.evaluation.evaluate import ClipResult, Evaluation
from wavtokenizer_hf.evaluation.metric import Metric
from wavtokenizer_hf.evaluation.report import Table
from wavtokenizer_hf.evaluation.summary import CONFIDENCE, NUM_RESAMPLES, Summary
from wavtokenizer_hf.evaluation.tables import absent_table, facts, meaning_table, score_table, skipped_table

FORMAT = "wavtokenizer-evaluation"
FORMAT_VERSION = 1


def write_results(directory: Path, evaluation: Evaluation, *, title: str, subtitle: str) -> None:
    """Writes `results.json` and `results.md`, each whole or not at all, into a folder that is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    content = json.dumps(as_json(evaluation), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    for name, text in (("results.json", content), ("results.md", as_markdown(evaluation, title, subtitle))):
        with replacing(directory / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything that was measured, down to the single clip."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **evaluation.setting,
        "intervals": {"confidence": CONFIDENCE, "num_resamples": NUM_RESAMPLES, "seed": evaluation.seed},
        "clip_counts": {
            "all": _counts(evaluation.clips),
            **{kind: _counts(evaluation.of_kind(kind)) for kind in evaluation.kinds},
        },
        "sampling_rates_hz": sorted({clip.sampling_rate for clip in evaluation.clips if clip.sampling_rate}),
        "unmatched": {side: list(names) for side, names in evaluation.unmatched.items()},
        "warnings": evaluation.warnings(),
        "metrics": {metric.name: _of_metric(evaluation, metric) for metric in evaluation.metrics},
        "clips": [_of_clip(evaluation, clip) for clip in evaluation.clips],
    }


def as_markdown(evaluation: Evaluation, title: str, subtitle: str) -> str:
    """The same as tables, without the single clips."""
    about = [f"- {label}: {value}" + (f" ({note})" if note else "") for label, value, note in facts(evaluation)]
    parts = [f"# {markdown(title)}", markdown(subtitle), "\n".join(map(markdown, about))]
    parts += [
        "## Scores",
        *map(markdown, evaluation.warnings()),
        interval_note(evaluation),
        _markdown(score_table(evaluation)),
    ]
    for heading, table in (
        ("Skipped", skipped_table(evaluation)),
        ("Left out", absent_table(evaluation)),
        ("What the measures say", meaning_table(evaluation)),
    ):
        if table.rows:
            parts += [f"## {heading}", _markdown(table)]
    return "\n\n".join(parts) + "\n"


def interval_note(evaluation: Evaluation) -> str:
    return (
        f"In brackets, the {100 * CONFIDENCE:.0f} % interval of the value over other draws of as many clips "
        f"({NUM_RESAMPLES} bootstrap samples, seed {evaluation.seed})."
    )


def _of_metric(evaluation: Evaluation, metric: Metric) -> dict[str, Any]:
    return {
        "label": metric.label,
        "unit": metric.unit,
        "direction": metric.direction,
        "sampling_rate_hz": metric.sampling_rate,
        "model": metric.model,
        "meaning": metric.meaning,
        "all": _of_summary(evaluation.summary(metric)),
        "kinds": {kind: _of_summary(evaluation.summary(metric, kind)) for kind in evaluation.kinds},
    }


def _of_summary(summary: Summary) -> dict[str, Any]:
    return dataclasses.asdict(summary) | {"num_skipped": summary.num_skipped}


def _of_clip(evaluation: Evaluation, clip: ClipResult) -> dict[str, Any]:
    return {
        "name": clip.name,
        "kind": clip.kind or None,
        "duration_s": round(clip.duration_s, 6),
        "sampling_rate_hz": clip.sampling_rate,
        "failure": clip.failure or None,
        "values": {metric.name: evaluation.value(metric, clip) for metric in evaluation.metrics},
        "skipped": dict(clip.skipped),
    }


def _counts(clips: Sequence[ClipResult]) -> dict[str, Any]:
    return {
        "num_clips": len(clips),
        "num_unreadable": sum(bool(clip.failure) for clip in clips),
        "duration_s": round(sum(clip.duration_s for clip in clips), 3),
    }


def _markdown(table: Table) -> str:
    rows = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join("| " + " | ".join(map(markdown, row)) + " |" for row in rows)
