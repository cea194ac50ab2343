"""Tiny checkpoints of WavTokenizer and SimVQ, for tests: their key names and structure, written out by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

DISCRIMINATORS = (
    "multiperioddisc.discriminators.0.convs.0.weight_g",
    "multiresddisc.discriminators.0.emb.weight",
    "dac.discriminators.0.convs.0.0.weight_v",
    "dacdiscriminator.discriminator.discriminators.0.convs.0.0.weight_v",
)
TRAINING_ONLY = (
    "feature_extractor.encodec.decoder.model.0.conv.conv.bias",
    "melspec_loss.mel_spec.mel_scale.fb",
    *DISCRIMINATORS,
)


def original_shapes(
    ratios: Sequence[int] = (5, 4, 2, 2), filters: int = 4, latent: int = 16, width: int = 32, layers: int = 2
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the generator. `ratios` is in the order of the YAML; `width` must be a multiple of 32."""
    encoder = "feature_extractor.encodec.encoder.model."
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, outputs: int, inputs: int, kernel: int) -> None:
        shapes[f"{name}.conv.conv.bias"] = (outputs,)
        shapes[f"{name}.conv.conv.weight_g"] = (outputs, 1, 1)
        shapes[f"{name}.conv.conv.weight_v"] = (outputs, inputs, kernel)

    conv(f"{encoder}0", filters, 1, 7)
    index, channels = 1, filters
    for ratio in reversed(ratios):
        conv(f"{encoder}{index}.block.1", channels // 2, channels, 3)
        conv(f"{encoder}{index}.block.3", channels, channels // 2, 1)
        conv(f"{encoder}{index}.shortcut", channels, channels, 1)
        conv(f"{encoder}{index + 2}", 2 * channels, channels, 2 * ratio)
        index, channels = index + 3, 2 * channels
    for layer in range(2):
        for weight in ("weight_ih", "weight_hh"):
            shapes[f"{encoder}{index}.lstm.{weight}_l{layer}"] = (4 * channels, channels)
        for bias in ("bias_ih", "bias_hh"):
            shapes[f"{encoder}{index}.lstm.{bias}_l{layer}"] = (4 * channels,)
    conv(f"{encoder}{index + 2}", latent, channels, 7)

    codebook = "feature_extractor.encodec.quantizer.vq.layers.0._codebook."
    shapes |= {f"{codebook}inited": (1,), f"{codebook}cluster_size": (64,)}
    shapes |= {f"{codebook}embed": (64, latent), f"{codebook}embed_avg": (64, latent)}

    def affine(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"] = weight
        shapes[f"{name}.bias"] = weight[:1]

    affine("backbone.embed", width, latent, 7)
    for block in (0, 1, 3, 4):
        for norm, convolution in (("norm1", "conv1"), ("norm2", "conv2")):
            affine(f"backbone.pos_net.{block}.{norm}", width)
            affine(f"backbone.pos_net.{block}.{convolution}", width, width, 3)
    affine("backbone.pos_net.2.norm", width)
    for projection in ("q", "k", "v", "proj_out"):
        affine(f"backbone.pos_net.2.{projection}", width, width, 1)
    affine("backbone.pos_net.5", width)
    for norm in ("backbone.norm", *(f"backbone.convnext.{layer}.norm" for layer in range(layers))):
        shapes |= {f"{norm}.scale.weight": (4, width), f"{norm}.shift.weight": (4, width)}
    for layer in range(layers):
        shapes[f"backbone.convnext.{layer}.gamma"] = (width,)
        affine(f"backbone.convnext.{layer}.dwconv", width, 1, 7)
        affine(f"backbone.convnext.{layer}.pwconv1", 48, width)
        affine(f"backbone.convnext.{layer}.pwconv2", width, 48)
    affine("backbone.final_layer_norm", width)
    n_fft = 4 * torch.Size(ratios).numel()
    affine("head.out", n_fft + 2, width)
    shapes["head.istft.window"] = (n_fft,)
    return shapes


def original_state(training_modules: bool = True, seed: int = 0, **geometry: Any) -> dict[str, torch.Tensor]:
    """The state dict of a tiny checkpoint, with random values and `inited` set."""
    shapes = original_shapes(**geometry)
    if training_modules:
        shapes |= dict.fromkeys(TRAINING_ONLY, (3, 2))
    generator = torch.Generator().manual_seed(seed)
    state = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    state["feature_extractor.encodec.quantizer.vq.layers.0._codebook.inited"].fill_(1)
    return state


def simvq_state(averages: bool = True, seed: int = 0, **geometry: Any) -> dict[str, torch.Tensor]:
    """The state dict of a tiny checkpoint of SimVQ: 64 entries; moving averages that differ from the tensors."""
    state = {}
    for name, tensor in original_state(training_modules=False, seed=seed, **geometry).items():
        name = name.removeprefix("feature_extractor.encodec.")
        if name.startswith("quantizer."):
            continue
        if ".scale." in name or ".shift." in name:
            name = name.replace("scale.weight", "weight").replace("shift.weight", "bias")
            tensor = tensor[0].clone()
        state[name] = tensor
    generator = torch.Generator().manual_seed(seed)
    width = len(state["backbone.embed.weight"][0])
    state["quantize.embedding_proj.weight"] = torch.randn(width, width, generator=generator)
    state["quantize.embedding_proj.bias"] = torch.randn(width, generator=generator)
    learned = {name: tensor for name, tensor in state.items() if name != "head.istft.window"}
    state["quantize.embedding.weight"] = torch.randn(64, width, generator=generator)
    state |= {"decoder.model.0.conv.conv.bias": torch.ones(2), "loss.multiresddisc.x.weight_g": torch.ones(2)}
    if averages:
        state |= {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(-1, dtype=torch.int)}
        state |= {f"model_ema.{name.replace('.', '')}": 0.9 * tensor for name, tensor in learned.items()}
    return state


def write_checkpoint(path: Path, state: dict[str, Any] | None = None, **entries: Any) -> Path:
    """Saves a state dict as Lightning does; `entries` are added to what it writes beside it."""
    torch.save(
        {
            "epoch": 3,
            "global_step": 12,
            "pytorch-lightning_version": "1.8.6",
            "state_dict": original_state() if state is None else state,
            "loops": {},
            "callbacks": {},
            "optimizer_states": [],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            "hyper_parameters": {"sample_rate": 24000, "resume": False},
        }
        | entries,
        path,
    )
    return path
