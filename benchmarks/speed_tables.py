"""Tables of speed and memory."""

from typing import Any

from benchmarks.markdown import conditions, percent, table

OPERATIONS = ("encode", "decode")
PEAK_DTYPES = ("float32", "bfloat16")


def speed_tables(result: dict[str, Any]) -> str:
    """Encoding and decoding: a row for each system, a column for each batch; then shares of the matrix peak."""
    tables = []
    for operation in OPERATIONS:
        cells = _cells(result, operation)
        columns = list(dict.fromkeys(column for _, column in cells))
        rows = []
        for name, system in result["systems"].items():
            found = [cells.get((name, column)) for column in columns]
            if any(found):
                numbers = [f"{system['codes_per_second']:g}", f"{system['num_parameters'] / 1e6:.1f}"]
                rows.append([name, *numbers, *map(_times_real_time, found)])
                if any(entry and "share_of_peak" in entry for entry in found):
                    shares = [f"{100 * entry['share_of_peak']:.0f} %" if entry else "-" for entry in found]
                    rows.append(["of the matrix peak", "", "", *shares])
        tables.append(table([operation, "codes/s", "weights (M)", *map(_batch, columns)], rows))
    peaks = result["peak_gflop_per_s"]
    rates = {dtype: [rate for name, rate in peaks.items() if name.endswith(dtype)] for dtype in PEAK_DTYPES}
    best = [f"{max(found):.0f} GFLOP/s in {dtype}" for dtype, found in rates.items() if found]
    caption = f"Products of large matrices reached {' and '.join(best)} in the same run. {conditions(result)}"
    return "\n".join([*tables, f"{caption}\n"])


def brief_speed_table(result: dict[str, Any]) -> str:
    """Times real time at the shortest and at the longest clip that every system but the slowest takes part in."""
    lengths = sorted({entry["audio_s"] for entry in result["measurements"] if entry["batch_size"] == 1})
    columns = [(operation, (seconds, 1)) for seconds in (lengths[0], lengths[-1]) for operation in OPERATIONS]
    cells = {operation: _cells(result, operation) for operation in OPERATIONS}
    rows = [
        [name, *(_times_real_time(cells[operation].get((name, batch))) for operation, batch in columns)]
        for name in result["systems"]
    ]
    header = [f"{operation} {_batch(batch)}" for operation, batch in columns]
    return table(
        ["codec", *header], rows, f"Times real time; in brackets against the plain path. {conditions(result)}"
    )


def throughput_tables(result: dict[str, Any]) -> str:
    """Seconds of audio a second: a row for each variant, a column for each batch size; then where the time goes."""
    tables = []
    for operation in OPERATIONS:
        entries = [entry for entry in result["measurements"] if entry["operation"] == operation]
        if not entries:
            continue
        sizes = list(dict.fromkeys(entry["batch_size"] for entry in entries))
        rates = {(entry["variant"], entry["batch_size"]): entry.get("audio_s_per_s") for entry in entries}
        names = list(dict.fromkeys(entry["variant"] for entry in entries))
        best = {name: max((rates[name, size] or 0.0) for size in sizes) for name in names}
        rows = [
            [name, *(_rate(rates[name, size]) for size in sizes), f"{best[name] / best[result['baseline']]:.2f}"]
            for name in names
        ]
        tables.append(table([f"{operation}, clips at once", *map(str, sizes), "best, to the plain path's"], rows))
    for operation in OPERATIONS:
        shares = {
            name: found[operation]["stages"] for name, found in result["profile"]["of"].items() if operation in found
        }
        if shares:
            stages = list(next(iter(shares.values())))
            rows = [[name, *(f"{100 * each[stage]:.0f} %" for stage in stages)] for name, each in shares.items()]
            tables.append(table([f"time to {operation} {result['profile']['batch_size']} clips", *stages], rows))
    clip = f"Clips of {result['settings']['clip_s']:g} s; seconds of audio a second."
    return "\n".join([*tables, f"{clip} {conditions(result)}\n"])


def long_audio_table(result: dict[str, Any]) -> str:
    """A row for each way through."""
    rows = [
        [
            f"{entry['operation']}, {entry['way']}",
            f"{entry['audio_s'] / 60:g} min",
            f"{entry['wall_s']['median']:.1f} s",
            f"{entry['times_real_time']:.1f}",
            f"{entry['memory_mb']['median']:.0f} MB",
        ]
        for entry in result["measurements"]
    ]
    return table(
        ["way", "audio", "time", "times real time", "memory"],
        rows,
        f"Model: {result['settings']['model']}. {conditions(result)}",
    )


def loading_table(result: dict[str, Any]) -> str:
    """A row for each checkpoint and part of it."""
    rows = [
        [
            f"{entry['loaded']}, {entry['checkpoint']}",
            f"{entry['file_mb']:.0f} MB",
            f"{entry['cpu_s']['median']:.2f} s",
            f"{entry['wall_s']['median']:.2f} s",
        ]
        for entry in result["measurements"]
    ]
    return table(["loaded", "file", "CPU time", "time"], rows, conditions(result))


def nearest_code_table(result: dict[str, Any]) -> str:
    """A row for each codebook: processor time for a second of audio each way, what the index takes, and the memory."""

    def figures(way: dict[str, Any]) -> str:
        milliseconds = 1000 * way["cpu_s_per_s"]["median"]
        number = f"{milliseconds:.1f}" if milliseconds < 100 else f"{milliseconds:,.0f}"
        return f"{number} ({way['ratio_to_baseline']:.2f})"

    rows = [
        [
            f"{entry['codebook_size']:,}",
            entry["codebook"],
            *(figures(way) for way in entry["ways"].values()),
            "-" if entry["num_axes"] is None else f"{entry['num_axes']}",
            f"{entry['build_s']:.2f} s, {entry['index_mb']:.3g} MB",
            f"{entry['table_mb']:.0f} MB",
            " / ".join(f"{way['memory_mb']:.0f}" for way in entry["ways"].values()),
            "yes" if entry["equal"] else "no",
        ]
        for entry in result["measurements"]
    ]
    ways = list(result["measurements"][0]["ways"])
    settings = result["settings"]
    return table(
        ["entries", "codebook", *ways, "axes", "index", "entries take", "memory beyond (MB)", "equal codes"],
        rows,
        f"Milliseconds of processor time for a second of audio (75 latents of width {settings['width']}), in brackets"
        f" how many times as fast as the comparison with all entries; {settings['num_vectors']} latents at once. "
        + conditions(result),
    )


def batch_exactness_table(result: dict[str, Any]) -> str:
    """A row for each model and type of numbers."""
    rows = [
        [
            entry["model"],
            entry["dtype"],
            f"{entry['num_codes']}",
            percent(entry["padded_as_alone"]["share"]),
            percent(entry["padded_as_alone"]["lowest_clip"]),
            percent(entry["alone_as_float32"]["share"]),
        ]
        for entry in result["measurements"]
    ]
    header = ["model", "type", "codes", "padded = alone", "lowest clip", "alone = alone in float32"]
    settings = result["settings"]
    caption = f"{settings['num_clips']} clips of up to {settings['longest_s']:g} s, {settings['batch_size']} at once."
    return table(header, rows, f"{caption} {conditions(result)}")


def _cells(result: dict[str, Any], operation: str) -> dict[tuple[str, tuple[float, int]], dict[str, Any]]:
    """The measurements of an operation by system and batch, (seconds, size)."""
    return {
        (entry["system"], (entry["audio_s"], entry["batch_size"])): entry
        for entry in result["measurements"]
        if entry["operation"] == operation
    }


def _batch(batch: tuple[float, int]) -> str:
    seconds, size = batch
    return f"{seconds:g} s" if size == 1 else f"{size} x {seconds:g} s"


def _times_real_time(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "-"
    return f"{entry['times_real_time']:.1f} ({entry['speedup']['median']:.2f})"


def _rate(rate: float | None) -> str:
    return "out of memory" if rate is None else f"{rate:.0f}"
