"""What the benchmark of the codec of sparse events compares computes the same."""

import torch

from benchmarks.event_speed import plain_encoder, plain_renderer
from tests.tiny_events import tiny_model


def test_the_plain_arithmetic_gives_what_the_wavetable_gives():
    model = tiny_model("wavetable")
    torch.nn.init.normal_(model.renderer.room_responses[:, :500], std=0.1)
    vector, frame, gain = torch.randn(1, 8), torch.tensor([5]), torch.tensor([0.7])
    noise = model.renderer.excitation_noise(frame)
    with torch.no_grad():
        ours = model.renderer(vector, frame, gain, noise)
        plain = plain_renderer(model.renderer, vector, frame, gain, noise)
        assert torch.allclose(ours, plain, atol=2e-5 * float(plain.abs().max()))
        residual = torch.rand(1, 1024, 64)
        for one, other in zip(model.encoder(residual, 64), plain_encoder(model, residual), strict=True):
            assert torch.allclose(one, other, atol=1e-4)
