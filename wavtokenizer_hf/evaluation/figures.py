"""Pictures of a clip and of its codes, as PNG bytes.

Backgrounds are transparent and the ink is a mid grey, so that one picture reads on a light page and on a dark one. All
drawing goes through figure objects: pyplot's global state is neither read nor changed.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from wavtokenizer_hf.evaluation.signal import FLOOR, HOP_LENGTH, N_FFT, NUM_MELS, mel_spectrogram

INK = "#7b828c"
WAVE = "#3f88c5"
ACCENT = "#d97706"
DPI = 220
WIDTH_IN, TOP_IN, BOTTOM_IN = 4.6, 0.08, 0.44  # narrow, so that labels are legible on a phone
LEFT, RIGHT = 0.145, 0.84  # shares of the width; a colour bar stands to the right
FONT_SIZE = 10
DYNAMIC_RANGE_DB = 80.0
MAX_COLUMNS = 1200


def mel_spectrogram_db(samples: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Mel magnitudes in dB, as the log-mel distance sees them; silence is appended to a clip below 513 samples.

    Shape:
        samples (T,) -> (M, L)
    """
    missing = max(0, N_FFT // 2 + 1 - len(samples))
    audio = torch.from_numpy(np.pad(samples, (0, missing)).astype(np.float32))
    return 20 * mel_spectrogram(audio, sampling_rate).clamp(min=FLOOR).log10().numpy()


def waveform_png(samples: np.ndarray, sampling_rate: int, *, duration_s: float, peak: float) -> bytes:
    """The outline of a waveform: for each column of the picture the lowest and the highest sample in it.

    Args:
        duration_s: Right end of the time axis, the same for all clips of a page.
        peak: Largest magnitude on the vertical axis, the same for all clips of a page.
    """
    num_columns = min(MAX_COLUMNS, len(samples))
    starts = np.linspace(0, len(samples), num_columns, endpoint=False).astype(int)
    figure, axes = _new_figure(height_in=1.4)
    times_s = starts / sampling_rate
    axes.fill_between(
        times_s,
        np.minimum.reduceat(samples, starts),
        np.maximum.reduceat(samples, starts),
        color=WAVE,
        linewidth=0.7,
    )
    axes.axhline(0, color=INK, linewidth=0.5)
    limit = 1.05 * peak if peak > 0 else 1.0
    axes.set_ylim(-limit, limit)
    axes.set_ylabel("amplitude", color=INK)
    _time_axis(axes, duration_s)
    return _png(figure)


def spectrogram_png(spectrogram_db: np.ndarray, sampling_rate: int, *, duration_s: float, loudest_db: float) -> bytes:
    """A mel spectrogram in dB below the loudest cell of the page, with its colour bar.

    Args:
        spectrogram_db: What `mel_spectrogram_db` returns.
        duration_s: Right end of the time axis, the same for all clips of a page.
        loudest_db: What counts as 0 dB, the same for all clips of a page.
    """
    figure, axes = _new_figure(height_in=2.1)
    num_frames = spectrogram_db.shape[1]
    half_hop_s = HOP_LENGTH / sampling_rate / 2
    image = axes.imshow(
        spectrogram_db - loudest_db,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-DYNAMIC_RANGE_DB,
        vmax=0,
        extent=(-half_hop_s, (2 * num_frames - 1) * half_hop_s, 0, NUM_MELS),
    )
    # the filters lie evenly on the mel scale, filter 0 centred one step above 0 Hz
    top_mel = _hz_to_mel(sampling_rate / 2)
    ticks_hz = [hz for hz in (250, 500, 1000, 2000, 4000, 8000, 16000) if hz < sampling_rate / 2]
    axes.set_yticks([_hz_to_mel(hz) / top_mel * (NUM_MELS + 1) - 0.5 for hz in ticks_hz])
    axes.set_yticklabels([f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in ticks_hz])
    axes.set_ylabel("Hz (mel scale)", color=INK)
    _time_axis(axes, duration_s)
    beside = axes.get_position()
    bar_axes = figure.add_axes((RIGHT + 0.015, beside.y0, 0.025, beside.height))
    bar = figure.colorbar(image, cax=bar_axes, ticks=[-80, -60, -40, -20, 0])
    bar.set_label("dB", color=INK, labelpad=2)
    bar.ax.tick_params(colors=INK, labelsize=FONT_SIZE - 1)
    bar.outline.set_edgecolor(INK)
    return _png(figure)


def codes_png(audio_codes: np.ndarray, codebook_size: int, frame_rate: float) -> bytes:
    """Which code stands at which time: one dot per code.

    Args:
        audio_codes: (L,)
    """
    figure, axes = _new_figure(height_in=2.1)
    num_codes = len(audio_codes)
    axes.scatter(
        (np.arange(num_codes) + 0.5) / frame_rate,
        audio_codes,
        s=float(np.clip(4000 / num_codes, 1.5, 14.0)),
        color=ACCENT,
        linewidths=0,
    )
    axes.set_ylim(-0.02 * codebook_size, 1.02 * codebook_size)
    axes.set_ylabel("code", color=INK)
    _time_axis(axes, num_codes / frame_rate)
    return _png(figure)


def code_usage_png(audio_codes: np.ndarray, codebook_size: int) -> bytes:
    """How often the codes of each sixty-fourth of the codebook occur.

    Args:
        audio_codes: (L,)
    """
    figure, axes = _new_figure(height_in=2.1)
    edges = np.linspace(0, codebook_size, min(64, codebook_size) + 1)
    counts, _ = np.histogram(audio_codes, bins=edges)
    axes.bar(edges[:-1], counts, width=0.9 * np.diff(edges), align="edge", color=ACCENT)
    axes.set_xlim(0, codebook_size)
    axes.set_xlabel("code", color=INK)
    axes.set_ylabel("times used", color=INK)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    return _png(figure)


def curve_png(steps: Sequence[int], values: Sequence[float], *, label: str) -> bytes:
    """How a figure of a run went, over its steps."""
    figure, axes = _new_figure(height_in=1.7)
    axes.plot(steps, values, color=WAVE, linewidth=1.0, marker="." if len(steps) < 40 else None)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("step", color=INK)
    axes.set_ylabel(label, color=INK)
    return _png(figure)


def _new_figure(height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI)
    figure.patch.set_alpha(0)
    # the same margins in every picture, so that time axes lie under one another
    axes = figure.add_axes((LEFT, BOTTOM_IN / height_in, RIGHT - LEFT, 1 - (BOTTOM_IN + TOP_IN) / height_in))
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=FONT_SIZE - 1)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def _time_axis(axes: Axes, duration_s: float) -> None:
    axes.set_xlim(0, duration_s)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if duration_s < 0.5:
        unit = "ms"
        axes.xaxis.set_major_formatter(FuncFormatter(lambda second, _: f"{1000 * second:.4g}"))
    elif duration_s < 120:
        unit = "s"
    else:
        unit = "min:s"
        axes.xaxis.set_major_formatter(FuncFormatter(lambda second, _: f"{second // 60:.0f}:{second % 60:02.0f}"))
    axes.set_xlabel(f"time ({unit})", color=INK)


def _hz_to_mel(frequency_hz: float) -> float:
    return 2595 * np.log10(1 + frequency_hz / 700)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
