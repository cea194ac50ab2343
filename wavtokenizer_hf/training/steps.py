"""The arithmetic of a GAN step: tensors in, named losses out. What to do with them is the trainer's."""

import functools
from collections.abc import Callable, Mapping

import torch
from torch import nn

from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerModel
from wavtokenizer_hf.training.codebook import CodebookLearner
from wavtokenizer_hf.training.discriminators import Discriminators, halves
from wavtokenizer_hf.training.learner import QuantizerLearner, Reconstruction
from wavtokenizer_hf.training.losses import adversarial_losses, discriminator_losses, mel_loss
from wavtokenizer_hf.training.spectral_losses import (
    multi_resolution_stft,
    multi_scale_mel,
    phase_advance,
    waveform,
)


class Generator(nn.Module):
    """The codec as the trainer calls it: everything from the recording to the reconstruction in one forward.

    Args:
        model: Its parts are trained in place.
        trains_encoder: Without it no gradient is taken there.
        learner: How its codebook learns, which says how it quantizes.
    """

    def __init__(
        self,
        model: WavTokenizerModel,
        trains_encoder: bool = True,
        learner: type[QuantizerLearner] = CodebookLearner,
    ):
        super().__init__()
        self.model = model
        self.learner = learner
        model.encoder_model.encoder.requires_grad_(trains_encoder)

    def forward(
        self,
        input_values: torch.Tensor,
        bandwidth_id: int | torch.Tensor,
        uses_quantizer: bool = True,
        num_bypassed: int = 0,
    ) -> Reconstruction:
        """Reconstructs (B, 1, T).

        Args:
            uses_quantizer: `False` hands all latents on as they are; the codes are then empty.
            num_bypassed: Hands on the latents of so many first clips as they are; codes are those of all clips.
        """
        return reconstruct(self.model, input_values, bandwidth_id, uses_quantizer, num_bypassed, self.learner)


def reconstruct(
    model: WavTokenizerModel,
    input_values: torch.Tensor,
    bandwidth_id: int | torch.Tensor | None = None,
    uses_quantizer: bool = True,
    num_bypassed: int = 0,
    learner: type[QuantizerLearner] = CodebookLearner,
) -> Reconstruction:
    """Reconstructs (B, 1, T); see `Generator.forward`. Training and validation hear the same."""
    encoder_model = model.encoder_model
    latents, _ = encoder_model.encoder(input_values)
    if uses_quantizer:
        codes, quantized, commitment = learner.quantize(encoder_model.quantizer.codebook, latents)
    else:
        quantized, commitment, num_bypassed = latents, latents.new_zeros(()), latents.shape[0]
        codes = torch.empty(latents.shape[0], 0, dtype=torch.int64, device=latents.device)
    heard = torch.cat([latents[:num_bypassed].to(quantized.dtype), quantized[num_bypassed:]])
    audio_values = model.decode(bandwidth_id=bandwidth_id, quantized_latents=heard).audio_values
    return Reconstruction(audio_values[:, 0], latents, codes, quantized, commitment, num_bypassed, learner.losses)


def judge(
    discriminators: nn.Module, real: torch.Tensor, fake: torch.Tensor, bandwidth_id: int
) -> dict[str, torch.Tensor]:
    """The losses `discriminator/…` on recordings and reconstructions (B, T). No gradient reaches the codec."""
    return discriminator_losses(*halves(discriminators(torch.cat([real, fake.detach()]), bandwidth_id)))


def reconstruction_losses(
    real: torch.Tensor,
    reconstruction: Reconstruction,
    sampling_rate: int,
    cutoff_hz: torch.Tensor | None,
    weights: Mapping[str, float],
) -> dict[str, torch.Tensor]:
    """The losses that need no discriminator, for recordings (B, T): `generator/…`, and the quantizer's own.

    `generator/mel` is always among them, so that all runs can be compared by it; the others if their weight is not 0.
    """
    fake, bypassed = reconstruction.audio_values, reconstruction.num_bypassed
    spectral = real, fake, sampling_rate, cutoff_hz
    losses: dict[str, Callable[[], torch.Tensor]] = {
        "generator/mel": lambda: mel_loss(*spectral),
        "generator/multi_scale_mel": lambda: multi_scale_mel(*spectral),
        "generator/multi_resolution_stft": lambda: multi_resolution_stft(*spectral),
        "generator/phase_advance": lambda: phase_advance(*spectral),
        **{name: functools.partial(loss.of, reconstruction) for name, loss in reconstruction.quantizer_losses.items()},
    }
    if bypassed:
        # What passed the quantizer cannot keep the waveform, and to ask for it would smear what it can keep.
        losses["generator/waveform"] = lambda: waveform(real[:bypassed], fake[:bypassed])
    return {name: loss() for name, loss in losses.items() if name == "generator/mel" or weights[name]}


def deception_losses(
    discriminators: Discriminators, real: torch.Tensor, fake: torch.Tensor, bandwidth_id: int
) -> dict[str, torch.Tensor]:
    """`generator/adversarial_…` and `generator/feature_matching_…`. The discriminators get no gradient.

    Args:
        discriminators: The bare module, not one wrapped for several processes, which would wait for gradients.
    """
    with torch.no_grad():
        judged_real = discriminators(real, bandwidth_id)
    trained = [parameter for parameter in discriminators.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        return adversarial_losses(judged_real, discriminators(fake, bandwidth_id))
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
