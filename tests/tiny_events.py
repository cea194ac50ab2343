"""Small models of the codec of sparse events, and sounds for them."""

import torch

from wavtokenizer_hf.configuration_sparse_event_codec import SparseEventCodecConfig
from wavtokenizer_hf.modeling_sparse_event_codec import SparseEventCodecModel

# Half a window is 8192 samples, which is where the next one begins.
TINY = {
    "oscillator": {
        "num_frames": 64,
        "num_events": 8,
        "picks_per_pass": 4,
        "num_mel_bins": 20,
        "hidden_size": 16,
        "dilations": (1, 2, 4, 1),
        "num_partials": 6,
        "num_noise_bands": 4,
        "event_samples": 4096,
        "renderer_hidden_size": 16,
        "event_dim": 4,
        "fsq_levels": (4, 4, 3, 5),
    },
    "wavetable": {
        "num_frames": 64,
        "num_events": 3,
        "hidden_size": 16,
        "event_dim": 8,
        "dilations": (1, 2, 4, 1),
        "num_noise_filters": 5,
        "noise_filter_samples": 16,
        "noise_expressivity": 2,
        "instr_expressivity": 2,
        "noise_deformations": 3,
        "num_deformations": 3,
        "num_resonances": 6,
        "num_envelopes": 4,
        "num_decays": 4,
        "num_rooms": 2,
    },
}


def tiny_config(renderer: str = "oscillator", **changes) -> SparseEventCodecConfig:
    return SparseEventCodecConfig(renderer=renderer, **(TINY[renderer] | changes))


def tiny_model(renderer: str = "oscillator", seed: int = 0, **changes) -> SparseEventCodecModel:
    torch.manual_seed(seed)
    model = SparseEventCodecModel(tiny_config(renderer, **changes)).eval()
    # Without training, most frames are switched off.
    torch.nn.init.constant_(model.encoder.switch_head.bias, 1.0)
    return model


def sounds(num_samples: int, batch_size: int = 1, seed: int = 0) -> torch.Tensor:
    """(B, 1, N): tones that come and go, over noise."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.arange(num_samples) / 22050
    hertz = 100 + 500 * torch.rand(batch_size, 1, generator=generator)
    noise = torch.randn(batch_size, num_samples, generator=generator)
    return (0.3 * torch.sin(6.2832 * hertz * times) * torch.sin(9 * times) ** 2 + 0.01 * noise)[:, None]
