"""The numbers by which codes are told from those of another codec, and what follows from them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_STORED = ("name", "fingerprint", "sampling_rate", "hop_length")


@dataclasses.dataclass(frozen=True)
class CodecSpec:
    """What a codec is, as files of codes, corpora, vocabularies, results and model cards tell it.

    Args:
        sampling_rate: In Hz.
        hop_length: Samples per frame of codes; `None` where the number of frames does not follow from the length.
        codebook_sizes: Entries of each codebook. A frame has one code of each.
        model_type: As in `config.json`; empty if unknown.
        fingerprint: Of the checkpoint, which tells what its codes mean; empty if unknown.
        name: For people; empty if unknown.

    Raises:
        ValueError: If a number is below 1, or there is no codebook.
    """

    sampling_rate: int
    hop_length: int | None
    codebook_sizes: tuple[int, ...]
    model_type: str = dataclasses.field(default="", compare=False)
    fingerprint: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "codebook_sizes", tuple(self.codebook_sizes))
        numbers = {"sampling_rate": self.sampling_rate, "number of codebooks": len(self.codebook_sizes)}
        numbers |= {} if self.hop_length is None else {"hop_length": self.hop_length}
        numbers |= {f"size of codebook {place}": size for place, size in enumerate(self.codebook_sizes)}
        for name, number in numbers.items():
            if number < 1:
                raise ValueError(f"a codec's {name} must be 1 or more, got {number}")

    @property
    def num_codebooks(self) -> int:
        return len(self.codebook_sizes)

    @property
    def num_entries(self) -> int:
        """Of all codebooks together."""
        return sum(self.codebook_sizes)

    @property
    def frame_rate(self) -> float | None:
        """Frames of codes per second; `None` where it depends on the recording."""
        return None if self.hop_length is None else self.sampling_rate / self.hop_length

    @property
    def bits_per_frame(self) -> float:
        """Of its codes, before any entropy coding."""
        return sum(math.log2(size) for size in self.codebook_sizes)

    @property
    def bitrate_kbps(self) -> float | None:
        """Thousands of bits per second; `None` where it depends on the recording."""
        return None if self.frame_rate is None else self.frame_rate * self.bits_per_frame / 1000

    @property
    def codes_per_second(self) -> float | None:
        """Of all codebooks; `None` where it depends on the recording."""
        return None if self.frame_rate is None else self.frame_rate * self.num_codebooks

    def facts(self) -> dict[str, Any]:
        """For people and for results, with units in the names."""
        several = self.num_codebooks > 1
        return {
            "name": self.name,
            "fingerprint": self.fingerprint or None,
            "sampling_rate_hz": self.sampling_rate,
            "hop_length": self.hop_length,
            "codes_per_second": self.codes_per_second,
            "codebook_size": list(self.codebook_sizes) if several else self.codebook_sizes[0],
            "bitrate_kbps": None if self.bitrate_kbps is None else round(self.bitrate_kbps, 4),
        }

    def num_frames(self, num_samples: int) -> int | None:
        """Frames of codes of a clip of so many samples; `None` where only encoding tells."""
        return None if self.hop_length is None else -(-num_samples // self.hop_length)

    def flatten(self, audio_codes: np.ndarray) -> np.ndarray:
        """Codes (Q, L) as one sequence (L * Q,) of numbers below `num_entries`; see `codec_files.flatten_codes`.

        One codebook's codes stay as they are.
        """
        from wavtokenizer_hf.codec_files import flatten_codes  # heavy: torch

        return flatten_codes(audio_codes, self.codebook_sizes)

    def unflatten(self, numbers: np.ndarray) -> np.ndarray:
        """The codes (Q, L) of what `flatten` made; see `codec_files.unflatten_codes`."""
        from wavtokenizer_hf.codec_files import unflatten_codes

        return unflatten_codes(numbers, self.codebook_sizes)

    def check_fits(self, made_with: "CodecSpec", what: str) -> None:
        """Refuses codes that another kind of codec made.

        Args:
            made_with: What is known of the codec that made them.
            what: Holds them, for the message.

        Raises:
            ValueError: If rates, hop lengths or codebooks differ.
        """
        for name in ("sampling_rate", "hop_length", "codebook_sizes"):
            theirs: Any = getattr(made_with, name)
            ours: Any = getattr(self, name)
            if theirs != ours:
                if name == "codebook_sizes" and len(theirs) == len(ours) == 1:
                    name, theirs, ours = "codebook_size", theirs[0], ours[0]
                raise ValueError(
                    f"{what} was made with {name} {theirs}, and {self.name or 'the model'} has {ours}: decode it with "
                    f"the model that made it ({made_with.name or 'unknown'})"
                )

    def to_stored(self) -> dict[str, Any]:
        """As manifests keep it; one codebook is told by `codebook_size`, several by `codebook_sizes`."""
        stored = {name: getattr(self, name) for name in _STORED}
        if self.num_codebooks == 1:
            return stored | {"codebook_size": self.codebook_sizes[0]}
        return stored | {"codebook_sizes": list(self.codebook_sizes)}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> "CodecSpec":
        """What `to_stored` made.

        Raises:
            KeyError, TypeError, ValueError: If it is something else.
        """
        sizes = stored["codebook_sizes"] if "codebook_sizes" in stored else [stored["codebook_size"]]
        return cls(codebook_sizes=tuple(sizes), **{name: stored[name] for name in _STORED})
