"""The objective `gan`: a codec learns from spectra, its codebook and discriminators."""

import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from transformers import PreTrainedConfig

from wavtokenizer_hf.configuration_wavtokenizer import WavTokenizerCausalConfig, WavTokenizerConfig
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerCausalModel, WavTokenizerModel
from wavtokenizer_hf.training.checkpoint import load_codec, load_discriminators, save_codec, save_discriminators
from wavtokenizer_hf.training.config import TrainingConfig
from wavtokenizer_hf.training.data_plan import DataPlan
from wavtokenizer_hf.training.discriminators import Discriminators
from wavtokenizer_hf.training.gan import GanStep
from wavtokenizer_hf.training.initialisation import initialise_from_data
from wavtokenizer_hf.training.losses import GAN_WEIGHTS
from wavtokenizer_hf.training.objective import Batch, Losses, Objective
from wavtokenizer_hf.training.optimizers import adamw, cosine
from wavtokenizer_hf.training.steps import Generator
from wavtokenizer_hf.training.validation import Validation, validate

logger = logging.getLogger(__name__)


class GanObjective(Objective):
    """See `GanStep`."""

    name = "gan"
    weights = GAN_WEIGHTS
    shown: ClassVar[Mapping[str, str]] = {"generator/mel": "mel", "discriminator/total": "disc"}
    step_class = GanStep
    model: WavTokenizerModel

    def __init__(self, config: TrainingConfig, accelerator: Accelerator, source: str | None):
        super().__init__(config, accelerator, source)
        self.model = self._start_model(source)
        self.generator = Generator(self.model, config.trains_encoder, config.learner_class)
        self.discriminators = self._start_discriminators(source)

    @classmethod
    def model_config_class(cls, config: TrainingConfig) -> type[PreTrainedConfig]:
        return WavTokenizerCausalConfig if config.is_causal else WavTokenizerConfig

    def initialise(self, input_values: torch.Tensor) -> None:
        initialise_from_data(self.model.encoder_model.encoder, input_values)

    def prepare(self) -> None:
        if self.config.compile:
            self.model.encoder_model.encoder.compile()
            self.model.backbone.compile()
        self.gan, schedules = make_gan_step(self.config, self.accelerator, self.generator, self.discriminators)
        self.modules["generator"], self.optimizers["generator"] = self.gan.generator, self.gan.generator_optimizer
        if self.discriminators is not None:
            self.modules["discriminator"] = self.gan.discriminators
            self.optimizers["discriminator"] = self.gan.discriminator_optimizer
        self.schedules = dict(zip(self.modules, schedules, strict=True))

    def start(self, step: int, data: DataPlan) -> None:
        learner = self.gan.learner
        if self.hears_codes_at(step) and learner is not None and not learner.is_started:
            self._start_codebook(data)

    def __call__(self, batches: Sequence[Batch], step: int) -> Losses:
        draw = random.Random(f"{self.config.seed} {step}")  # the same in all processes
        size = self.model.config.adanorm_num_embeddings
        return self.gan(
            batches,
            (draw.randrange(size), draw.randrange(size)),
            step=step,
            uses_quantizer=self.hears_codes_at(step),
            uses_discriminators="discriminator" in self.taught_at(step),
        )

    def taught_at(self, step: int) -> list[str]:
        return [name for name in self.modules if name == "generator" or step >= self.config.discriminator_start_step]

    def hears_codes_at(self, step: int) -> bool:
        return step >= self.config.quantizer_start_step

    def validate(self, model: Any, data: DataPlan, *, hears_codes: bool, num_pitch_clips: int) -> Validation:
        return validate(
            model,
            data.validation_set,
            self.accelerator,
            batch_size=self.config.batch_size,
            num_pictures=self.config.num_pictures,
            uses_cutoff=self.config.data.uses_cutoff,
            num_pitch_clips=num_pitch_clips,
            uses_quantizer=hears_codes,
            learner=self.config.learner_class,
        )

    def save(self, folder: Path, model: Any) -> None:
        save_codec(folder, model)

    def save_beside(self, folder: Path) -> None:
        if self.discriminators is not None:
            save_discriminators(folder, self.discriminators)

    def _start_model(self, source: str | None) -> WavTokenizerModel:
        config = self.config
        if source is not None:
            model = load_codec(source)
            if config.is_causal and not model.config.is_causal:
                raise ValueError(f"`is_causal` is for new codecs, and {source} is not causal; leave it out")
        elif not (config.trains_encoder and config.trains_codebook):
            raise ValueError(
                "without `trains_encoder` or `trains_codebook`, a new codec would keep random ones; say what to start "
                "from: init_from=FOLDER"
            )
        elif config.is_causal:
            model = WavTokenizerCausalModel(WavTokenizerCausalConfig(**config.model))
        else:
            model = WavTokenizerModel(WavTokenizerConfig(**config.model))
        return model.train()

    def _start_discriminators(self, source: str | None) -> Discriminators | None:
        config, found = self.config, None
        if source is not None and Path(source).is_dir():
            found = load_discriminators(Path(source))
            if self.accelerator.is_main_process:
                logger.info("discriminators: %s", "restored" if found else "none there, starting new ones")
        if config.discriminator_start_step >= config.max_steps:
            return None
        discriminators = found or Discriminators(config.discriminators)
        num_bandwidths = self.model.config.adanorm_num_embeddings
        if discriminators.config.num_bandwidths < num_bandwidths:
            raise ValueError(
                f"the codec has {num_bandwidths} bandwidth ids, its discriminators tell apart "
                f"{discriminators.config.num_bandwidths}; set `discriminators.num_bandwidths` alike"
            )
        return discriminators

    @property
    def _num_vectors_to_start(self) -> int:
        return self.gan.learner.num_vectors_to_start if self.gan.learner is not None else 0

    @torch.no_grad()
    def _start_codebook(self, data: DataPlan) -> None:
        """From clips in an order of their own."""
        assert self.gan.learner is not None
        wanted = -(-self._num_vectors_to_start // self.accelerator.num_processes)
        vectors: list[torch.Tensor] = []
        for batch in data.starting_batches():
            with torch.compiler.set_stance("force_eager"):  # compiling anew for so few passes does not pay
                seen = self.gan.generator(batch["input_values"], 0, uses_quantizer=False)
            vectors.append(seen.encoder_latents.float().transpose(1, 2).flatten(0, 1))  # (B, D, L) -> (B * L, D)
            if sum(map(len, vectors)) >= wanted:
                break
        frames = data.crop_samples // self.model.config.hop_length
        self.gan.learner.start(torch.cat(vectors), data.clips_per_step * frames)


def make_gan_step(
    config: TrainingConfig, accelerator: Accelerator, generator: Generator, discriminators: Discriminators | None
) -> tuple[GanStep, list[Any]]:
    """Prepares everything that a step moves.

    Returns:
        The step, and the schedules of the codec's learning rate and, where there are discriminators, of theirs.

    Source: `decoder/experiment.py: VocosExp.configure_optimizers` of the original.
    Deviates: The multi-band discriminators learn, unless `config.legacy`.
    """
    settings, codec = config.optimizer, generator.model
    step_class = config.objective_class.step_class  # type: ignore[attr-defined]
    trained = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    optimizer = adamw(trained, settings, settings.learning_rate)
    schedules = [cosine(optimizer, settings, config.max_steps)]
    prepared, generator_optimizer = accelerator.prepare(generator, optimizer)
    judges: Any = None
    discriminator_optimizer: Any = None
    if discriminators is not None:
        rate = settings.discriminator_learning_rate or settings.learning_rate
        optimizer = adamw(step_class.taught(discriminators), settings, rate)
        schedules.append(cosine(optimizer, settings, max(config.max_steps - config.discriminator_start_step, 1)))
        judges, discriminator_optimizer = accelerator.prepare(discriminators, optimizer)
    learner = None
    if config.trains_codebook:
        learner = config.learner_class(codec.encoder_model.quantizer.codebook, config.codebook)
    step = step_class(
        accelerator,
        prepared,
        judges,
        generator_optimizer,
        discriminator_optimizer,
        learner,
        weights=config.weights,
        sampling_rate=codec.config.sampling_rate,
        quantizer_dropout=config.quantizer_dropout,
        max_grad_norm=settings.max_grad_norm,
    )
    return step, schedules
