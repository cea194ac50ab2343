"""Tables of how fast a corpus is tokenised, and a plan for a large one."""

from typing import Any

from benchmarks.markdown import conditions, table

_HOURS = 100_000
_NUM_GPUS = (8, 64)
# How many times faster than real time one GPU encodes at the released geometry. Assumed, because none was at hand.
_ASSUMED_SPEEDS = (1000, 3000)
# What recordings most often come as, for the cores that read them.
_USUAL = ("flac", 16000)


def corpus_table(result: dict[str, Any]) -> str:
    """A row for each way to tokenise the same files."""
    settings = result["settings"]
    return table(
        ["way", "audio s per s", "to the loop", "MB for an hour"],
        [
            [
                entry["variant"],
                f"{entry['audio_s_per_s']['median']:.1f}",
                f"{entry['ratio_to_baseline']['median']:.2f}",
                f"{entry['mb_per_hour']:.2f}",
            ]
            for entry in result["measurements"]
        ],
        f"{settings['num_files']} files, {settings['hours']:.2f} hours, {settings['model']}, {settings['rounds']}"
        f" rounds. {conditions(result)}",
    )


def reading_table(result: dict[str, Any]) -> str:
    """A row for each format: what one core reads and resamples."""
    return table(
        ["recordings", "audio s per s and core", "MB for an hour"],
        [
            [
                f"{entry['format']}, {entry['sampling_rate'] / 1000:g} kHz",
                f"{entry['audio_s_per_s']:.0f}",
                f"{entry['mb_per_hour']:.0f}",
            ]
            for entry in result["reading"]
        ],
        conditions(result),
    )


def plan_table(result: dict[str, Any]) -> str:
    """What a large corpus takes, from measured figures and an assumed speed of a GPU."""
    reading = next(entry for entry in result["reading"] if (entry["format"], entry["sampling_rate"]) == _USUAL)
    mb_per_hour = result["measurements"][-1]["mb_per_hour"]
    rows = []
    for speed in _ASSUMED_SPEEDS:
        for num_gpus in _NUM_GPUS:
            hours = _HOURS / (speed * num_gpus)
            input_mb_per_s = speed * num_gpus * reading["mb_per_hour"] / 3600
            rows.append(
                [
                    f"{num_gpus} GPUs at {speed:,} times real time each",
                    f"{hours:.1f} h",
                    f"{speed / reading['audio_s_per_s']:.0f}",
                    f"{input_mb_per_s:,.0f} MB/s",
                    f"{_HOURS * mb_per_hour / 1e3:.0f} GB",
                ]
            )
    kind = f"{_USUAL[0].upper()} at {_USUAL[1] / 1000:g} kHz"
    return table(
        [f"{_HOURS:,} hours", "time", "reading cores for each GPU", "read in all", "written in all"],
        rows,
        f"Assumed: the speed of a GPU. Measured: a core reads {reading['audio_s_per_s']:.0f} s of {kind} in a second,"
        f" of which an hour has {reading['mb_per_hour']:.0f} MB; an hour of codes has {mb_per_hour:.2f} MB. Encoding a"
        f" second takes {result['released_gflop_per_audio_s']:.1f} GFLOP.",
    )
