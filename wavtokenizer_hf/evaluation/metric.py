"""What a metric is: one class per metric, all with these few attributes and three methods."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch

from wavtokenizer_hf.evaluation.pair import Pair

# A number, or what a number for any set of clips can be made of: counts, sums, codes.
Score: TypeAlias = Any

SPEECH = ("speech",)
VOICE = ("speech", "singing")


class Metric(ABC):
    """One way to measure.

    A metric scores pairs one at a time and then pools any number of scores into one value. For most, a score is a
    number and pooling is the mean. Those that belong to a whole set (codebook usage, word error rate) score a clip by
    what they count there, and pool the counts.

    Attributes:
        name: Key in results and on the command line.
        label: For people.
        unit: Empty for a plain number.
        direction: Which is better; `"zero"` is the value nearest to 0.
        meaning: What it hears, in one sentence.
        sampling_rate: Rate in Hz at which it takes audio; `None` is the pair's own.
        kinds: What it is meant for; `None` is everything. Clips of unknown kind are scored in any case.
        extra: The package's extra that it needs.
        needs_codes: Whether a pair must bring what the codec made on the way.
        needs_frame_rate: Whether a pair must say at which rate its codec works.
        default_model: Hub id of the model that it needs.
        model: That, or the one that was given in its place.
        has_interval: Whether resampling clips gives a fair interval. It does not where the value grows with the number
            of different clips.
        decimals: With how many the value is shown.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    meaning: ClassVar[str]
    direction: ClassVar[Literal["higher", "lower", "zero", "neither"]]
    unit: ClassVar[str] = ""
    sampling_rate: int | None = None  # a model may have its own
    kinds: ClassVar[tuple[str, ...] | None] = None
    extra: ClassVar[str | None] = None
    needs_codes: ClassVar[bool] = False
    needs_frame_rate: ClassVar[bool] = False
    has_interval: ClassVar[bool] = True
    decimals: ClassVar[int] = 3
    default_model: ClassVar[str | None] = None

    def __init__(self, model: str | None = None):
        self.model = model or self.default_model

    def prepare(self, device: torch.device) -> None:  # noqa: B027 (most metrics need nothing)
        """Loads what it needs, before the first clip.

        Args:
            device: Where a model of the metric is to compute.

        Raises:
            ImportError: If a package is missing; the message names the extra.
            OSError: If a model cannot be had.
        """

    @abstractmethod
    def score(self, pair: Pair) -> Score:
        """Scores one pair.

        Raises:
            ValueError: If the metric is not defined for this pair; the message says why.
        """

    def pool(self, scores: Sequence[Score]) -> float:
        """The value of the clips with these scores, one or more."""
        return float(np.mean(scores))


def import_extra(package: str, extra: str) -> ModuleType:
    """Imports an optional package; where it does not load, says which extra has it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{package} does not load ({error}). Install it with: pip install 'wavtokenizer-hf[{extra}]'"
        ) from error
