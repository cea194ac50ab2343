"""Tables of decoding in pieces."""

from typing import Any

from benchmarks.markdown import conditions, table

HEADER = [
    "chunk / context / look-ahead / fade",
    "log-mel L1",
    "SNR",
    "seam",
    "L1 to recording",
    "PESQ-WB",
    "latency",
    "first sample",
    "real-time factor",
]


def chunked_decoding_tables(result: dict[str, Any]) -> str:
    """For each group of clips a row for every setting, below the whole clip; then the speed of every way."""
    tables = []
    for group in result["clips"]:
        entries = [entry for entry in result["errors"] if entry["clips"] == group]
        rows = [_setting_row(entry, entries[0]) for entry in entries]
        tables.append(table(HEADER, rows, f"{group.capitalize()}: {_clips(result, group)}. {_NOTE}"))
    return "\n".join([*tables, _speed_table(result)])


_NOTE = "In brackets the difference to the whole clip, and how many times its time."


def brief_chunked_decoding_tables(result: dict[str, Any]) -> str:
    """Context against look-ahead, and the speed of every way."""
    stream = result["settings"]["stream"]
    cells = {
        (entry["setting"]["context_frames"], entry["setting"]["lookahead_frames"]): entry
        for entry in result["errors"]
        if entry["clips"] == "each clip"
        and entry["setting"]
        and all(entry["setting"][name] == stream[name] for name in ("chunk_frames", "crossfade_frames"))
    }
    contexts, lookaheads = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    rows = [
        [f"{context} codes", *(_cell(cells.get((context, lookahead))) for lookahead in lookaheads)]
        for context in contexts
    ]
    header = ["context", *(f"look-ahead {lookahead}" for lookahead in lookaheads)]
    caption = f"{_clips(result, 'each clip')}; chunks of {stream['chunk_frames']} codes; log-mel L1, SNR, seam."
    return "\n".join([table(header, rows, caption), _rows_table(result), _speed_table(result)])


def _rows_table(result: dict[str, Any]) -> str:
    """Long clips: chunks of every length beside the whole clip, by their distance to the recording."""
    groups = [group for group in result["clips"] if group != "each clip"]
    found: dict[str, list[str]] = {}
    for entry in result["errors"]:
        if entry["clips"] in groups:
            cells = found.setdefault(_named(entry["setting"]), [])
            cells += [
                f"{entry['log_mel_l1']:.3f}" if entry["setting"] else "-",
                f"{entry['log_mel_l1_to_recording']:.3f}",
            ]
    header = ["chunk / context / look-ahead"]
    for group in groups:
        header += [f"{group}: L1 to whole clip", "to recording"]
    counts = "; ".join(f"{group}: {_clips(result, group)}" for group in groups)
    return table(header, [[name, *cells] for name, cells in found.items()], f"{counts}.")


def _named(setting: dict[str, int] | None) -> str:
    if setting is None:
        return "whole clip"
    return " / ".join(str(setting[f"{part}_frames"]) for part in ("chunk", "context", "lookahead"))


def _setting_row(entry: dict[str, Any], whole: dict[str, Any]) -> list[str]:
    recording = [f"{entry['log_mel_l1_to_recording']:.4f}", f"{entry['pesq_wb']:.3f}"]
    if entry["setting"] is None:
        return ["whole clip", "", "", "", *recording, "", "", ""]
    first_s = entry["latency_s"] + entry["first_window_s"]["median"]
    recording[0] += f" ({entry['log_mel_l1_to_recording'] - whole['log_mel_l1_to_recording']:+.4f})"
    recording[1] += f" ({entry['pesq_wb'] - whole['pesq_wb']:+.3f})"
    return [
        " / ".join(str(value) for value in entry["setting"].values()),
        f"{entry['log_mel_l1']:.3f}",
        f"{entry['snr_db']:.1f} dB",
        f"{entry['seam']:.3f}",
        *recording,
        f"{entry['latency_s']:.2f} s",
        f"{first_s:.2f} s",
        _times(entry),
    ]


def _cell(entry: dict[str, Any] | None) -> str:
    return f"{entry['log_mel_l1']:.3f}, {entry['snr_db']:.1f} dB, {entry['seam']:.2f}" if entry else "-"


def _speed_table(result: dict[str, Any]) -> str:
    rows = []
    for entry in result["speed"]:
        first = entry.get("first_sample")
        row = [f"{entry['model']}, {entry['way']}", "-", "-", "-", _times(entry), _difference(entry)]
        if first:
            computing_ms = 1000 * first["computing_s"]["median"]
            row[1:4] = f"{1000 * entry['latency_s']:.0f} ms", str(first["num_codes"]), f"{computing_ms:.0f} ms"
        rows.append(row)
    header = [
        "decoder",
        "latency",
        "codes until there is sound",
        "their computing",
        "real-time factor",
        "SNR to whole clip",
    ]
    return table(
        header,
        rows,
        f"A clip of {result['settings']['speed_s']:g} s, float32; in brackets times the whole clip of that model. "
        + conditions(result),
    )


def _times(entry: dict[str, Any]) -> str:
    return f"{entry['real_time_factor']['median']:.3f} ({entry['ratio_to_whole_clip']['median']:.1f})"


def _difference(entry: dict[str, Any]) -> str:
    return "∞" if entry["snr_db"] is None else f"{entry['snr_db']:.0f} dB"


def _clips(result: dict[str, Any], group: str) -> str:
    kinds = [clip["kind"] for clip in result["clips"][group]]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return f"{len(kinds)} clips of {result['settings']['clip_s']:g} s ({counts})"
