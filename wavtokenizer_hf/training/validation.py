"""Validation: how well the codec does on clips that it does not train on, and what it makes of some of them."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import reduce

from wavtokenizer_hf.audio.codebook_use import codebook_use
from wavtokenizer_hf.audio.manifest import KIND_COLUMNS
from wavtokenizer_hf.evaluation.evaluate import score_pair
from wavtokenizer_hf.evaluation.metric import Metric
from wavtokenizer_hf.evaluation.pair import Pair
from wavtokenizer_hf.evaluation.pitch import GrossPitchError, VoicingF1
from wavtokenizer_hf.evaluation.tone import FrameTone
from wavtokenizer_hf.evaluation.waveform import Level
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerModel
from wavtokenizer_hf.training.clips import Clip
from wavtokenizer_hf.training.codebook import CodebookLearner
from wavtokenizer_hf.training.dataset import CropDataset, collate
from wavtokenizer_hf.training.learner import QuantizerLearner
from wavtokenizer_hf.training.losses import mel_loss
from wavtokenizer_hf.training.steps import reconstruct

# What a spectral loss does not hear; of the second ones, tracking the pitch takes longer than making the clip.
METRICS: tuple[Metric, ...] = (FrameTone(), Level())
PITCH_METRICS: tuple[Metric, ...] = (GrossPitchError(), VoicingF1())


@dataclasses.dataclass(frozen=True)
class Example:
    """A validation clip and what the codec makes of it, (T,) each."""

    name: str
    original: torch.Tensor
    reconstruction: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Validation:
    """What a validation found.

    Args:
        mel: The mel loss, the mean over clips.
        usage: Share of the codebook's entries that the clips use; like the next two, `None` without quantizer.
        entropy_bits: Entropy of the codes' distribution.
        perplexity: 2 to the entropy.
        num_clips: Clips validated on.
        measures: Means by the names of metrics of `evaluation`, of the clips that each of them scored.
        examples: The first clips, with their reconstructions.
        failures: A line for each clip of this process that could not be read, and that another one stood in for.
    """

    mel: float
    usage: float | None
    entropy_bits: float | None
    perplexity: float | None
    num_clips: int
    examples: Sequence[Example]
    failures: Sequence[str] = ()
    measures: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def figures(self) -> dict[str, float]:
        """The numbers by the names under which they are logged."""
        figures = {
            "validation/mel": self.mel,
            **{f"validation/{name}": value for name, value in self.measures.items()},
            "codebook/usage": self.usage,
            "codebook/entropy_bits": self.entropy_bits,
            "codebook/perplexity": self.perplexity,
            "validation/num_clips": self.num_clips,
        }
        return {name: value for name, value in figures.items() if value is not None}


@torch.no_grad()
def validate(
    model: WavTokenizerModel,
    dataset: CropDataset,
    accelerator: Accelerator,
    *,
    batch_size: int,
    num_pictures: int,
    uses_cutoff: bool = True,
    num_pitch_clips: int = 0,
    uses_quantizer: bool = True,
    learner: type[QuantizerLearner] = CodebookLearner,
) -> Validation:
    """Reconstructs the validation clips with all processes together, as training does it, but in float32.

    Args:
        batch_size: Clips at a time in each process.
        num_pictures: Clips to return as examples, the same ones every time.
        uses_cutoff: See `DataConfig`.
        num_pitch_clips: Clips whose pitch is tracked as well, evenly spread and the same ones every time.
        uses_quantizer: `False` before the codebook's start, when the decoder hears the latents in training, too.
        learner: How the codebook learns, which says how it quantizes.
    """
    was_training = model.training
    model.eval()
    device = accelerator.device
    loss_sum = torch.zeros((), device=device, dtype=torch.float64)
    counts = torch.zeros(model.config.codebook_size, device=device)
    sums = torch.zeros(2, len(METRICS) + len(PITCH_METRICS), device=device, dtype=torch.float64)
    stride = -(-len(dataset) // num_pitch_clips) if num_pitch_clips else len(dataset) + 1
    examples: list[Example] = []
    failures: list[str] = []
    try:
        own = range(accelerator.process_index, len(dataset), accelerator.num_processes)
        for start in range(0, len(own), batch_size):
            indices = own[start : start + batch_size]
            batch = collate([dataset[index] for index in indices])
            failures += batch["failures"]
            real = batch["input_values"].to(device)
            with torch.compiler.set_stance("force_eager"):  # a compiled model would be compiled anew for these shapes
                output = reconstruct(model, real, uses_quantizer=uses_quantizer, learner=learner)
            for place, index in enumerate(indices):
                cutoff = batch["cutoff_hz"][place : place + 1] if uses_cutoff else None
                pair = real[place], output.audio_values[place : place + 1]  # (1, T) each
                loss_sum += mel_loss(*pair, model.config.sampling_rate, cutoff)
                metrics = METRICS if (index + 1) % stride else METRICS + PITCH_METRICS
                sums += _measured(dataset.clips[index], pair, model, metrics).to(device)
                if index < num_pictures:
                    examples.append(Example(dataset.clips[index].name, *(clip[0].cpu() for clip in pair)))
            counts += torch.bincount(output.audio_codes.flatten(), minlength=len(counts))
    finally:
        model.train(was_training)
    counts = reduce(counts, "sum")
    use = codebook_use(counts) if uses_quantizer else None
    totals, num_scored = reduce(sums, "sum").tolist()
    measures = {
        metric.name: total / number
        for metric, total, number in zip(METRICS + PITCH_METRICS, totals, num_scored, strict=True)
        if number
    }
    mel = reduce(loss_sum, "sum").item() / len(dataset)
    return Validation(
        mel,
        use.usage if use else None,
        use.entropy_bits if use else None,
        use.perplexity if use else None,
        len(dataset),
        examples,
        failures,
        measures,
    )


def pitch_is_missing() -> str:
    """Why the pitch cannot be tracked here; empty if it can."""
    try:
        PITCH_METRICS[0].prepare(torch.device("cpu"))
    except ImportError as error:
        return str(error)
    return ""


def _measured(
    clip: Clip, pair: tuple[torch.Tensor, torch.Tensor], model: WavTokenizerModel, metrics: Sequence[Metric]
) -> torch.Tensor:
    """The scores of a clip, and for each 1 where there is one: (2, number of all metrics)."""
    config = model.config
    kind = next((clip.columns[name].casefold() for name in KIND_COLUMNS if clip.columns.get(name)), "")
    real, estimate = (audio[0].cpu() for audio in pair)
    heard = Pair(clip.name, real, estimate, config.sampling_rate, kind, frame_rate=config.frame_rate)
    found = score_pair(0, heard, metrics, {}).scores
    scores = [found.get(metric.name) for metric in METRICS + PITCH_METRICS]
    return torch.tensor([[score or 0.0 for score in scores], [score is not None for score in scores]])
