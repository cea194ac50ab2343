"""Keeping what a codec made of each clip."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from wavtokenizer_hf.audio.files import write_audio
from wavtokenizer_hf.evaluation.evaluate import ClipResult
from wavtokenizer_hf.evaluation.pair import Pair


class SavedAudio:
    """Writes the estimate of each clip as FLAC, called as the clip would be; for `on_clip` of `evaluate`.

    Clips that differ in their suffix alone keep it (`a.wav.flac`, `a.mp3.flac`).

    Args:
        folder: Made when the first clip is written.
        names: Of all clips, in order. Whatever they are, files stay inside `folder`.
    """

    def __init__(self, folder: Path, names: Sequence[str]):
        inside = [PurePath(*(part for part in PurePath(name).parts if part not in ("..", "/"))) for name in names]
        counts = Counter(path.with_suffix("") for path in inside)
        self.paths = [
            folder / (path.with_suffix(".flac") if counts[path.with_suffix("")] == 1 else f"{path}.flac")
            for path in inside
        ]
        self.clipped: list[Path] = []

    def __call__(self, clip: ClipResult, pair: Pair | None) -> None:
        if pair is not None:
            path = self.paths[clip.index]
            path.parent.mkdir(parents=True, exist_ok=True)
            if write_audio(path, pair.estimate.numpy(), pair.sampling_rate):
                self.clipped.append(path)
