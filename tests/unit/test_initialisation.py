"""The encoder's start from data."""

import copy

import pytest
import torch

from tests.tiny import noise, tiny_causal_config, tiny_config
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerConv1d, WavTokenizerEncoder, WavTokenizerModel
from wavtokenizer_hf.training.initialisation import initialise_from_data


@pytest.fixture(params=[tiny_config, tiny_causal_config])
def encoder(request) -> WavTokenizerEncoder:
    """A new one, as torch and `_init_weights` draw it."""
    return WavTokenizerModel(request.param()).encoder_model.encoder


@pytest.fixture
def clips() -> torch.Tensor:
    return noise(3, 1, 4000)


@torch.no_grad()
def outputs_of_convolutions(encoder: WavTokenizerEncoder, clips: torch.Tensor) -> dict[str, torch.Tensor]:
    outputs = {}
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.update({name: output}))
        for name, module in encoder.named_modules()
        if isinstance(module, WavTokenizerConv1d)
    ]
    encoder(clips, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    return outputs


def test_every_convolution_gives_channels_of_mean_0_and_deviation_1(encoder, clips):
    initialise_from_data(encoder, clips)
    outputs = outputs_of_convolutions(encoder, clips)
    assert len(outputs) == 2 + 4 * 4  # first and last; in each of four stages two, a shortcut, and the strided one
    for name, output in outputs.items():
        mean, deviation = output.mean(dim=(0, 2)), output.std(dim=(0, 2))
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-4, msg=name)
        torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=1e-3, atol=0, msg=name)


def test_silence_leaves_the_encoder_as_it_was(encoder):
    before = copy.deepcopy(encoder)
    initialise_from_data(encoder, torch.zeros(2, 1, 4000))
    ours, theirs = (module.state_dict() for module in (encoder, before))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_silence_among_recordings_does_not_count(encoder, clips):
    other = copy.deepcopy(encoder)
    initialise_from_data(encoder, torch.cat([torch.full((1, 1, 4000), 0.5), clips, torch.zeros(3, 1, 4000)]))
    initialise_from_data(other, clips)
    torch.testing.assert_close(encoder.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_latents_react_to_the_recording(encoder, clips):
    def reaction() -> float:
        """How much latents differ from their mean, in units of their magnitude."""
        with torch.no_grad():
            latents, _ = encoder(clips)
        return ((latents - latents.mean(dim=(0, 2), keepdim=True)).norm() / latents.norm()).item()

    assert reaction() < 0.3
    initialise_from_data(encoder, clips)
    assert reaction() > 0.95


def test_directions_of_the_filters_stay_as_drawn(encoder, clips):
    before = copy.deepcopy(encoder)
    initialise_from_data(encoder, clips)
    changed = {
        name.rpartition("conv.")[2]
        for name, parameter in encoder.named_parameters()
        if not torch.equal(parameter, before.get_parameter(name))
    }
    assert changed == {"bias", "parametrizations.weight.original0"}


def test_silence_leaves_an_encoder_that_can_be_used(encoder, clips):
    initialise_from_data(encoder, torch.zeros(2, 1, 800))
    assert all(parameter.isfinite().all() for parameter in encoder.parameters())


def test_nothing_stays_hooked_to_the_encoder(encoder, clips):
    initialise_from_data(encoder, clips)
    started = copy.deepcopy(encoder)
    with torch.no_grad():
        encoder(2 * clips + 1)
    torch.testing.assert_close(encoder.state_dict(), started.state_dict(), rtol=0, atol=0)
