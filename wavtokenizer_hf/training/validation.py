"""Validation: how well the codec does on clips that it does not train on, and what it makes of some of them."""

import dataclasses
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import reduce

from wavtokenizer_hf.audio.codebook_use import codebook_use
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerModel
from wavtokenizer_hf.training.dataset import CropDataset, collate
from wavtokenizer_hf.training.losses import mel_loss


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
        usage: Share of the codebook's entries that the clips use.
        entropy_bits: Entropy of the codes' distribution.
        perplexity: 2 to the entropy.
        num_clips: Clips validated on.
        examples: The first clips, with their reconstructions.
        failures: A line for each clip of this process that could not be read, and that another one stood in for.
    """

    mel: float
    usage: float
    entropy_bits: float
    perplexity: float
    num_clips: int
    examples: Sequence[Example]
    failures: Sequence[str] = ()

    @property
    def figures(self) -> dict[str, float]:
        """The numbers by the names under which they are logged."""
        return {
            "validation/mel": self.mel,
            "codebook/usage": self.usage,
            "codebook/entropy_bits": self.entropy_bits,
            "codebook/perplexity": self.perplexity,
            "validation/num_clips": self.num_clips,
        }


@torch.no_grad()
def validate(
    model: WavTokenizerModel,
    dataset: CropDataset,
    accelerator: Accelerator,
    *,
    batch_size: int,
    num_pictures: int,
    uses_cutoff: bool = True,
) -> Validation:
    """Reconstructs the validation clips with all processes together, as inference does it, in float32.

    Args:
        batch_size: Clips at a time in each process.
        num_pictures: Clips to return as examples, the same ones every time.
        uses_cutoff: See `DataConfig`.
    """
    was_training = model.training
    model.eval()
    device = accelerator.device
    loss_sum = torch.zeros((), device=device, dtype=torch.float64)
    counts = torch.zeros(model.config.codebook_size, device=device)
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
                output = model(real)
            for place, index in enumerate(indices):
                cutoff = batch["cutoff_hz"][place : place + 1] if uses_cutoff else None
                pair = real[place], output.audio_values[place]  # (1, T) each
                loss_sum += mel_loss(*pair, model.config.sampling_rate, cutoff)
                if index < num_pictures:
                    examples.append(Example(dataset.clips[index].name, *(clip[0].cpu() for clip in pair)))
            counts += torch.bincount(output.audio_codes.flatten(), minlength=len(counts))
    finally:
        model.train(was_training)
    use = codebook_use(reduce(counts, "sum"))
    mel = reduce(loss_sum, "sum").item() / len(dataset)
    return Validation(mel, use.usage, use.entropy_bits, use.perplexity, len(dataset), examples, failures)
