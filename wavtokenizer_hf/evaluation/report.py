"""One self-contained HTML page: what went in, what came out, the codes between, and how far apart the two are.

A page is a list of `Section`s, and a section a list of parts (`Facts`, `Pictures`, `Players`, `Table`, `Text`);
`write_page` turns any such list into one file that needs no network. `write_report` composes the page of one clip.
"""

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from wavtokenizer_hf.audio.atomic import replacing
from wavtokenizer_hf.audio.codebook_use import codebook_use
from wavtokenizer_hf.audio.files import write_audio
from wavtokenizer_hf.audio.templates import find_template
from wavtokenizer_hf.codecs.spec import CodecSpec
from wavtokenizer_hf.evaluation.figures import (
    code_usage_png,
    codes_png,
    mel_spectrogram_db,
    spectrogram_png,
    waveform_png,
)
from wavtokenizer_hf.evaluation.signal import SignalDistances, signal_distances
from wavtokenizer_hf.evaluation.tone import FrameTone, tone_warning
from wavtokenizer_hf.evaluation.waveform import Level

# About the mel magnitude of 16-bit dither. Silence would otherwise be drawn at full brightness.
QUIETEST_PEAK_DB = -60.0


@dataclass(frozen=True)
class Facts:
    """A row of figures, each with its label and, where it needs one, a note."""

    kind: ClassVar[str] = "facts"
    items: Sequence[tuple[str, str, str]]  # label, value, note


@dataclass(frozen=True)
class Picture:
    png: bytes
    title: str
    description: str  # for those who cannot see it

    @property
    def source(self) -> str:
        return _data_uri(self.png, "image/png")


@dataclass(frozen=True)
class Player:
    title: str
    source: str  # a data URI (see `embedded_audio`) or a path relative to the page


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side, one below the other where the screen is narrow."""

    kind: ClassVar[str] = "pictures"
    items: Sequence[Picture]


@dataclass(frozen=True)
class Players:
    """Audio players side by side, one below the other where the screen is narrow."""

    kind: ClassVar[str] = "players"
    items: Sequence[Player]


@dataclass(frozen=True)
class Table:
    kind: ClassVar[str] = "table"
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Text:
    """Preformatted text, folded away behind its title."""

    kind: ClassVar[str] = "text"
    title: str
    text: str


@dataclass(frozen=True)
class Section:
    title: str
    parts: Sequence[Facts | Pictures | Players | Table | Text]
    introduction: str = ""


def embedded_audio(samples: np.ndarray, sampling_rate: int) -> str:
    """A clip as a FLAC data URI, for a `Player`.

    Args:
        samples: (T,) in [-1, 1]; what lies beyond is clipped, as on any player.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.flac"
        write_audio(path, samples, sampling_rate)
        return _data_uri(path.read_bytes(), "audio/flac")


def write_page(directory: Path, *, title: str, subtitle: str, sections: Sequence[Section]) -> Path:
    """Writes `directory/index.html` and returns its path. The directory is made; an earlier page is replaced whole."""
    page = find_template("report.html.j2", __package__).render(title=title, subtitle=subtitle, sections=sections)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "index.html"
    with replacing(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return path


def write_report(
    directory: Path,
    *,
    original: np.ndarray,
    reconstruction: np.ndarray,
    sampling_rate: int,
    audio_codes: np.ndarray,
    spec: CodecSpec,
    title: str,
    source: str,
) -> Path:
    """Writes the page of one clip and its reconstruction.

    Args:
        directory: Made where it is missing; its `index.html` is replaced.
        original: What the model was given: (T,), or more axes of length 1 before it, in [-1, 1].
        reconstruction: What the model gave back, in the same form.
        sampling_rate: Rate of both in Hz.
        audio_codes: (Q, L), one clip's codes of each codebook.
        spec: Of the codec that made them.
        title: Heading of the page.
        source: Where the clip and the model come from, in one line.

    Returns:
        Path of the page.

    Raises:
        ValueError: A clip or the codes are empty, hold more than one clip, or hold what cannot be (NaN, a code outside
            the codebook).
    """
    original = _one_clip("original", original)
    reconstruction = _one_clip("reconstruction", reconstruction)
    codes = spec.flatten(_frames(audio_codes, spec))
    distances = signal_distances(
        torch.from_numpy(original),
        torch.from_numpy(reconstruction),
        sampling_rate=sampling_rate,
        frame_rate=spec.frame_rate,
    )
    sections = [
        Section("Overview", [_overview(original, sampling_rate, codes, spec)]),
        Section(
            "Listen and look",
            clip_parts({"Original": original, "Reconstruction": reconstruction}, sampling_rate),
            "Both clips on the same scales; 0 dB is the loudest point of the two.",
        ),
        Section("Distance", [_distance_table(distances)], _about(distances)),
        Section("Codes", _code_parts(codes, spec, len(original) / sampling_rate)),
    ]
    return write_page(directory, title=title, subtitle=source, sections=sections)


def _overview(original: np.ndarray, sampling_rate: int, codes: np.ndarray, spec: CodecSpec) -> Facts:
    duration_s = len(original) / sampling_rate
    bitrate_kbps = spec.bitrate_kbps or len(codes) * spec.bits_per_frame / spec.num_codebooks / duration_s / 1000
    counts = torch.bincount(torch.from_numpy(codes), minlength=spec.num_entries)
    pcm_kbps = sampling_rate * 16 / 1000
    return Facts(
        [
            (
                "Duration",
                f"{duration_s:.2f} s",
                f"samples: {len(original):,} at {sampling_rate:,} Hz",
            ),
            (
                "Bitrate",
                f"{bitrate_kbps:.3g} kbps",
                f"16-bit PCM takes {pcm_kbps / bitrate_kbps:.0f} times as much",
            ),
            (
                "Codes per second",
                f"{spec.codes_per_second or len(codes) / duration_s:.4g}",
                f"{spec.bits_per_frame / spec.num_codebooks:g} bits each",
            ),
            ("Codes", f"{len(codes):,}", "for the whole clip"),
            ("Codes in use", f"{int((counts > 0).sum()):,}", f"different ones, of {spec.num_entries:,}"),
            (
                "Entropy",
                f"{codebook_use(counts).entropy_bits:.2f} bits",
                "per code, from how often each occurs in this clip",
            ),
        ]
    )


def clip_parts(clips: dict[str, np.ndarray], sampling_rate: int) -> list[Players | Pictures]:
    """Players, waveforms and spectrograms of clips (T,) that belong together, by name, all on the same scales."""
    duration_s = max(len(clip) for clip in clips.values()) / sampling_rate
    peak = max(float(np.abs(clip).max()) for clip in clips.values())
    spectrograms = {name: mel_spectrogram_db(clip, sampling_rate) for name, clip in clips.items()}
    loudest_db = max(QUIETEST_PEAK_DB, *(float(spectrogram.max()) for spectrogram in spectrograms.values()))
    return [
        Players([Player(name, embedded_audio(clip, sampling_rate)) for name, clip in clips.items()]),
        Pictures(
            [
                Picture(
                    waveform_png(clip, sampling_rate, duration_s=duration_s, peak=peak),
                    f"{name}: waveform",
                    f"Waveform of the {name.lower()}, {len(clip) / sampling_rate:.2f} seconds",
                )
                for name, clip in clips.items()
            ]
        ),
        Pictures(
            [
                Picture(
                    spectrogram_png(spectrogram, sampling_rate, duration_s=duration_s, loudest_db=loudest_db),
                    f"{name}: mel spectrogram",
                    f"Mel spectrogram of the {name.lower()} in dB below the loudest point of both clips",
                )
                for name, spectrogram in spectrograms.items()
            ]
        ),
    ]


def _about(distances: SignalDistances) -> str:
    return f"Measured between the two clips above. {tone_warning(distances.frame_tone_db)}".rstrip()


def _distance_table(distances: SignalDistances) -> Table:
    def cell(name: str, form: str) -> str:
        value = getattr(distances, name)
        return f"not defined: {distances.skipped[name]}" if value is None else format(value, form)

    return Table(
        ("Measure", "Value", "Better", "What it says"),
        (
            (
                "log-mel L1",
                cell("log_mel_l1", ".4f"),
                "lower",
                "Mean difference of the two log-mel spectrograms: loudness and timbre, deaf to phase.",
            ),
            (
                "SI-SDR (dB)",
                cell("si_sdr_db", ".2f"),
                "higher",
                "How much of the reconstruction is a scaled copy of the original, sample by sample. A codec that draws"
                " its own phase scores low here however well it sounds.",
            ),
            (
                "SNR (dB)",
                cell("snr_db", ".2f"),
                "higher",
                "Energy of the original over the energy of the difference; like SI-SDR, but a change of level counts.",
            ),
            (f"{Level.label} (dB)", cell("level_db", ".2f"), "nearer to 0", Level.meaning),
            (f"{FrameTone.label} (dB)", cell("frame_tone_db", ".2f"), "lower", FrameTone.meaning),
        ),
    )


def _code_parts(codes: np.ndarray, spec: CodecSpec, duration_s: float) -> list[Pictures | Text]:
    return [
        Pictures(
            [
                Picture(
                    codes_png(codes, spec.num_entries, spec.codes_per_second or len(codes) / duration_s),
                    "Codes over time",
                    f"{len(codes)} codes over time, one dot each",
                ),
                Picture(
                    code_usage_png(codes, spec.num_entries),
                    "Use of the codebook",
                    f"Histogram of {len(codes)} codes over a codebook of {spec.num_entries}",
                ),
            ]
        ),
        Text("The codes as text", " ".join(map(str, codes.tolist()))),
    ]


def _one_clip(name: str, samples: np.ndarray) -> np.ndarray:
    clip = _one_row(name, samples)
    if not np.issubdtype(clip.dtype, np.floating):
        raise ValueError(f"{name} must hold floating-point samples in [-1, 1], got {clip.dtype}.")
    return clip.astype(np.float32, copy=False)


def _frames(audio_codes: np.ndarray, spec: CodecSpec) -> np.ndarray:
    """Codes (Q, L) that are what the codec may have made."""
    codes = np.asarray(audio_codes)
    codes = codes.reshape(-1, codes.shape[-1]) if codes.size else codes
    if codes.ndim != 2 or len(codes) != spec.num_codebooks or not codes.size:
        raise ValueError(f"audio_codes must hold one clip, ({spec.num_codebooks}, L), got shape {codes.shape}.")
    for line, size in zip(codes, spec.codebook_sizes, strict=True):
        if line.min() < 0 or line.max() >= size:
            raise ValueError(
                f"Codes must lie in 0..{size - 1}, got {line.min()}..{line.max()}. Pass the spec of the codec that "
                "made them."
            )
    return codes.astype(np.int64)


def _one_row(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim == 0 or values.size == 0 or values.size != values.shape[-1]:
        raise ValueError(f"{name} must hold one clip, (..., T) with T >= 1, got shape {values.shape}.")
    return values.reshape(-1)


def _data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
