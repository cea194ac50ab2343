"""Renders the result files into tables and puts these into the documents: `python -m benchmarks.table [--check]`.

A document says where a table belongs by two comments, `<!-- begin table: NAME -->` and `<!-- end table: NAME -->`,
where NAME is a result file's, or that with `_brief`, `_plan` or `_reading` for another table of the same file. The
place of what has not been measured yet says so.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.chunked_tables import brief_chunked_decoding_tables, chunked_decoding_tables
from benchmarks.corpus_defaults import defaults_table
from benchmarks.corpus_tables import corpus_table, plan_table, reading_table
from benchmarks.markdown import conditions, percent, table, threads
from benchmarks.record import REPOSITORY, read_result, write_text
from benchmarks.speed_tables import (
    batch_exactness_table,
    brief_speed_table,
    loading_table,
    long_audio_table,
    nearest_code_table,
    speed_tables,
    throughput_tables,
)

DOCUMENTS = (
    "README.md",
    "benchmarks/README.md",
    "docs/corpora.md",
    "docs/language-models.md",
    "docs/precision.md",
    "docs/streaming.md",
    "wavtokenizer_hf/checkpoints/nano-75/README.md",
)
_PART = re.compile(r"_(brief|plan|reading)$")
_PLACE = re.compile(
    r"(?P<begin><!-- begin table: (?P<name>\w+) -->\n).*?(?P<end><!-- end table: (?P=name) -->)", re.DOTALL
)


def dtype_agreement_table(result: dict[str, Any]) -> str:
    """A row for each model, type and variant; percentages of equal codes."""
    kinds = list(dict.fromkeys(kind for entry in result["measurements"] for kind in entry["share"] if kind != "all"))
    return table(
        ["model", "type", "in that type", "equal codes", *kinds, "lowest clip", "decoder SNR, median"],
        [
            [
                entry["model"],
                entry["dtype"],
                entry["variant"],
                percent(entry["share"]["all"]),
                *(percent(entry["share"][kind]) for kind in kinds),
                percent(entry["lowest_clip"]["share"]),
                "∞" if (snr_db := entry["decoder_snr_db"]["median"]) is None else f"{snr_db:.1f} dB",
            ]
            for entry in result["measurements"]
        ],
        f"{result['measurements'][0]['num_clips']} clips, {result['settings']['seconds_encoded']:g} s. "
        + conditions(result),
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
    return table(
        ["measure", "better", *header],
        rows,
        f"`{result['command']}`, {counts['all']['duration_s'] / 60:.1f} min of audio; in brackets the 95 % interval of"
        f" the mean. Fingerprint {model['fingerprint'][:12]}, {model['dtype']}, {machine['device']}, "
        f"{threads(machine['num_threads'])}, torch {machine['versions']['torch']}.",
    )


def brief_evaluation_table(result: dict[str, Any]) -> str:
    """What speech scores in the measures that papers quote."""
    counts = result["clip_counts"]["speech"]
    chosen = [
        result["metrics"][name] for name in ("stoi", "pesq_wb", "log_mel_l1", "f0_correlation", "codebook_usage")
    ]
    return table(
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
    return table(
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
        f" {settings['rounds']} processes, {settings['device']}. " + conditions(result),
    )


def event_speed_table(result: dict[str, Any]) -> str:
    """A row for each part of the work; ratios to the plain arithmetic."""
    parts = {
        "encode_window": "encode a window",
        "encoder_pass": "one pass of the encoder",
        "render_window": "render its events",
    }
    columns = ("plain", "wavetable", "oscillator")
    rows = [
        [
            words,
            *(
                f"{1000 * result['seconds'][part][column]:.0f} ms ({result['times_the_plain'][part][column]:.3g})"
                for column in columns
            ),
        ]
        for part, words in parts.items()
    ]
    events = ", ".join(f"{result['events'][column]}" for column in columns)
    caption = f"In brackets: how many times as fast as the plain arithmetic. Events: {events}. {conditions(result)}"
    return table(["process time", *columns], rows, caption)


def revival_table(result: dict[str, Any]) -> str:
    """A row for each way in which a codebook learns."""
    return table(
        ["codebook", "entries in use", "perplexity", "validation mel loss", "revived"],
        [
            [
                entry["variant"],
                percent(entry["usage"]),
                f"{entry['perplexity']:.0f}",
                f"{entry['mel']:.4f}",
                f"{entry['num_revived']:.0f}",
            ]
            for entry in result["measurements"]
        ],
        f"{result['settings']['steps']} steps of {result['settings']['batch']} clips, the recipe `nano-75` without"
        f" discriminators, {result['settings']['num_clips']} validation clips. " + conditions(result),
    )


def audio_lm_table(result: dict[str, Any]) -> str:
    """A row for single codes and for each language model; bits per code of held-out recordings."""
    models, settings = result["measurements"], result["settings"]
    sizes, continuations = models[0], [model["continuation"] for model in models]

    def from_to(name: str, number_format: str) -> str:
        values = [continuation[name] for continuation in continuations]
        return " to ".join(dict.fromkeys(format(value, number_format) for value in (min(values), max(values))))

    return table(
        ["what predicts a code", "bits a code"],
        [
            ["single codes: entropy", f"{sizes['unigram_entropy_bits']:.2f}"],
            ["single codes: held out", f"{sizes['unigram_held_out_bits']:.2f}"],
            *(
                [f"language model, {model['variant']}: held out", f"{model['held_out_loss_bits']:.2f}"]
                for model in models
            ),
        ],
        f"`{settings['codec']}`, {sizes['num_train_codes']:,} codes of {sizes['num_train_recordings']:,} recordings,"
        f" {sizes['num_held_out_codes']:,} of {sizes['num_held_out_recordings']} others held out;"
        f" {sizes['num_weights'] / 1e6:.1f} million weights, passes over the codes: {settings['epochs']:g}. Going on"
        f" with {from_to('prompt_s', '.1f')} s of a held-out recording for {from_to('new_s', '.1f')} s took"
        f" {from_to('elapsed_s', '.1f')} s, the first new sound {from_to('first_new_sound_s', '.2f')} s. What was"
        f" streamed differs by {from_to('difference_to_decoding_in_pieces', '.1g')} from what `ChunkedDecoder` makes"
        f" of all codes at once, and lies {from_to('snr_to_decoding_at_once_db', '.1f')} dB (SNR) from `decode`. "
        + conditions(result),
    )


RENDERERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "audio_lm": audio_lm_table,
    "corpus": corpus_table,
    "corpus_defaults": defaults_table,
    "corpus_plan": plan_table,
    "corpus_reading": reading_table,
    "speed": speed_tables,
    "speed_brief": brief_speed_table,
    "speed_bfloat16": speed_tables,
    "speed_large_malloc": speed_tables,
    "long_audio": long_audio_table,
    "throughput_cuda": throughput_tables,
    "chunked_decoding": chunked_decoding_tables,
    "chunked_decoding_brief": brief_chunked_decoding_tables,
    "batch_exactness_cpu": batch_exactness_table,
    "batch_exactness_cuda": batch_exactness_table,
    "loading": loading_table,
    "nearest_code": nearest_code_table,
    "dtype_agreement": dtype_agreement_table,
    "nano_75": evaluation_table,
    "nano_75_brief": brief_evaluation_table,
    "training": training_table,
    "event_speed": event_speed_table,
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
        try:
            result = read_result(_PART.sub("", place["name"]))
        except FileNotFoundError:
            return f"{place['begin']}Not measured yet.\n{place['end']}"
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


if __name__ == "__main__":
    sys.exit(main())
