"""What a run teaches: what every objective has in common, and which there are."""

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from accelerate import Accelerator
from transformers import PreTrainedConfig

from wavtokenizer_hf.codecs.registry import Registry

if TYPE_CHECKING:
    from wavtokenizer_hf.training.config import TrainingConfig
    from wavtokenizer_hf.training.data_plan import DataPlan
    from wavtokenizer_hf.training.validation import Validation

Losses = dict[str, torch.Tensor]
Batch = Mapping[str, torch.Tensor]


class Objective(abc.ABC):
    """The model of a run, what it learns from, and the arithmetic of a step. How a run goes is the trainer's.

    What is random in a step may draw from torch's generator, which is seeded before each, and from nothing else that
    outlives the step, so that a run which was killed goes on as if it had not been.

    Args:
        config: Of the run.
        accelerator: Knows devices, precision and processes.
        source: A folder or id to start from; `None` for random weights.

    Attributes:
        name: What a configuration calls it.
        weights: Its losses, as they are logged, and the defaults of their weights.
        shown: Losses that stand beside the progress, by what they are called there.
        model: What is trained and kept. `config` tells its `sampling_rate` and `hop_length`, of which a crop has whole
            multiples; in `eval()` it is what a user of it hears.
        modules: What `prepare` gave to the accelerator, by name and in that order; its state is part of a checkpoint.
        optimizers: Theirs, by the same names.
        schedules: Of their learning rates.

    Raises:
        FileNotFoundError: If the source is missing.
        ValueError: If configuration and source do not go together.
    """

    name: ClassVar[str]
    weights: ClassVar[Mapping[str, float]]
    shown: ClassVar[Mapping[str, str]] = {}
    model: Any

    def __init__(self, config: "TrainingConfig", accelerator: Accelerator, source: str | None):
        self.config = config
        self.accelerator = accelerator
        self.modules: dict[str, Any] = {}
        self.optimizers: dict[str, Any] = {}
        self.schedules: dict[str, Any] = {}

    @classmethod  # noqa: B027 (most take any)
    def check(cls, config: "TrainingConfig") -> None:
        """Raises ValueError for settings that it can do nothing with."""

    @classmethod
    @abc.abstractmethod
    def model_config_class(cls, config: "TrainingConfig") -> type[PreTrainedConfig]:
        """Of a new model: its fields are the keys below `model`."""

    def initialise(self, input_values: torch.Tensor) -> None:  # noqa: B027 (random weights may do)
        """Starts a new model from training crops (B, 1, T), where `data_dependent_init` asks for it."""

    @abc.abstractmethod
    def prepare(self) -> None:
        """Gives modules and optimizers to the accelerator."""

    def start(self, step: int, data: "DataPlan") -> None:  # noqa: B027 (most need nothing)
        """Does what has to be done before a step, such as the start of a codebook; most steps need nothing."""

    @abc.abstractmethod
    def __call__(self, batches: Sequence[Batch], step: int) -> Losses:
        """Takes one step.

        Args:
            batches: `input_values` (B, 1, T) and, where it counts, `cutoff_hz` (B,); their gradients are averaged.
            step: Its number, from 0.

        Raises:
            DivergenceError: If a loss or a gradient is not finite, before its optimizer moves.

        Returns:
            The unweighted losses and other figures by name, averaged over the batches and detached.
        """

    def taught_at(self, step: int) -> list[str]:
        """Names of the modules that a step teaches: their learning rates move with it, and are logged."""
        return list(self.optimizers)

    def hears_codes_at(self, step: int) -> bool:
        """Whether what a step teaches comes from codes. A model that did is better than any that did not."""
        return True

    @abc.abstractmethod
    def validate(self, model: Any, data: "DataPlan", *, hears_codes: bool, num_pitch_clips: int) -> "Validation":
        """How well a model, this one or the moving average of its weights, does on clips that it does not train on."""

    @abc.abstractmethod
    def save(self, folder: Path, model: Any) -> None:
        """Writes the model so that `from_pretrained` loads it."""

    def save_beside(self, folder: Path) -> None:  # noqa: B027 (most have nothing)
        """Writes beside it, in a checkpoint, what another run that starts from it can use."""


objectives: Registry[Objective] = Registry(
    "objective",
    {
        "gan": "wavtokenizer_hf.training.gan_objective:GanObjective",
        "gan_legacy": "wavtokenizer_hf.training.legacy:LegacyGanObjective",
    },
)
