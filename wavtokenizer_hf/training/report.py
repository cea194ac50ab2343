"""The page that a training run ends with."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from wavtokenizer_hf.evaluation.figures import curve_png
from wavtokenizer_hf.evaluation.report import Facts, Picture, Pictures, Section, Table, Text, clip_parts, write_page
from wavtokenizer_hf.evaluation.tables import NOTHING, labelled
from wavtokenizer_hf.evaluation.tone import tone_warning
from wavtokenizer_hf.training.config import TrainingConfig
from wavtokenizer_hf.training.runlog import LOG_FILE
from wavtokenizer_hf.training.validation import METRICS, PITCH_METRICS, Example

REPORT = "report"
_VALIDATED = "validation/mel"
# Which validations through the quantizer alone have.
_QUANTIZED = "codebook/usage"
# Rows of the table of validations; of more, some are left out evenly.
_MAX_ROWS = 20
# A curve is drawn from so many points at most.
_MAX_POINTS = 1000


def write_training_report(
    run: Path, config: TrainingConfig, examples: Sequence[Example], *, sampling_rate: int, failures: str
) -> Path:
    """Writes `run/report/index.html` from the run's log.

    Args:
        run: The run's folder.
        config: What it was told.
        examples: Of its last validation.
        sampling_rate: Of the examples, in Hz.
        failures: What could not be read, in words.

    Returns:
        Path of the page.
    """
    entries = [json.loads(line) for line in (run / LOG_FILE).read_text(encoding="utf-8").splitlines()]
    validations = [entry for entry in entries if _VALIDATED in entry]
    names = sorted({name for entry in entries for name in entry} - {"step"})
    sections = [
        Section("Overview", [_overview(entries, validations)]),
        Section("Curves", [Pictures([_curve(name, entries) for name in names])]),
    ]
    if validations:
        sections.append(Section("Validation", [_validation_table(validations)], _tone_note(validations)))
    for example in examples:
        clips = {"Original": example.original.numpy(), "Reconstruction": example.reconstruction.numpy()}
        sections.append(Section(Path(example.name).name, clip_parts(clips, sampling_rate)))
    told = Text("Configuration", yaml.safe_dump(config.to_dict(), sort_keys=False))
    sections.append(Section("The run", [told, Text("Recordings that could not be read", failures)]))
    return write_page(run / REPORT, title="Training run", subtitle=run.name, sections=sections)


def _tone_note(validations: Sequence[dict[str, Any]]) -> str:
    """What is to be said of the best validation, and of the last."""
    best = _best(validations)
    lines = [
        f"{name}, step {entry['step']:,}: {line}"
        for name, entry in {"Best": best, "Last": validations[-1]}.items()
        if (line := tone_warning(entry.get("validation/frame_tone_db")))
    ]
    return " ".join(lines)


def _best(validations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The one whose codec was kept."""
    quantized = [entry for entry in validations if _QUANTIZED in entry]
    return min(quantized or validations, key=lambda entry: entry[_VALIDATED])


def _overview(entries: Sequence[dict[str, Any]], validations: Sequence[dict[str, Any]]) -> Facts:
    items = [("Steps", f"{max((entry['step'] for entry in entries), default=0):,}", "taken in all")]
    speeds = sorted(entry["audio_s_per_s"] for entry in entries if "audio_s_per_s" in entry)
    if speeds:
        items.append(("Throughput", f"{speeds[len(speeds) // 2]:.1f} s/s", "seconds of audio a second, the median"))
    if validations:
        best = _best(validations)
        items.append(("Best mel loss", f"{best[_VALIDATED]:.4f}", f"validation, at step {best['step']:,}"))
        if _QUANTIZED in best:
            items.append(("Codebook in use", f"{best[_QUANTIZED]:.0%}", "of the entries, by the validation clips"))
            items.append(
                ("Perplexity", f"{best['codebook/perplexity']:.0f}", "size of an evenly used codebook as rich")
            )
    return Facts(items)


def _curve(name: str, entries: Sequence[dict[str, Any]]) -> Picture:
    points = [(entry["step"], entry[name]) for entry in entries if name in entry]
    points = points[:: max(1, -(-len(points) // _MAX_POINTS))]
    steps, values = zip(*points, strict=True)
    label = name.rpartition("/")[2].replace("_", " ")
    return Picture(curve_png(steps, values, label=label[:24]), name, f"{name} over the steps of the run")


def _validation_table(validations: Sequence[dict[str, Any]]) -> Table:
    stride = max(1, -(-len(validations) // _MAX_ROWS))
    # The last one always stands.
    rows = validations[::-1][::stride][::-1]
    columns = {
        "Step": ("step", ",d"),
        "Mel loss": (_VALIDATED, ".4f"),
        **{
            labelled(metric): (f"validation/{metric.name}", f".{metric.decimals}f")
            for metric in METRICS + PITCH_METRICS
        },
        "Codebook in use": (_QUANTIZED, ".1%"),
        "Perplexity": ("codebook/perplexity", ".0f"),
    }
    return Table(
        list(columns),
        [[format(row[name], form) if name in row else NOTHING for name, form in columns.values()] for row in rows],
    )
