"""The arithmetic of a GAN step: tensors in, named losses out. What to do with them is the trainer's."""

from typing import NamedTuple

import torch
from torch import nn

from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerModel
from wavtokenizer_hf.training.codebook import quantize
from wavtokenizer_hf.training.discriminators import Discriminators, halves
from wavtokenizer_hf.training.losses import adversarial_losses, discriminator_losses, mel_loss


class Reconstruction(NamedTuple):
    """What the codec makes of a batch in training.

    Args:
        audio_values: (B, T), T a whole number of hops.
        encoder_latents: (B, D, L), before quantization.
        audio_codes: int64 (B, L).
        commitment: The commitment loss, a scalar.
    """

    audio_values: torch.Tensor
    encoder_latents: torch.Tensor
    audio_codes: torch.Tensor
    commitment: torch.Tensor


class Generator(nn.Module):
    """The codec as the trainer calls it: everything from the recording to the reconstruction in one forward.

    Args:
        model: Its parts are trained in place.
        trains_encoder: Without it no gradient is taken there.
    """

    def __init__(self, model: WavTokenizerModel, trains_encoder: bool = True):
        super().__init__()
        self.model = model
        model.encoder_model.encoder.requires_grad_(trains_encoder)

    def forward(
        self, input_values: torch.Tensor, bandwidth_id: int | torch.Tensor, uses_quantizer: bool = True
    ) -> Reconstruction:
        """Reconstructs (B, 1, T).

        Args:
            uses_quantizer: `False` hands the latents on as they are; the codes are then empty.
        """
        encoder_model = self.model.encoder_model
        latents, _ = encoder_model.encoder(input_values)
        if uses_quantizer:
            codes, quantized, commitment = quantize(encoder_model.quantizer.codebook, latents)
        else:
            quantized, commitment = latents, latents.new_zeros(())
            codes = torch.empty(latents.shape[0], 0, dtype=torch.int64, device=latents.device)
        audio_values = self.model.decode(bandwidth_id=bandwidth_id, quantized_latents=quantized).audio_values
        return Reconstruction(audio_values[:, 0], latents, codes, commitment)


def judge(
    discriminators: nn.Module, real: torch.Tensor, fake: torch.Tensor, bandwidth_id: int
) -> dict[str, torch.Tensor]:
    """The losses `discriminator/…` on recordings and reconstructions (B, T). No gradient reaches the codec."""
    return discriminator_losses(*halves(discriminators(torch.cat([real, fake.detach()]), bandwidth_id)))


def reconstruction_losses(
    real: torch.Tensor, reconstruction: Reconstruction, sampling_rate: int, cutoff_hz: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """`generator/mel` and `generator/commitment` for recordings (B, T)."""
    return {
        "generator/mel": mel_loss(real, reconstruction.audio_values, sampling_rate, cutoff_hz),
        "generator/commitment": reconstruction.commitment,
    }


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
