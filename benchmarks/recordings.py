"""Real audio of any length, from recordings in a loop."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.record import REPOSITORY
from wavtokenizer_hf import WavTokenizerFeatureExtractor
from wavtokenizer_hf.audio.files import find_files

SAMPLING_RATE = 24000
DEFAULT_AUDIO = REPOSITORY / "tests" / "golden" / "audio"


def read_recordings(path: Path) -> np.ndarray:
    """The recordings below a path in a row, as float32 (T,) at 24 kHz."""
    feature_extractor = WavTokenizerFeatureExtractor()
    return np.concatenate(
        [
            np.asarray(feature_extractor(str(file.path), resample=True)["input_values"][0]).reshape(-1)
            for file in find_files([path])
        ]
    ).astype(np.float32)


def clips(audio: np.ndarray, seconds: float, batch_size: int = 1) -> torch.Tensor:
    """(T,) -> (batch_size, 1, seconds): the audio in a loop, cut into clips one after the other."""
    num_samples = round(seconds * SAMPLING_RATE)
    return torch.from_numpy(np.resize(audio, batch_size * num_samples)).view(batch_size, 1, num_samples)


def described(path: Path, audio: np.ndarray) -> str:
    """What to say of the audio in a result."""
    return f"{path.name}: {len(audio) / SAMPLING_RATE:.1f} s, looped"
