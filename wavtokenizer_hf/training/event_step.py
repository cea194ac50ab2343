"""One step of the original's training of the codec of sparse events, event by event."""

import torch
from torch import nn

from wavtokenizer_hf.modeling_sparse_event_codec import SparseEventCodecModel
from wavtokenizer_hf.training.event_losses import faded, loss_features

_VECTOR_WEIGHT, _ADVERSARIAL_WEIGHT = 1e-4, 1000.0


class TelescopingStep:
    """The original's step: events of a window, its loss, and a discriminator where one is given.

    The loss sums up what each event takes away from the features of the recording, one after the other. The sum
    telescopes: it is the norm of what all leave less the norm of the recording. So an event's gradient needs only the
    signs of what is left in the end, and the graph of one event at a time is in memory, whose gradients add up to
    those of the whole graph.

    Args:
        model: With the renderer `"wavetable"`.
        optimizer: Of the model.
        discriminator: Judges sums of events; `None` leaves it out.
        discriminator_optimizer: Of the discriminator.

    Source: The training loop of the original at commit e81fd17, without mixed precision.
    """

    def __init__(
        self,
        model: SparseEventCodecModel,
        optimizer: torch.optim.Optimizer,
        discriminator: nn.Module | None = None,
        discriminator_optimizer: torch.optim.Optimizer | None = None,
    ):
        self.model, self.optimizer = model, optimizer
        self.discriminator, self.discriminator_optimizer = discriminator, discriminator_optimizer

    def __call__(
        self, waveforms: torch.Tensor, excitation_noise: torch.Tensor, event_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Moves both models by one step.

        Args:
            waveforms: (B, N), a window each.
            excitation_noise: (B, K, 8192), of as many events as there shall be.
            event_mask: (B, K), 1 for events that the discriminator hears.

        Returns:
            `iterative`, `vectors_l1`, `generator`, `total` of the model's loss; `discriminator`, its own; and
            `vectors`, `frames`, `gains` (B, K, ...) and the sum `waveforms` of the events.
        """
        self.optimizer.zero_grad()
        if self.discriminator is not None:
            self.discriminator.zero_grad()
        terms = self.backward(waveforms, excitation_noise, event_mask)
        self.optimizer.step()
        if self.discriminator is not None and self.discriminator_optimizer is not None:
            self.discriminator.zero_grad()
            real, fake = self.discriminator(faded(waveforms)), self.discriminator(faded(terms["waveforms"]))
            loss = fake.abs().mean() + (1 - real).abs().mean()
            loss.backward()
            self.discriminator_optimizer.step()
            terms["discriminator"] = loss.detach()
        return terms

    def backward(
        self, waveforms: torch.Tensor, excitation_noise: torch.Tensor, event_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Adds the gradients of the model's loss, an event at a time."""
        model, num_events = self.model, excitation_noise.shape[1]
        num_frames, half = model.config.num_frames, model.config.selection_frames
        with torch.no_grad():
            target = loss_features(faded(waveforms))
            left = target
            residuals, picks = [model.spectrum(waveforms, num_frames)], []
            sums = torch.zeros_like(waveforms), torch.zeros_like(waveforms)  # all events, those that are heard
            for number in range(num_events):
                picks.append(model.pick(residuals[-1], half))
                sound = model.renderer(*picks[-1], excitation_noise[:, number])
                residuals.append(residuals[-1] - model.spectrum(sound, num_frames))
                left = [before - part for before, part in zip(left, loss_features(sound), strict=True)]
                sums = sums[0] + sound, sums[1] + event_mask[:, number, None] * sound
            iterative = _norm(left) - _norm(target)
            signs = [part.sign() for part in left]
        vectors, frames, gains = (torch.stack(column, dim=1) for column in zip(*picks, strict=True))
        terms = {"iterative": iterative, "vectors_l1": _VECTOR_WEIGHT * vectors.abs().sum()}
        slope = torch.zeros_like(waveforms)
        if self.discriminator is not None:
            heard = sums[1].requires_grad_()
            terms["generator"] = (1 - self.discriminator(heard)).abs().mean()
            (slope,) = torch.autograd.grad(_ADVERSARIAL_WEIGHT * terms["generator"], heard)
            terms["generator"] = terms["generator"].detach()
        terms["total"] = iterative + terms["vectors_l1"] + _ADVERSARIAL_WEIGHT * terms.get("generator", 0.0)
        for number in range(num_events):
            vector, frame, gain = model.pick(residuals[number], half)
            sound = model.renderer(vector, frame, gain, excitation_noise[:, number])
            loss = _VECTOR_WEIGHT * vector.abs().sum() + (event_mask[:, number, None] * slope * sound).sum()
            for sign, part in zip(signs, loss_features(sound), strict=True):
                loss = loss - (sign * part).sum()
            loss.backward()
        return terms | {"vectors": vectors, "frames": frames, "gains": gains, "waveforms": sums[0]}


def _norm(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([part.abs().sum() for part in parts]).sum()
