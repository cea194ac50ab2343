"""Renders the result files into tables and puts these into the documents: `python -m benchmarks.table [--check]`.

A document says where a table belongs by two comments, `<!-- begin table: NAME -->` and `<!-- end table: NAME -->`,
where NAME is a result file's, or that with `_brief` for a shorter table of the same figures.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.record import REPOSITORY, read_result, write_text

DOCUMENTS = (
    "README.md",
    "benchmarks/README.md",
    "docs/precision.md",
    "wavtokenizer_hf/checkpoints/nano-75/README.md",
)
_PLACE = re.compile(
    r"(?P<begin><!-- begin table: (?P<name>\w+) -->\n).*?(?P<end><!-- end table: (?P=name) -->)", re.DOTALL
)


def peers_table(result: dict[str, Any]) -> str:
    """A row for each system; in a cell the median time, and its ratio to the baseline's."""
    cells = {
        (entry["system"], entry["operation"], entry["audio_s"]): (
            f"{entry['wall_s']['median']:.2f} s ({entry['ratio_to_baseline']['median']:.2f})"
        )
        for entry in result["measurements"]
    }
    columns = list(dict.fromkeys((operation, seconds) for _, operation, seconds in cells))
    columns.sort(key=lambda column: (column[0] != "encode", column[1]))
    return _table(
        ["codec", "codes/s", "kbps", "weights (M)", *(f"{operation} {seconds:g} s" for operation, seconds in columns)],
        [
            [
                name,
                f"{system['codes_per_second']:g}",
                f"{system['kbps']:.3g}",
                f"{system['num_parameters'] / 1e6:.1f}",
                *(cells.get((name, *column), "-") for column in columns),
            ]
            for name, system in result["systems"].items()
        ],
        _conditions(result),
    )


def dtype_agreement_table(result: dict[str, Any]) -> str:
    """A row for each model, type and variant; percentages of equal codes."""
    kinds = list(dict.fromkeys(kind for entry in result["measurements"] for kind in entry["share"] if kind != "all"))
    return _table(
        ["model", "type", "in that type", "equal codes", *kinds, "lowest clip", "decoder SNR, median"],
        [
            [
                entry["model"],
                entry["dtype"],
                entry["variant"],
                _percent(entry["share"]["all"]),
                *(_percent(entry["share"][kind]) for kind in kinds),
                _percent(entry["lowest_clip"]["share"]),
                "∞" if (snr_db := entry["decoder_snr_db"]["median"]) is None else f"{snr_db:.1f} dB",
            ]
            for entry in result["measurements"]
        ],
        f"{result['measurements'][0]['num_clips']} clips, {result['settings']['seconds_encoded']:g} s. "
        + _conditions(result),
    )


def evaluation_table(result: dict[str, Any]) -> str:
    """A row for each metric that `wavtokenizer evaluate` found; a column for all clips and for each kind."""
    counts = result["clip_counts"]
    rows = []
    for metric in result["metrics"].values():
        scores = [metric["all"], *(metric["kinds"].get(kind) for kind in counts if kind != "all")]
        if any(score and score["value"] is not None for score in scores):
            unit = f" ({metric['unit']})" if metric["unit"] else ""
            rows.append([f"{metric['label']}{unit}", metric["direction"], *map(_score, scores)])
    header = [f"{kind}, {count['num_clips']} clips" for kind, count in counts.items()]
    machine, model = result["machine"], result["model"]
    return _table(
        ["measure", "better", *header],
        rows,
        f"`{result['command']}`, {counts['all']['duration_s'] / 60:.1f} min of audio; in brackets the 95 % interval of"
        f" the mean. Fingerprint {model['fingerprint'][:12]}, {model['dtype']}, {machine['device']}, "
        f"{_threads(machine['num_threads'])}, torch {machine['versions']['torch']}.",
    )


def brief_evaluation_table(result: dict[str, Any]) -> str:
    """What speech scores in the measures that papers quote."""
    counts = result["clip_counts"]["speech"]
    chosen = [
        result["metrics"][name] for name in ("stoi", "pesq_wb", "log_mel_l1", "f0_correlation", "codebook_usage")
    ]
    return _table(
        [f"speech, {counts['num_clips']} clips", "value", "better"],
        [
            [
                f"{metric['label']}{f' ({unit})' if (unit := metric['unit']) else ''}",
                _score(score),
                metric["direction"],
            ]
            for metric in chosen
            if (score := metric["kinds"]["speech"])
        ],
        f"`{result['command']}`; in brackets the 95 % interval of the mean.",
    )


def _score(score: dict[str, Any] | None) -> str:
    if score is None or score["value"] is None:
        return "-"
    interval = "" if score["low"] is None else f" [{score['low']:.3g}, {score['high']:.3g}]"
    return f"{score['value']:.4g}{interval}"


def training_table(result: dict[str, Any]) -> str:
    """A row for each way of training; ratios to the plain loop."""
    settings = result["settings"]
    return _table(
        ["training step", "audio s per s", "ratio", "peak memory", "ratio"],
        [
            [
                entry["variant"],
                f"{entry['audio_s_per_s']['median']:.3g}",
                f"{entry['audio_s_per_s']['ratio_to_baseline']:.2f}",
                f"{entry['peak_memory_gb']['median']:.2f} GB",
                f"{entry['peak_memory_gb']['ratio_to_baseline']:.2f}",
            ]
            for entry in result["measurements"]
        ],
        f"Batch {settings['batch']} of {settings['seconds']:g} s, {settings['steps']} steps in each of"
        f" {settings['rounds']} processes, {settings['device']}. " + _conditions(result),
    )


def revival_table(result: dict[str, Any]) -> str:
    """A row for each way in which a codebook learns."""
    return _table(
        ["codebook", "entries in use", "perplexity", "validation mel loss", "revived"],
        [
            [
                entry["variant"],
                _percent(entry["usage"]),
                f"{entry['perplexity']:.0f}",
                f"{entry['mel']:.4f}",
                f"{entry['num_revived']:.0f}",
            ]
            for entry in result["measurements"]
        ],
        f"{result['settings']['steps']} steps of {result['settings']['batch']} clips, the recipe `nano-75` without"
        f" discriminators, {result['settings']['num_clips']} validation clips. " + _conditions(result),
    )


RENDERERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "peers": peers_table,
    "dtype_agreement": dtype_agreement_table,
    "nano_75": evaluation_table,
    "nano_75_brief": brief_evaluation_table,
    "training": training_table,
    "revival": revival_table,
}


def with_tables(document: str) -> str:
    """The document with every table in it rendered anew.

    Raises:
        ValueError: It holds a comment that begins a table but has no end, or names no result.
    """

    def render(place: re.Match[str]) -> str:
        if place["name"] not in RENDERERS:
            raise ValueError(f"no result is called {place['name']!r}; there are {', '.join(RENDERERS)}")
        result = read_result(place["name"].removesuffix("_brief"))
        return place["begin"] + RENDERERS[place["name"]](result) + place["end"]

    rendered, num_tables = _PLACE.subn(render, document)
    if num_tables != document.count("<!-- begin table:"):
        raise ValueError("a comment `<!-- begin table: NAME -->` lacks its `<!-- end table: NAME -->`")
    return rendered


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a document is out of date")
    check = parser.parse_args(arguments).check
    stale = []
    for name in DOCUMENTS:
        path = REPOSITORY / name
        before = path.read_text(encoding="utf-8")
        after = with_tables(before)
        if after != before:
            stale.append(name)
            if not check:
                write_text(path, after)
    for name in stale:
        print(f"{name} {'is out of date: run `python -m benchmarks.table`' if check else 'updated'}")
    return 1 if check and stale else 0


def _conditions(result: dict[str, Any]) -> str:
    machine, versions = result["machine"], result["versions"]
    allocator = ", ".join(f"{name}={value}" for name, value in result["allocator"].items()) or "as the system sets it"
    return (
        f"{machine['processor']}, {_threads(result['threads'])} of {machine['logical_cores']}, load"
        f" {machine['load_before']:g} before the run; allocator {allocator}; torch {versions['torch']}, transformers"
        f" {versions['transformers']}; commit {result['commit']}, {result['finished'][:10]}."
    )


def _threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{caption}\n"


if __name__ == "__main__":
    sys.exit(main())
