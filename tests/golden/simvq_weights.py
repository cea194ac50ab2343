"""Deterministic stand-in weights in the layout of SimVQ's audio checkpoints (no trained weights are used).

Encoder, backbone and head are those of WavTokenizer at hop 320, drawn by `reference_weights.py` and renamed; what
SimVQ adds is drawn here. As in the originals, a file holds every learned tensor twice: under its own name, disturbed
here, and as its moving average `model_ema.<name without dots>`, with which the recordings were made.
"""

from pathlib import Path

import numpy as np
import torch

from tests.golden import reference_weights

MANIFEST = Path(__file__).with_name("manifest_hop320.json")
WIDTH = 512


def _draw(seed: int, name: str, *shape: int) -> np.ndarray:
    return reference_weights._stream(seed, name).standard_normal(shape)


def _averages(seed: int) -> dict[str, torch.Tensor]:
    manifest = reference_weights.load_manifest(MANIFEST)
    kept = ("feature_extractor.encodec.encoder.", "backbone.", "head.out")
    averages = {}
    for name, tensor in reference_weights.reference_state_dict(manifest, seed, kept).items():
        name = name.removeprefix("feature_extractor.encodec.")
        if name.endswith((".scale.weight", ".shift.weight")):
            name = name.replace(".scale.weight", ".weight").replace(".shift.weight", ".bias")
            tensor = tensor[0]
        averages[name] = tensor
    profile = 1 / (1 + np.arange(WIDTH) / manifest["latent_knee"])
    weight, bias = "quantize.embedding_proj.weight", "quantize.embedding_proj.bias"
    mix = _draw(seed, weight, WIDTH, WIDTH) * 0.3 / WIDTH**0.5 + np.eye(WIDTH)
    averages[weight] = torch.from_numpy((mix * profile[:, None] * 1.5 * WIDTH**0.5).astype(np.float32))
    averages[bias] = torch.from_numpy((_draw(seed, bias, WIDTH) * 0.05 * profile).astype(np.float32))
    return averages


def simvq_state_dict(seed: int, codebook_size: int) -> dict[str, torch.Tensor]:
    """All tensors of a file, with a few of the parts that inference leaves out."""
    state = {}
    averages = _averages(seed)
    for name, tensor in averages.items():
        noise = torch.from_numpy(_draw(seed, f"raw.{name}", *tensor.shape).astype(np.float32))
        state[name] = tensor + 0.05 * tensor.std().nan_to_num(0.1) * noise
    table = "quantize.embedding.weight"
    state[table] = torch.from_numpy((_draw(seed, table, codebook_size, WIDTH) * WIDTH**-0.5).astype(np.float32))
    state["model_ema.decay"] = torch.tensor(0.999)
    state["model_ema.num_updates"] = torch.tensor(-1, dtype=torch.int)
    state |= {f"model_ema.{name.replace('.', '')}": tensor for name, tensor in averages.items()}
    state["head.istft.window"] = torch.hann_window(1280)
    for name in ("decoder.model.0.conv.conv.weight_v", "loss.multiperioddisc.discriminators.0.convs.0.weight_g"):
        state[name] = torch.ones(2, 3)
        state[f"model_ema.{name.replace('.', '')}"] = torch.ones(2, 3)
    return state


def write_simvq_checkpoint(path: Path, seed: int, codebook_size: int) -> None:
    """A file as Lightning writes it."""
    torch.save(
        {
            "epoch": 49,
            "global_step": 138600,
            "pytorch-lightning_version": "2.2.0",
            "state_dict": simvq_state_dict(seed, codebook_size),
            "loops": {},
            "optimizer_states": [],
            "lr_schedulers": [],
        },
        path,
    )
