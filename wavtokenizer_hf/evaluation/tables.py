"""The tables of an evaluation, for Markdown and for the page."""

from wavtokenizer_hf.evaluation.evaluate import Evaluation
from wavtokenizer_hf.evaluation.metric import Metric
from wavtokenizer_hf.evaluation.report import Table
from wavtokenizer_hf.evaluation.summary import Summary

NOTHING = "—"


def score_table(evaluation: Evaluation) -> Table:
    """A row per metric: its value over all clips, then over those of each kind."""
    kinds: list[str | None] = [None, *evaluation.kinds]
    header = ["Measure", "Better"]
    header += [f"{kind or 'all'}, {count(len(evaluation.of_kind(kind)), 'clip')}" for kind in kinds]
    rows = [
        [labelled(metric), better(metric)] + [_cell(metric, evaluation.summary(metric, kind)) for kind in kinds]
        for metric in evaluation.metrics
    ]
    return Table(header, rows)


def skipped_table(evaluation: Evaluation) -> Table:
    """A row per metric and reason; metrics that scored every clip have none."""
    rows = []
    for metric in evaluation.metrics:
        summary = evaluation.summary(metric)
        for reason, num_clips in summary.reasons.items():
            rows.append([metric.label, f"{num_clips} of {len(evaluation.clips)}", reason])
    return Table(["Measure", "Clips skipped", "Why"], rows)


def absent_table(evaluation: Evaluation) -> Table:
    """Clips that could not be read, and files without a counterpart."""
    rows = [[clip.name, clip.failure] for clip in evaluation.clips if clip.failure]
    for side, names in evaluation.unmatched.items():
        rows += [[name, f"no counterpart: it is among the {side} alone"] for name in names]
    return Table(["File", "Why it was left out"], rows)


def meaning_table(evaluation: Evaluation) -> Table:
    rows = []
    for metric in evaluation.metrics:
        rate = f"{metric.sampling_rate / 1000:g} kHz" if metric.sampling_rate else "as it is"
        rows.append([metric.label, metric.meaning, rate, metric.model or NOTHING])
    return Table(["Measure", "What it says", "Sampling rate", "Model"], rows)


def facts(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """What was measured and where: label, value, note."""
    clips = evaluation.clips
    minutes, seconds = divmod(round(sum(clip.duration_s for clip in clips)), 60)
    kinds = ", ".join(f"{len(evaluation.of_kind(kind))} {kind}" for kind in evaluation.kinds)
    items = [("Clips", f"{len(clips):,}", kinds), ("Audio", f"{minutes} min {seconds} s", "")]
    num_absent = len(absent_table(evaluation).rows)
    if num_absent:
        items.append(("Left out", count(num_absent, "file"), "listed below"))
    rates = sorted({clip.sampling_rate for clip in clips if clip.sampling_rate})
    if rates:
        note = "some measures compare at one rate only" if len(rates) > 1 else ""
        items.append(("Sampling rate", ", ".join(f"{rate / 1000:g}" for rate in rates) + " kHz", note))
    model, machine = evaluation.setting.get("model"), evaluation.setting.get("machine")
    if model:
        if model["bitrate_kbps"] is not None:
            rate_note = f"{model['codes_per_second']:g} codes per second of {model['codebook_size']:,}"
            items.append(("Bitrate", f"{model['bitrate_kbps']:.3g} kbps", rate_note))
        items.append(("Parameters", f"{model['num_parameters'] / 1e6:.1f} million", model["dtype"]))
    if machine:
        items.append(("Computed on", machine["device"], count(machine["num_threads"], "thread")))
    return items


def labelled(metric: Metric) -> str:
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label


def better(metric: Metric) -> str:
    """Which values are better, in words."""
    return {"neither": NOTHING, "zero": "nearer to 0"}.get(metric.direction, metric.direction)


def count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _cell(metric: Metric, summary: Summary) -> str:
    if summary.value is None:
        return NOTHING
    text = f"{summary.value:.{metric.decimals}f}"
    if summary.low is not None and summary.high is not None:
        # the no-break space keeps an interval on one line of a narrow table
        text += f" [{summary.low:.{metric.decimals}f},\u00a0{summary.high:.{metric.decimals}f}]"
    if summary.num_skipped:
        text += f" ({summary.num_scored} scored)"
    return text
