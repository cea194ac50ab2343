"""Two steps of the codec of sparse events' training equal two steps of the original's, in double precision."""

import copy

import numpy as np
import pytest
import torch
from conversion.event_codec import DISCRIMINATOR_KEPT, convert, to_ours

from tests.golden.events import event_reference_weights as weights
from tests.parity.events import clips, loaded_model, manifest, noise, original_state, recorded, training_numbers
from wavtokenizer_hf.training.event_losses import EventDiscriminator, faded, loss_features
from wavtokenizer_hf.training.event_step import TelescopingStep

SLICES = (("long", 200000), ("window", 80000)), (("long", 300000), ("window", 10000))
TERMS = {
    "iterative": "iterative",
    "vectors_l1": "vectors_l1",
    "generator": "G",
    "total": "total",
    "discriminator": "D",
}


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    heard = weights.event_mask(manifest("small")["seed"], step, 2, 8)[..., 0]
    return clips(32768, *SLICES[step]).double(), noise("small", 8, 2, first=8 * step), torch.from_numpy(heard)


@pytest.fixture(scope="module")
def run():
    """Both steps: their terms, and gradients and weights of both models after each, by our names."""
    model = loaded_model("small").double()
    discriminator = EventDiscriminator(model.config.num_samples, dropout=0.0)
    discriminator.load_state_dict(convert(original_state("small", "discriminator"), DISCRIMINATOR_KEPT), strict=True)
    discriminator = discriminator.double()
    optimizers = torch.optim.Adam(model.parameters(), 1e-4), torch.optim.Adam(discriminator.parameters(), 1e-3)
    step = TelescopingStep(model, optimizers[0], discriminator, optimizers[1])
    steps = []
    for number in range(2):
        terms = step(*batch(number))
        both = {"model": model, "disc": discriminator}
        state = {kind: dict(copy.deepcopy(module).named_parameters()) for kind, module in both.items()}
        grads = {
            kind: {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
            for kind, module in both.items()
        }
        steps.append((terms, state, grads))
    return steps


def ours_of(name: str) -> str | None:
    return to_ours(name, DISCRIMINATOR_KEPT if name.startswith("disc.") else to_ours.__defaults__[0])


@pytest.mark.parametrize("step", [0, 1])
def test_losses_are_the_originals(run, step):
    terms, numbers = run[step][0], training_numbers()
    for ours, theirs in TERMS.items():
        tolerance = 1e-7 if theirs in ("iterative", "total") else 1e-6
        assert float(terms[ours]) == pytest.approx(numbers[f"terms{step}/{theirs}"], rel=tolerance), theirs


@pytest.mark.parametrize("step", [0, 1])
def test_gradients_are_the_originals(run, step):
    compared = 0
    for key, expected in training_numbers().items():
        kind, _, name = key.partition(f"{step}/grad/")
        if not name or ours_of(name) is None:
            continue
        gradient = run[step][2][kind].get(ours_of(name))
        assert (gradient is not None) == expected["has_grad"], name
        if gradient is not None:
            assert float(gradient.norm()) == pytest.approx(expected["norm"], rel=(1e-4, 1e-3)[step], abs=1e-9), name
            compared += 1
    assert compared > 80


@pytest.mark.parametrize("step", [0, 1])
def test_weights_after_the_step_are_the_originals(run, step):
    arrays, compared = recorded("small", "training"), 0
    for key, expected in arrays.items():
        kind, _, name = key.removesuffix(".value").partition(f"{step}/after/")
        if not name or ours_of(name) is None:
            continue
        index = arrays[f"{kind}{0}/grad/{name}.index"]
        values = run[step][1][kind][ours_of(name)].detach().flatten().numpy()[index]
        assert np.abs(values - expected).max() < (1e-8, 1e-6)[step], name
        compared += 1
    assert compared > 80


def test_events_one_at_a_time_give_the_gradients_of_the_whole_graph():
    model = loaded_model("small").double()
    waveforms, bursts, heard = batch(0)
    bursts, heard = bursts[:, :2], heard[:, :2]
    step = TelescopingStep(model, torch.optim.SGD(model.parameters(), 1.0))
    step.backward(waveforms, bursts, heard)
    one_by_one = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    residual, vectors, sounds = model.spectrum(waveforms, 128), [], []
    for number in range(2):
        vector, frame, gain = model.pick(residual, 64)
        vectors.append(vector)
        sounds.append(model.renderer(vector, frame, gain, bursts[:, number]))
        residual = (residual - model.spectrum(sounds[-1], 128)).detach()
    left = loss_features(faded(waveforms))
    for sound in sounds:
        left = [before - part for before, part in zip(left, loss_features(sound), strict=True)]
    loss = sum(part.abs().sum() for part in left) + 1e-4 * torch.stack(vectors).abs().sum()
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, one_by_one[name], rtol=1e-7, atol=1e-8), name
