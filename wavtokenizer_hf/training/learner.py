"""How a codebook learns: what every learner has in common, and which there are."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch

from wavtokenizer_hf.codecs.registry import Registry


@dataclasses.dataclass(frozen=True)
class CodebookConfig:
    """How the codebook learns.

    Args:
        learner: `"ema"`: entries follow the mean of the latents that chose them.
        decay: Share of the old value that a moving average keeps per update.
        epsilon: Laplace smoothing of the counts.
        kmeans_iterations: At most so many iterations of the k-means start; it ends early when nothing moves any more.
        kmeans_vectors_per_entry: Latents gathered for the k-means start, per entry.
        revival_share: An entry is revived when its moving count falls below this share of the mean count. It is a
            share, so it means the same at any batch size and codebook size; 0 turns revival off.
        seed: Of the draws of k-means and revival.
        legacy: Reproduce the original's arithmetic: entries expire below a fixed count of 2, and their replacement is
            overwritten by the moving averages within the same update, so that it has no effect. The learner is then
            `"ema_legacy"`.
    """

    learner: str = "ema"
    decay: float = 0.99
    epsilon: float = 1e-5
    kmeans_iterations: int = 200
    kmeans_vectors_per_entry: int = 40
    revival_share: float = 0.05
    seed: int = 0
    legacy: bool = False

    def __post_init__(self):
        if not 0 < self.decay < 1:
            raise ValueError(f"`decay` must lie between 0 and 1, got {self.decay}.")
        if not 0 <= self.revival_share < 1:
            raise ValueError(f"`revival_share` must lie from 0 to below 1, got {self.revival_share}.")
        if self.kmeans_iterations < 1 or self.kmeans_vectors_per_entry < 1:
            raise ValueError(
                "`kmeans_iterations` and `kmeans_vectors_per_entry` must be at least 1, got "
                f"{self.kmeans_iterations} and {self.kmeans_vectors_per_entry}."
            )


class Reconstruction(NamedTuple):
    """What the codec makes of a batch in training.

    Args:
        audio_values: (B, T), T a whole number of hops.
        encoder_latents: (B, D, L), before quantization.
        audio_codes: int64 (B, L); (B, 0) without quantizer.
        quantized_latents: (B, D, L), the entries of the codes; without quantizer the latents.
        commitment: What `QuantizerLearner.quantize` says of the distance of the two, a scalar.
        num_bypassed: The decoder heard the latents themselves of so many first clips.
        quantizer_losses: Those of the learner, by name.
    """

    audio_values: torch.Tensor
    encoder_latents: torch.Tensor
    audio_codes: torch.Tensor
    quantized_latents: torch.Tensor
    commitment: torch.Tensor
    num_bypassed: int
    quantizer_losses: Mapping[str, "QuantizerLoss"]


class QuantizerLoss(NamedTuple):
    """A loss that a learner asks for.

    Args:
        weight: The default of its weight.
        of: What it is of a reconstruction, a scalar.
    """

    weight: float
    of: Callable[[Reconstruction], torch.Tensor]


class QuantizerLearner(abc.ABC):
    """Teaches a codebook, where gradients alone do not.

    Per batch: `observe` each part of it, then `update` once. What it draws depends on the seed and the step alone, and
    it has no state but that of the codebook, so that a run that goes on needs no other. Without `start`, `observe` and
    `update` of its own, a learner is one of a quantizer that has nothing to be moved, or gradients only.

    Args:
        codebook: The model's own, whose state is moved in place.
        config: Its settings.
    """

    name: ClassVar[str]
    losses: ClassVar[Mapping[str, QuantizerLoss]] = {}

    def __init__(self, codebook: Any, config: CodebookConfig):
        self.codebook = codebook
        self.config = config

    @staticmethod
    @abc.abstractmethod
    def quantize(codebook: Any, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The training forward of the quantizer, without a side effect.

        Args:
            latents: (B, D, L), the encoder's output.

        Returns:
            Codes int64 (B, L); quantized latents float32 (B, D, L) through which gradients reach the latents; a scalar
            that tells how far the two are apart, for the losses.
        """

    @property
    def is_started(self) -> bool:
        """Whether the entries were set."""
        return True

    @property
    def num_vectors_to_start(self) -> int:
        """Latents that `start` wants, over all processes together."""
        return 0

    def start(self, vectors: torch.Tensor, vectors_per_update: int) -> None:  # noqa: B027
        """Sets the entries from this process' share of latents (N, D), where `is_started` is false."""

    def observe(self, latents: torch.Tensor, codes: torch.Tensor) -> None:  # noqa: B027
        """Adds a part of a batch, latents (B, D, L) and the codes (B, L) that they chose, to the coming update."""

    def update(self, step: int) -> dict[str, float]:
        """Moves the entries by what was observed since the last update; figures to log, by name."""
        return {}


learners: Registry[QuantizerLearner] = Registry(
    "codebook.learner",
    {
        "ema": "wavtokenizer_hf.training.codebook:CodebookLearner",
        "ema_legacy": "wavtokenizer_hf.training.legacy:LegacyCodebookLearner",
    },
)
