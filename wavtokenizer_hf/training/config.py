"""What a training run is told: dataclasses, the recipes that fill them, and `key=value` changes."""

import dataclasses
import difflib
import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import dacite
import yaml
from transformers import PreTrainedConfig

from wavtokenizer_hf.training.discriminators import DiscriminatorConfig
from wavtokenizer_hf.training.learner import CodebookConfig, QuantizerLearner, learners
from wavtokenizer_hf.training.objective import Objective, objectives
from wavtokenizer_hf.training.schedule import Schedule, checked_schedule


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the recordings are, and how they are cut.

    Args:
        train: What to train on: files, folders, patterns, manifests (.tsv, .jsonl) or saved Hugging Face datasets.
        validation: What to validate on. Without it, every `holdout_every`-th clip of `train` is held out.
        holdout_every: See `validation`.
        max_validation_clips: At most so many clips are validated on, spread evenly.
        max_pitch_clips: Of at most so many of these the pitch is tracked, which takes up to half as long as they last.
        crop_s: Length of a training crop in seconds, rounded to whole codes.
        validation_s: Length of a validation clip in seconds.
        max_clip_s: From a longer recording, a random section of this length is taken first.
        peak_db: Lowest and highest peak of a training clip in dB below full scale.
        weights: How often to draw clips, by a column of their manifest and its values: `{kind: {speech: 2}}`.
        length_power: Draw clips in proportion to this power of their length: 0 draws each alike, 1 each second alike.
        uses_cutoff: Whether the mel loss leaves out what a recording's source could not hold.
        cache_mb: Decoded clips that each loading process keeps, in megabytes.
        num_workers: Loading processes for each training process; 0 loads in the training process itself.
        allow_incomplete: Whether to take what there is of recordings that break off, instead of leaving them out.
    """

    train: list[str] = dataclasses.field(default_factory=list)
    validation: list[str] = dataclasses.field(default_factory=list)
    holdout_every: int = 50
    max_validation_clips: int = 64
    max_pitch_clips: int = 16
    crop_s: float = 3.0
    validation_s: float = 6.0
    max_clip_s: float = 10.0
    peak_db: tuple[float, float] = (-6.0, -1.0)
    weights: dict[str, dict[Any, float]] = dataclasses.field(default_factory=dict)
    length_power: float = 0.0
    uses_cutoff: bool = True
    cache_mb: float = 0.0
    num_workers: int = 2
    allow_incomplete: bool = False


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule, for the codec and the discriminators alike.

    Args:
        learning_rate: Its highest value, of the codec.
        discriminator_learning_rate: That of the discriminators; `None` means the same.
        final_share: Share of the learning rate that the cosine ends at.
        betas: Of AdamW.
        weight_decay: Of AdamW.
        warmup_steps: Steps over which the rate rises from 0.
        max_grad_norm: Gradients longer than this are shortened to it; `None` never.
    """

    learning_rate: float = 2e-4
    discriminator_learning_rate: float | None = None
    final_share: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    warmup_steps: int = 0
    max_grad_norm: float | None = None


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """A training run.

    Args:
        objective: What a step computes: `"gan"`, with spectra, codebook and discriminators. It brings its losses and
            their default weights; those of the codebook are its learner's.
        model: Fields of the codec's configuration, for a codec that starts from random weights.
        init_from: A checkpoint to start from: a folder or Hub id. It brings its own configuration, and its
            discriminators where it has some.
        is_causal: Whether a new codec is of the causal kind.
        data: Recordings.
        codebook: How the codebook learns.
        discriminators: Which there are, and how large.
        optimizer: AdamW and its schedule.
        loss_weights: Weights by the names of the losses; those that are not named keep their defaults. A weight is a
            number, or points `[[step, weight], …]` between which it moves in straight lines; 0 leaves a loss out.
        max_steps: Steps in all.
        batch_size: Clips of one process in one pass.
        accumulation_steps: Passes of a step; the batch of a step is `batch_size` times this times the processes.
        discriminator_start_step: Until this step there are no discriminators: the codec learns from the other losses.
        quantizer_start_step: Until this step the decoder hears unquantized latents; then k-means sets the codebook.
        quantizer_dropout: From then on, share of the clips of a batch that the decoder still hears unquantized; a
            number, or points as in `loss_weights`.
        data_dependent_init: Whether a new encoder starts from data: scaled by what it gives on some clips.
        trains_encoder: `False` leaves the encoder as it is.
        trains_codebook: `False` leaves the codebook as it is. With neither, codes cannot change.
        precision: `"fp32"`, or mixed `"bf16"` or `"fp16"`; spectra, quantizer and losses are float32 in any.
        ema_decay: Keep a moving average of the weights, which checkpoints then hold; `None` keeps none.
        compile: Whether to use `torch.compile` for the codec.
        seed: Of everything random.
        log_every: Steps between two entries of the log.
        validate_every: Steps between two validations.
        checkpoint_every: Steps between two checkpoints.
        keep_checkpoints: Newest checkpoints that are kept, beside the best one.
        num_pictures: Validation clips whose audio and spectrograms are logged.
        tracker: Of accelerate: `"tensorboard"`, `"wandb"` and so on; `"none"` for the run's own log alone.
        legacy: Reproduce the original's trainer with its defects: a forward of the codec for either optimizer, each of
            which moves the codebook; discriminators of the multi-band family that never learn; `codebook.legacy`. The
            objective is then `"gan_legacy"`.
    """

    objective: str = "gan"
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    init_from: str | None = None
    is_causal: bool = False
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    codebook: CodebookConfig = dataclasses.field(default_factory=CodebookConfig)
    discriminators: DiscriminatorConfig = dataclasses.field(default_factory=DiscriminatorConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    loss_weights: dict[str, Any] = dataclasses.field(default_factory=dict)
    max_steps: int = 1_000_000
    batch_size: int = 10
    accumulation_steps: int = 1
    discriminator_start_step: int = 0
    quantizer_start_step: int = 0
    quantizer_dropout: Any = 0.0
    data_dependent_init: bool = False
    trains_encoder: bool = True
    trains_codebook: bool = True
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    ema_decay: float | None = None
    compile: bool = False
    seed: int = 0
    log_every: int = 50
    validate_every: int = 2000
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    num_pictures: int = 3
    tracker: str = "tensorboard"
    legacy: bool = False

    def __post_init__(self):
        defaults = self._default_weights()
        unknown = sorted(set(self.loss_weights) - set(defaults))
        if unknown:
            raise ValueError(f"`loss_weights` names no loss: {unknown[0]}. Losses are {', '.join(defaults)}.")
        weights = {
            name: checked_schedule(f"loss_weights.{name}", weight, low=0) for name, weight in self.loss_weights.items()
        }
        object.__setattr__(self, "loss_weights", weights)
        dropout = checked_schedule("quantizer_dropout", self.quantizer_dropout, low=0, high=1)
        object.__setattr__(self, "quantizer_dropout", dropout)
        for name in ("max_steps", "batch_size", "accumulation_steps", "log_every", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.seed < 0:
            raise ValueError(f"`seed` must be 0 or more, got {self.seed}.")
        self.objective_class.check(self)
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must lie between 0 and 1, got {self.ema_decay}.")
        if self.init_from is not None and self.model:
            raise ValueError(
                "`init_from` brings the configuration of its codec: leave `model` out (`model={}` clears that of a "
                "recipe), or train a new codec without `init_from`."
            )

    @property
    def objective_class(self) -> type[Objective]:
        """What a step computes."""
        return objectives.find(_or_legacy("objective", self.objective, self.legacy))

    @property
    def learner_class(self) -> type[QuantizerLearner]:
        """How the codebook learns."""
        is_legacy = self.legacy or self.codebook.legacy
        return learners.find(_or_legacy("codebook.learner", self.codebook.learner, is_legacy))

    @property
    def weights(self) -> dict[str, Schedule]:
        """The weight of every loss."""
        return {**self._default_weights(), **self.loss_weights}

    def _default_weights(self) -> dict[str, float]:
        return {
            **self.objective_class.weights,
            **{name: loss.weight for name, loss in self.learner_class.losses.items()},
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `config_from_dict` reads back."""
        return _plain(dataclasses.asdict(self))


def _or_legacy(key: str, name: str, is_legacy: bool) -> str:
    """The name that `legacy` makes of one."""
    if not is_legacy or name.endswith("_legacy"):
        return name
    if name not in ("gan", "ema"):
        raise ValueError(
            f"`legacy` is the original's arithmetic, which knows no `{key}` {name!r}; leave one of them out."
        )
    return f"{name}_legacy"


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in _recipes().iterdir() if path.name.endswith(".yaml"))


def purpose_of(recipe: str) -> str:
    """What a recipe is for, as it says itself; empty where it does not."""
    return str(_read_yaml(recipe).get("purpose", ""))


def load_config(recipe: str, changes: Sequence[str] = ()) -> TrainingConfig:
    """Reads a recipe and changes it.

    Args:
        recipe: The name of one that comes with the package, or a YAML file. `base: NAME` in it names a recipe whose
            values it changes, and `purpose: TEXT` says what it is for.
        changes: `key=value` each; dots lead into parts (`optimizer.learning_rate=1e-4`), and values are YAML.

    Raises:
        FileNotFoundError: If there is no such recipe.
        ValueError: If a key is unknown or a value is of the wrong kind, with the key's name.
    """
    values = _read_recipe(recipe)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise ValueError(f"expected key=value, got {change!r}")
        try:
            _set(values, key.split("."), yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise ValueError(f"{key}: {text!r} is not YAML: {error}") from None
    return config_from_dict(values)


def config_from_dict(values: Mapping[str, Any]) -> TrainingConfig:
    """Makes a configuration of nested plain values.

    Raises:
        ValueError: If a key is unknown or a value is of the wrong kind, with the key's name.
    """
    _check_keys(values, TrainingConfig)
    try:
        config = dacite.from_dict(
            TrainingConfig, values, dacite.Config(cast=[tuple], type_hooks={float: _as_float, list[str]: _as_list})
        )
    except dacite.WrongTypeError as error:
        wanted = error.field_type
        name = wanted.__name__ if type(wanted) is type else str(wanted).removeprefix("typing.")
        raise ValueError(f"{error.field_path}: expected {name}, got {error.value!r}") from None
    except dacite.DaciteError as error:
        raise ValueError(str(error)) from None
    _check_keys(config.model, config.objective_class.model_config_class(config), "model.")
    return config


def _recipes():
    return importlib.resources.files("wavtokenizer_hf.training") / "recipes"


def _read_recipe(name: str) -> dict[str, Any]:
    """The values of a recipe over those of its base."""
    values = _read_yaml(name)
    values.pop("purpose", None)
    base = values.pop("base", None)
    return values if base is None else _merged(_read_recipe(base), values)


def _read_yaml(name: str) -> dict[str, Any]:
    is_file = name.endswith((".yaml", ".yml"))
    path: Any = Path(name) if is_file else _recipes() / f"{name}.yaml"
    if not path.is_file():
        if is_file:
            raise FileNotFoundError(f"no such recipe file: {name}")
        raise FileNotFoundError(f"no recipe {name!r}; there are {', '.join(recipe_names())}, or name a .yaml file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{name}: expected keys and values, got {type(values).__name__}")
    return values


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        merged[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def _set(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ValueError(f"{'.'.join(keys)}: {key} has no parts")
    values[keys[-1]] = value


def _check_keys(values: Mapping[str, Any], kind: type, path: str = "") -> None:
    """Refuses keys that are no fields of a dataclass, or of the dataclasses in it."""
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    known = {field.name: field.type for field in dataclasses.fields(kind) if field.name not in inherited}
    for key, value in values.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {path + close[0]!r}?" if close else f"there are {', '.join(known)}"
            raise ValueError(f"unknown key {f'{path}{key}'!r}; {hint}")
        part = known[key]
        if isinstance(part, type) and dataclasses.is_dataclass(part) and isinstance(value, Mapping):
            _check_keys(value, part, f"{path}{key}.")


def _as_list(value: Any) -> Any:
    """One name is a list of one."""
    return [value] if isinstance(value, str) else value


def _as_float(value: Any) -> Any:
    """Whole numbers too, and `1e-4`, which YAML takes for text; anything else is left to be refused by its key."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
