"""The losses of a GAN step, by name; the same names key the weights.

Source: Paper, section 3.4. `decoder/loss.py` and `decoder/experiment.py: training_step` of the original.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F

from wavtokenizer_hf.evaluation.signal import mel_filters
from wavtokenizer_hf.training.discriminators import Judgement, Judgements
from wavtokenizer_hf.training.spectral_losses import spectrum

# The mel of the loss is the original's. That of the metric, `evaluation.signal.mel_spectrogram`, is its own.
_N_FFT, _HOP_LENGTH, _NUM_MELS, _FLOOR = 1024, 256, 100, 1e-7

# The weights of the original's total, and 0 for losses that it has not. A loss of weight 0 is not computed. Those
# of the quantizer are its learner's.
GAN_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "discriminator/multi_period": 1.0,
        "discriminator/multi_resolution": 1.0,
        "discriminator/multi_band": 1.0,
        "generator/mel": 45.0,
        "generator/multi_scale_mel": 0.0,
        "generator/multi_resolution_stft": 0.0,
        "generator/phase_advance": 0.0,
        "generator/waveform": 0.0,
        "generator/adversarial_multi_period": 1.0,
        "generator/adversarial_multi_resolution": 1.0,
        "generator/adversarial_multi_band": 1.0,
        "generator/feature_matching_multi_period": 1.0,
        "generator/feature_matching_multi_resolution": 1.0,
        "generator/feature_matching_multi_band": 1.0,
    }
)


def loss_mel(audio: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    """Mel magnitudes of 100 HTK filters from 0 Hz to half the rate, floored: (B, T) -> (B, 100, 1 + T // 256)."""
    magnitude = spectrum(audio, _N_FFT, _HOP_LENGTH).abs()
    filters = mel_filters(sampling_rate, _N_FFT, _NUM_MELS, magnitude.device, magnitude.dtype)
    return (filters.T @ magnitude).clamp(min=_FLOOR)


def mel_loss(
    reference: torch.Tensor, estimate: torch.Tensor, sampling_rate: int, cutoff_hz: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean absolute difference of log-mel magnitudes, in float32 also under autocast.

    Args:
        reference: Recordings (B, T).
        estimate: Reconstructions (B, T).
        sampling_rate: Of both, in Hz.
        cutoff_hz: (B,), the frequency up to which a recording tells what there is: half the rate of its source. Mel
            bands that reach beyond it do not count, so that a model learns no silence from recordings that could hold
            nothing else. `None` counts all bands. On the CPU it is checked without waiting for the GPU.

    Raises:
        ValueError: If shapes differ, or a clip's cutoff leaves it no band.

    Source: `decoder/loss.py: MelSpecReconstructionLoss` of the original.
    Deviates: The cutoff.
    """
    if reference.ndim != 2 or reference.shape != estimate.shape:
        raise ValueError(
            "The mel loss compares two batches (B, T) of one shape, got "
            f"{tuple(reference.shape)} and {tuple(estimate.shape)}."
        )
    with torch.autocast(estimate.device.type, enabled=False):
        logs = [loss_mel(audio.float(), sampling_rate).log() for audio in (reference, estimate)]
        by_band = (logs[0] - logs[1]).abs().mean(dim=-1)  # (B, 100, L) -> (B, 100)
        if cutoff_hz is None:
            return by_band.mean()
        share = _share_of_bands(cutoff_hz, reference.shape[0], sampling_rate).to(by_band)
        return (by_band * share).sum(dim=1).mean()


def _share_of_bands(cutoff_hz: torch.Tensor, batch_size: int, sampling_rate: int) -> torch.Tensor:
    """(B, 100): one over the number of bands that a clip keeps, for each of these; 0 elsewhere."""
    if cutoff_hz.shape != (batch_size,):
        raise ValueError(
            f"`cutoff_hz` must have shape ({batch_size},), one per clip, got {tuple(cutoff_hz.shape)}. Pass half the"
            " sampling rate for clips without a cutoff."
        )
    kept = _upper_edges_hz(sampling_rate).to(cutoff_hz.device) <= cutoff_hz[:, None]
    num_kept = kept.sum(dim=1, keepdim=True)
    if not num_kept.all():
        index = int(num_kept.argmin())
        raise ValueError(
            f"The cutoff of clip {index}, {cutoff_hz[index].item():g} Hz, lies below the first mel band. Cutoffs are"
            " in Hz; leave out clips that hold nothing."
        )
    return kept / num_kept


def _upper_edges_hz(sampling_rate: int) -> torch.Tensor:
    """Where each mel band ends (100,): the HTK scale from 0 Hz to half the rate, each band reaching over two steps."""
    top_mel = 2595 * torch.log10(torch.tensor(1 + sampling_rate / 2 / 700, dtype=torch.float64))
    steps = torch.arange(2, _NUM_MELS + 2, dtype=torch.float64) / (_NUM_MELS + 1)
    edges = 700 * (10 ** (top_mel * steps / 2595) - 1)
    return edges.clamp(max=sampling_rate / 2).float()  # the last is half the rate, to the digit


def _hinge_discriminator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def _hinge_generator(fake: torch.Tensor) -> torch.Tensor:
    return F.relu(1 - fake).mean()


def _least_squares_discriminator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return (1 - real).square().mean() + fake.square().mean()


def _least_squares_generator(fake: torch.Tensor) -> torch.Tensor:
    return (1 - fake).square().mean()


def _feature_matching(real: Judgement, fake: Judgement) -> torch.Tensor:
    pairs = zip(real.features, fake.features, strict=True)
    # Half-precision sums would lose what little the two differ by.
    return torch.stack([F.l1_loss(ours.float(), target.detach().float()) for target, ours in pairs]).sum()


def _over_discriminators(family: str, losses: list[torch.Tensor]) -> torch.Tensor:
    """The sum for the multi-band family, the mean for the others, as in the original's total."""
    stacked = torch.stack(losses)
    return stacked.sum() if family == "multi_band" else stacked.mean()


def discriminator_losses(real: Judgements, fake: Judgements) -> dict[str, torch.Tensor]:
    """What each family has to learn from recordings and (detached) reconstructions: `discriminator/<family>`.

    Hinge loss, averaged over the discriminators; for the multi-band family least squares, summed.
    """
    losses = {}
    for family in real:
        objective = _least_squares_discriminator if family == "multi_band" else _hinge_discriminator
        each = [
            objective(one.score.float(), other.score.float())
            for one, other in zip(real[family], fake[family], strict=True)
        ]
        losses[f"discriminator/{family}"] = _over_discriminators(family, each)
    return losses


def adversarial_losses(real: Judgements, fake: Judgements) -> dict[str, torch.Tensor]:
    """What a generator has to learn from each family.

    `generator/adversarial_<family>` falls as reconstructions pass for recordings;
    `generator/feature_matching_<family>` is the mean absolute difference of the features, summed over layers. Both are
    averaged over the discriminators; summed for the multi-band family. No gradient flows into `real`.
    """
    losses = {}
    for family in fake:
        objective: Callable[[torch.Tensor], torch.Tensor] = (
            _least_squares_generator if family == "multi_band" else _hinge_generator
        )
        each = [objective(one.score.float()) for one in fake[family]]
        losses[f"generator/adversarial_{family}"] = _over_discriminators(family, each)
        each = [_feature_matching(one, other) for one, other in zip(real[family], fake[family], strict=True)]
        losses[f"generator/feature_matching_{family}"] = _over_discriminators(family, each)
    return losses


def total(losses: Mapping[str, torch.Tensor], weights: Mapping[str, float]) -> torch.Tensor:
    """Weighted sum of losses. Weights of losses that are not there are ignored.

    Raises:
        ValueError: If there is no loss, or one without a weight.
    """
    unweighted = sorted(set(losses) - set(weights))
    if unweighted or not losses:
        raise ValueError(
            f"No weight for {', '.join(unweighted)}. Give it one; 0 leaves it out." if losses else "No losses to add."
        )
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
