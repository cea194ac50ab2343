"""Which arithmetic runs is chosen by `eval()` and `train()`, and by nothing else."""

import pytest
import torch
import torch.nn.functional as F

from tests.tiny import noise, tiny_causal_model, tiny_model
from wavtokenizer_hf import arithmetic_wavtokenizer
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerELU


@pytest.mark.parametrize("num_samples", [437, 9000])
@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("make", [tiny_model, tiny_causal_model])
def test_recording_gradients_changes_no_number(make, is_padded, num_samples, monkeypatch):
    monkeypatch.setattr(arithmetic_wavtokenizer, "_NUMBERS_AT_ONCE_ON_CPU", 4 * 80 * 20)  # the longer clip in pieces
    model, clips = make(), noise(2, 1, num_samples)
    mask = (torch.arange(num_samples) < torch.tensor([[num_samples], [num_samples // 2]])) if is_padded else None
    found = []
    for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with context():
            encoded = model.encode(clips, mask, output_latents=True)
            codes_mask = encoded.audio_codes_mask if is_padded else None
            latents = encoded.quantized_latents
            decoded = model.decode(quantized_latents=latents, audio_codes_mask=codes_mask)
            found.append((encoded.encoder_latents, latents, decoded.audio_values))
    assert found[2][2].requires_grad
    for without, other in zip(found[0] * 2, [*found[1], *found[2]], strict=True):
        assert torch.equal(without, other)


def test_both_kinds_of_arithmetic_have_the_same_gradients():
    gradients = []
    for is_training in (False, True):
        encoder = tiny_model().encoder_model.encoder.train(is_training)
        clips = noise(2, 1, 3000).requires_grad_()
        encoder(clips)[0].square().mean().backward()
        gradients.append([clips.grad, *(parameter.grad for parameter in encoder.parameters())])
    for fast, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-5)


def test_in_training_the_activation_is_torch_s_own_and_else_as_near_as_rounding():
    signal = torch.cat([noise(10_000), 1e-4 * noise(10_000), torch.tensor([0.0, -0.0, -200.0])])
    layer, expected = WavTokenizerELU(), F.elu(signal)
    assert torch.equal(layer.train()(signal), expected)
    fast = layer.eval()(signal)
    assert 0 < (fast - expected).abs().max() <= 6e-8
