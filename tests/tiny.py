"""Small models for tests: the codec's whole structure at a width that runs in milliseconds."""

import torch

from wavtokenizer_hf import WavTokenizerCausalConfig, WavTokenizerConfig, WavTokenizerModel

_SIZES = {
    "num_filters": 4,
    "upsampling_ratios": [5, 4, 2, 2],
    "hidden_size": 16,
    "codebook_size": 64,
    "decoder_hidden_size": 16,
    "decoder_intermediate_size": 32,
    "decoder_num_layers": 2,
    "decoder_attention_num_groups": 4,
}


def tiny_config(**changes) -> WavTokenizerConfig:
    """A configuration with hop 80 and 64 codes of width 16; `changes` replace fields."""
    return WavTokenizerConfig(**(_SIZES | changes))


def tiny_causal_config(**changes) -> WavTokenizerCausalConfig:
    """As `tiny_config`, causal, with attention over 8 frames."""
    return WavTokenizerCausalConfig(**(_SIZES | {"attention_window": 8} | changes))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal noise of deviation 0.3 that depends on nothing but its shape and seed."""
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def randomise(model: WavTokenizerModel, seed: int = 0) -> WavTokenizerModel:
    """Gives a model a state in which nothing is trivial.

    As `_init_weights` draws it, a model hardly reacts to its input. Here the codebook's entries are latents of noise,
    and these differ widely, so codes vary from frame to frame; and the rows of the adaptive norms differ, so bandwidth
    ids do.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        if name.endswith("weight.original0"):  # the length of each filter
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif name.endswith(("bias", "shift.weight")) or "bias_" in name:
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
        elif "norm" in name or name.endswith("gamma"):
            tensor.copy_(1 + 0.3 * torch.randn(tensor.shape, generator=generator))
        else:
            fan_in = tensor[0].numel()
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * fan_in**-0.5)
    codebook = model.encoder_model.quantizer.codebook
    size, hop_length = model.config.codebook_size, model.config.hop_length
    latents, _ = model.encoder_model.encoder(noise(1, 1, 3 * size * hop_length, seed=seed + 1))
    codebook.embed.copy_(latents[0].T[torch.randperm(3 * size, generator=generator)[:size]])
    codebook.embed_avg.copy_(codebook.embed)
    codebook.cluster_size.fill_(1)
    codebook.inited.fill_(1)
    return model


def tiny_model(seed: int = 0, **changes) -> WavTokenizerModel:
    """A tiny codec in eval mode with a seeded random state whose codes vary."""
    return randomise(WavTokenizerModel(tiny_config(**changes)), seed).eval()


def tiny_causal_model(seed: int = 0, **changes) -> WavTokenizerModel:
    """As `tiny_model`, causal."""
    return randomise(WavTokenizerModel(tiny_causal_config(**changes)), seed).eval()
