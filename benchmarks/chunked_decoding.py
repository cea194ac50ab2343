"""What does decoding in pieces cost: in error, in latency and in time?

The ordinary codec's decoder sees all of time, so pieces differ from the whole clip. By how much, against chunk,
context, look-ahead and cross-fade, is measured with the checkpoint of the package on real recordings: DATA is a folder
with a manifest that says what is speech, music or sound. A causal codec is exact in pieces; its figures, and those of
the released size, come from weights that were trained on nothing or for something else.
"""

import argparse
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import RESULTS, conditions, write_result
from benchmarks.rounds import in_rounds, significant, summary
from benchmarks.seams import seam
from benchmarks.systems import RELEASED_75
from wavtokenizer_hf import (
    WavTokenizerCausalConfig,
    WavTokenizerConfig,
    WavTokenizerFeatureExtractor,
    WavTokenizerModel,
    bundled_checkpoint,
    fingerprint,
)
from wavtokenizer_hf.audio.manifest import Entry, find_entries
from wavtokenizer_hf.checkpoints import DEFAULT
from wavtokenizer_hf.evaluation.pair import Pair
from wavtokenizer_hf.evaluation.perceptual import PESQ
from wavtokenizer_hf.evaluation.signal import log_mel_l1, snr_db
from wavtokenizer_hf.streaming import ChunkedDecoder
from wavtokenizer_hf.streaming.decoder import (
    CHUNK_FRAMES,
    CONTEXT_FRAMES,
    LONG_CHUNK_FRAMES,
    LONG_CONTEXT_FRAMES,
    LONG_LOOKAHEAD_FRAMES,
    LOOKAHEAD_FRAMES,
)
from wavtokenizer_hf.streaming.window_decoding import CROSSFADE_FRAMES, WindowDecoding

CLIP_S = 8.0
NUM_CLIPS = {"speech": 6, "music": 3, "sound": 3}
SPEED_S = 10.0


@dataclass(frozen=True)
class Setting:
    """One way to cut, in codes; of the cross-fade, no more than half the look-ahead is used."""

    chunk_frames: int
    context_frames: int
    lookahead_frames: int
    crossfade_frames: int = CROSSFADE_FRAMES


STREAM = Setting(CHUNK_FRAMES, CONTEXT_FRAMES, LOOKAHEAD_FRAMES)
LONG = Setting(LONG_CHUNK_FRAMES, LONG_CONTEXT_FRAMES, LONG_LOOKAHEAD_FRAMES)
# For clips of 8 s: context and look-ahead, then the chunk, then the fade.
STREAM_SETTINGS = [
    *(Setting(CHUNK_FRAMES, context, lookahead) for context in (25, 75, 150, 300) for lookahead in (0, 5, 15, 40)),
    *(Setting(chunk, CONTEXT_FRAMES, LOOKAHEAD_FRAMES) for chunk in (10, 50, 100)),
    *(Setting(CHUNK_FRAMES, CONTEXT_FRAMES, LOOKAHEAD_FRAMES, fade) for fade in (0, 1, 7)),
]
# For clips in a row.
LONG_SETTINGS = [STREAM, Setting(200, 150, 40), Setting(375, 150, 40), Setting(750, 300, 75), Setting(1500, 300, 75)]


@dataclass(frozen=True, eq=False)
class Clip:
    """The beginning of a recording, or of two of a kind in a row, (T,)."""

    name: str
    kind: str
    samples: torch.Tensor


class Recordings:
    """The recordings of a manifest, which says of each its `kind` and its `speaker`."""

    def __init__(self, data: Path):
        self._entries = find_entries(data)
        self._extractor = WavTokenizerFeatureExtractor()
        self._num_samples = round(CLIP_S * self._extractor.sampling_rate)

    def of_every_kind(self) -> list[Clip]:
        """Evenly spaced in the list of those that are long enough; two in a row where a kind has too few."""
        clips = []
        for kind, num_clips in NUM_CLIPS.items():
            entries = [entry for entry in self._entries if entry.kind == kind]
            found = self._long_enough([entry] for entry in entries)
            if len(found) < num_clips:
                found = self._long_enough(zip(entries[::2], entries[1::2], strict=False))
            clips += [found[number * len(found) // num_clips] for number in range(num_clips)]
        return clips

    def of_one_speaker(self) -> list[Clip]:
        """All that are long enough of whoever has most of them."""
        spoken = [entry for entry in self._entries if entry.kind == "speech"]
        speakers = Counter(entry.columns["speaker"] for entry in spoken if float(entry.columns["dur"]) >= CLIP_S)
        name = speakers.most_common(1)[0][0]
        return self._long_enough([entry] for entry in spoken if entry.columns["speaker"] == name)

    def _long_enough(self, groups: Iterable[Sequence[Entry]]) -> list[Clip]:
        clips = []
        for group in groups:
            loaded = [self._extractor(str(entry.path), resample=True, return_tensors="pt") for entry in group]
            samples = torch.cat([batch["input_values"][0, 0] for batch in loaded])
            if len(samples) >= self._num_samples:
                name = " + ".join(entry.name for entry in group)
                clips.append(Clip(name, group[0].kind, samples[: self._num_samples]))
        return clips


def decode_whole(model: WavTokenizerModel, audio_codes: torch.Tensor) -> torch.Tensor:
    """(B, 1, L) -> (B, T)"""
    return model.decode(audio_codes).audio_values[:, 0]


def decode_in_pieces(model: WavTokenizerModel, audio_codes: torch.Tensor, setting: Setting) -> torch.Tensor:
    """(B, 1, L) -> (B, T), by what a `ChunkedDecoder` runs, which has no setting for the fade."""
    decoding = WindowDecoding(model, None, len(audio_codes), **asdict(setting))
    state = decoding.fresh_state()
    rows = list(range(len(audio_codes)))
    pushed = decoding.push(state, audio_codes, torch.full((len(rows),), audio_codes.shape[-1]))
    return torch.cat([pushed.values, decoding.flush(state, rows).values], dim=-1)[:, 0]


@dataclass(frozen=True)
class Group:
    """Clips that are decoded each by itself, or in a row as one."""

    name: str
    clips: Sequence[Clip]
    is_row: bool
    settings: Sequence[Setting]


@torch.inference_mode()
def measure_errors(model: WavTokenizerModel, groups: Sequence[Group], num_rounds: int) -> list[dict[str, Any]]:
    """Every setting of every group, after its whole-clip decoding."""
    pesq = PESQ()
    pesq.prepare(torch.device("cpu"))
    entries: list[dict[str, Any]] = []
    for group in groups:
        clips = group.clips
        audio_codes = model.encode(torch.stack([clip.samples for clip in clips])[:, None])["audio_codes"]
        if group.is_row:
            audio_codes = audio_codes.reshape(1, 1, -1)
        whole = decode_whole(model, audio_codes)
        entries.append({"clips": group.name, "setting": None, **_to_recordings(whole, clips, pesq)})
        for setting in group.settings:
            audio = decode_in_pieces(model, audio_codes, setting)
            entries.append(
                {
                    "clips": group.name,
                    "setting": asdict(setting),
                    **_to_whole(audio, whole, setting, clips, model.config),
                    **_to_recordings(audio, clips, pesq),
                    **_cost(model, audio_codes[:1], setting, num_rounds),
                }
            )
            print(entries[-1], flush=True)
    return entries


def _to_whole(
    audio: torch.Tensor, whole: torch.Tensor, setting: Setting, clips: Sequence[Clip], config: WavTokenizerConfig
) -> dict[str, float]:
    """How far the pieces lie from the whole-clip decoding, (B, T) both."""
    chunk, lookahead = setting.chunk_frames * config.hop_length, setting.lookahead_frames * config.hop_length
    starts = torch.arange(chunk, audio.shape[-1] - lookahead, chunk)
    fade = min(setting.crossfade_frames, (setting.lookahead_frames + 1) // 2)
    pairs = list(zip(whole.reshape(len(clips), -1), audio.reshape(len(clips), -1), strict=True))
    return {
        "log_mel_l1": _mean(log_mel_l1(*pair, sampling_rate=config.sampling_rate) for pair in pairs),
        "snr_db": _mean(snr_db(*pair) for pair in pairs),
        # what the last frames of a window lack lies before the border, the fade after it
        "seam": significant(seam(audio, whole, starts, 2 * config.hop_length, (fade + 1) * config.hop_length)),
    }


def _to_recordings(audio: torch.Tensor, clips: Sequence[Clip], pesq: PESQ) -> dict[str, float]:
    """How far decoded audio (B, T) lies from the recordings, and of speech its PESQ."""
    rows = audio.reshape(len(clips), -1)
    rate = WavTokenizerFeatureExtractor().sampling_rate
    pairs = [Pair(clip.name, clip.samples, row, rate, clip.kind) for clip, row in zip(clips, rows, strict=True)]
    return {
        "log_mel_l1_to_recording": _mean(
            log_mel_l1(pair.reference, pair.estimate, sampling_rate=rate) for pair in pairs
        ),
        "pesq_wb": _mean(pesq.score(pair) for pair in pairs if pair.kind == "speech"),
    }


def _cost(model: WavTokenizerModel, audio_codes: torch.Tensor, setting: Setting, num_rounds: int) -> dict[str, Any]:
    """Latency, and the time that computing takes, of one clip (1, 1, L)."""
    first_window = audio_codes[..., : setting.chunk_frames + setting.lookahead_frames]
    times = in_rounds(
        {
            "whole clip": lambda: decode_whole(model, audio_codes),
            "in pieces": lambda: decode_in_pieces(model, audio_codes, setting),
            "first window": lambda: decode_whole(model, first_window),
        },
        num_rounds,
    )
    duration_s = audio_codes.shape[-1] / model.config.frame_rate
    ratios = [own / base for own, base in zip(times["in pieces"], times["whole clip"], strict=True)]
    return {
        "latency_s": significant(first_window.shape[-1] / model.config.frame_rate),
        "first_window_s": summary(times["first window"]),
        "real_time_factor": summary([seconds / duration_s for seconds in times["in pieces"]]),
        "ratio_to_whole_clip": summary(ratios),
    }


@dataclass(frozen=True)
class Way:
    """A way to decode a clip, whose speed is measured.

    Args:
        run: Decodes it, (1, T).
        start: Pushes codes until there is sound; `None` where all are needed.
        latency_s: Of the decoder; `None` where all codes are needed.
    """

    run: Callable[[], torch.Tensor]
    start: Callable[[], int] | None = None
    latency_s: float | None = None


def ways(model: WavTokenizerModel, audio_codes: torch.Tensor) -> dict[str, Way]:
    """The whole clip, a stream of single codes, and one of many at once."""

    def stream(num_pushed: int, **settings: int) -> Way:
        decoder = ChunkedDecoder(model, **settings)
        return Way(
            lambda: push_all(decoder, audio_codes, num_pushed),
            lambda: push_until_sound(decoder, audio_codes, num_pushed),
            decoder.latency_s,
        )

    found = {"whole clip": Way(lambda: decode_whole(model, audio_codes)), "code by code": stream(1)}
    if model.config.is_causal:
        return {**found, f"{CHUNK_FRAMES} codes at once": stream(CHUNK_FRAMES)}
    long = {name: value for name, value in asdict(LONG).items() if name != "crossfade_frames"}
    return {**found, "as decode_long": stream(LONG.chunk_frames, **long)}


def push_all(decoder: ChunkedDecoder, audio_codes: torch.Tensor, num_pushed: int) -> torch.Tensor:
    """(1, 1, L) -> (1, T), so many codes at a time."""
    decoder.reset()
    pieces = [decoder.push(codes) for codes in audio_codes.split(num_pushed, dim=-1)]
    return torch.cat([*pieces, decoder.flush()], dim=-1)[:, 0]


def push_until_sound(decoder: ChunkedDecoder, audio_codes: torch.Tensor, num_pushed: int) -> int:
    """How many codes it takes."""
    decoder.reset()
    num_codes = 0
    for codes in audio_codes.split(num_pushed, dim=-1):
        num_codes += codes.shape[-1]
        if decoder.push(codes).shape[-1]:
            return num_codes
    raise ValueError(f"{num_codes} codes gave no sound; take a longer clip")


@torch.inference_mode()
def measure_speed(name: str, model: WavTokenizerModel, audio_codes: torch.Tensor, num_rounds: int) -> list[dict]:
    """Every way of one model: real-time factor, time to the first sample, and how far it lies from the whole clip."""
    duration_s = audio_codes.shape[-1] / model.config.frame_rate
    candidates = ways(model, audio_codes)
    whole = candidates["whole clip"].run()  # and a first call of each, which is not timed
    errors = {way: _difference(candidate.run(), whole) for way, candidate in candidates.items()}
    times = in_rounds({way: candidate.run for way, candidate in candidates.items()}, num_rounds)
    starts = {way: candidate.start for way, candidate in candidates.items() if candidate.start is not None}
    start_times = in_rounds(starts, num_rounds)
    entries = []
    for way, candidate in candidates.items():
        ratios = [own / base for own, base in zip(times[way], times["whole clip"], strict=True)]
        entry = {
            "model": name,
            "way": way,
            "real_time_factor": summary([seconds / duration_s for seconds in times[way]]),
            "ratio_to_whole_clip": summary(ratios),
            **errors[way],
        }
        if candidate.start is not None and candidate.latency_s is not None:
            entry["latency_s"] = significant(candidate.latency_s)
            entry["first_sample"] = {"num_codes": candidate.start(), "computing_s": summary(start_times[way])}
        entries.append(entry)
        print(entry, flush=True)
    return entries


def _difference(audio: torch.Tensor, whole: torch.Tensor) -> dict[str, float | None]:
    ratio_db = snr_db(whole.flatten(), audio.flatten())
    return {
        "largest_difference": significant(float((audio - whole).abs().max())),
        "snr_db": significant(ratio_db) if math.isfinite(ratio_db) else None,  # JSON has no infinity
    }


def models() -> dict[str, tuple[str, WavTokenizerModel]]:
    """By name, with what to say of their weights."""
    nano = WavTokenizerModel.from_pretrained(bundled_checkpoint())
    fields = {name: getattr(nano.config, name) for name in _GEOMETRY}
    causal_nano = WavTokenizerModel(WavTokenizerCausalConfig(**fields))
    causal_nano.load_state_dict(nano.state_dict())
    released: dict[str, Any] = {"upsampling_ratios": list(RELEASED_75)}
    torch.manual_seed(0)
    return {
        DEFAULT: ("as released", nano),
        f"{DEFAULT}, causal": (f"those of {DEFAULT}, which sound like nothing here", causal_nano),
        "WavTokenizer 75": ("random", WavTokenizerModel(WavTokenizerConfig(**released))),
        "WavTokenizer 75, causal": ("random", WavTokenizerModel(WavTokenizerCausalConfig(**released))),
    }


_GEOMETRY = (
    "upsampling_ratios",
    "num_filters",
    "hidden_size",
    "codebook_size",
    "decoder_hidden_size",
    "decoder_intermediate_size",
    "decoder_num_layers",
    "decoder_attention_num_groups",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="recordings with a manifest")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "chunked_decoding.json")
    arguments = parser.parse_args()

    load = os.getloadavg()[0]
    torch.set_num_threads(arguments.threads)
    recordings = Recordings(arguments.data)
    clips = recordings.of_every_kind()
    groups = [
        Group("each clip", clips, False, STREAM_SETTINGS),
        Group("one speaker in a row", recordings.of_one_speaker(), True, LONG_SETTINGS),
        Group("all clips in a row", clips, True, LONG_SETTINGS),
    ]
    measured = {name: (weights, model.eval()) for name, (weights, model) in models().items()}
    nano = measured[DEFAULT][1]
    errors = measure_errors(nano, groups, arguments.rounds)
    with torch.inference_mode():
        row = torch.cat([clip.samples for clip in clips])[None, None, : round(SPEED_S * nano.config.sampling_rate)]
        audio_codes = nano.encode(row)["audio_codes"]
    speed = [
        entry
        for name, (_, model) in measured.items()
        for entry in measure_speed(name, model, audio_codes, arguments.rounds)
    ]
    result = {
        "question": __doc__.partition("\n")[0],
        **conditions(load),
        "settings": {
            "data": arguments.data.name,
            "clip_s": CLIP_S,
            "speed_s": SPEED_S,
            "rounds": arguments.rounds,
            "stream": asdict(STREAM),
            "long": asdict(LONG),
        },
        "clips": {group.name: [{"name": clip.name, "kind": clip.kind} for clip in group.clips] for group in groups},
        "models": {
            name: {
                "weights": weights,
                "decoder_hidden_size": model.config.decoder_hidden_size,
                "attention_window": getattr(model.config, "attention_window", None),
                "codes_per_second": model.config.frame_rate,
                "fingerprint": fingerprint(model),
            }
            for name, (weights, model) in measured.items()
        },
        "errors": errors,
        "speed": speed,
    }
    write_result(arguments.out, result)
    print(f"wrote {arguments.out}; `python -m benchmarks.table` puts it into the documents")


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return significant(sum(found) / len(found))


if __name__ == "__main__":
    main()
