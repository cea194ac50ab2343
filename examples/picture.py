"""One picture of a recording and of what a codec makes of it: two spectrograms, and the codes between them.

Harmonics that run through the reconstruction say that pitch is kept; level lines at multiples of the rate of the
codes, drawn as ticks on the right, say that it hums.

    python -m examples.picture speech.flac --out picture.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wavtokenizer_hf.audio.atomic import replacing
from wavtokenizer_hf.checkpoints import DEFAULT
from wavtokenizer_hf.codecs.loading import load_codec

_WINDOW_S = 0.04  # some ten periods of a low voice, so that harmonics lie apart
_RANGE_DB = 70.0


def spectrogram_db(samples: torch.Tensor, sampling_rate: int) -> np.ndarray:
    """Magnitudes (F, L) in dB of samples (T,), frames a quarter of a window apart."""
    length = round(_WINDOW_S * sampling_rate / 4) * 4
    spectrum = torch.stft(samples, length, length // 4, window=torch.hann_window(length), return_complex=True)
    return 20 * spectrum.abs().clamp(min=1e-6).log10().numpy()


def draw(
    original: torch.Tensor,
    reconstruction: torch.Tensor,
    entries: np.ndarray,
    sampling_rate: int,
    *,
    frame_rate: float | None,
    title: str,
    highest_hz: float,
) -> Figure:
    """The picture.

    Args:
        original: (T,)
        reconstruction: (T,)
        entries: The codes (N,), flattened where there are several codebooks.
        frame_rate: Of the codes in Hz; `None` draws no ticks.
    """
    duration_s = len(original) / sampling_rate
    figure = Figure(figsize=(9, 7), dpi=150, layout="constrained")
    rows: Sequence[Axes] = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.2, 3))
    spectrograms = [spectrogram_db(clip, sampling_rate) for clip in (original, reconstruction)]
    loudest_db = max(float(values.max()) for values in spectrograms)
    for axes, values, name in zip((rows[0], rows[2]), spectrograms, ("recording", "reconstruction"), strict=True):
        axes.imshow(
            values,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=loudest_db - _RANGE_DB,
            vmax=loudest_db,
            extent=(0, duration_s, 0, sampling_rate / 2),
        )
        axes.set_ylim(0, highest_hz)
        axes.set_ylabel(f"{name}, Hz")
    if frame_rate is not None:
        ticks = rows[2].secondary_yaxis("right")
        ticks.set_yticks(np.arange(frame_rate, highest_hz, frame_rate), labels=[])
        ticks.set_ylabel(f"multiples of {frame_rate:g} Hz")
    rows[1].scatter((np.arange(len(entries)) + 0.5) / len(entries) * duration_s, entries, s=4, color="#d97706")
    rows[1].set_ylabel("codes")
    rows[2].set_xlabel("seconds")
    figure.suptitle(title)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--model", default=DEFAULT, help="a folder, a Hub id, or the checkpoint of the package")
    parser.add_argument("--out", type=Path, default=Path("picture.png"))
    parser.add_argument("--highest-hz", type=float, default=5000.0)
    told = parser.parse_args(arguments)
    codec = load_codec(told.model)
    clip = codec.feature_extractor(told.recording, resample=True, return_tensors="pt")["input_values"]
    with torch.inference_mode():
        codes = codec.encode(clip)
        audio_values = codec.decode(codes.audio_codes, codes.mask, clip.shape[-1])
    entries = codec.spec.flatten(codes.of_clip(0).numpy())
    rate = f", {len(entries) / (clip.shape[-1] / codec.spec.sampling_rate):.4g} codes a second"
    figure = draw(
        clip[0, 0],
        audio_values[0, 0],
        entries,
        codec.spec.sampling_rate,
        frame_rate=codec.spec.frame_rate,
        title=f"{told.recording.name} through {codec.name}{rate}",
        highest_hz=min(told.highest_hz, codec.spec.sampling_rate / 2),
    )
    with replacing(told.out) as unfinished:
        figure.savefig(unfinished, format="png")
    print(f"{told.out}: {told.recording.name} and its reconstruction")


if __name__ == "__main__":
    main()
