"""Puts a trained codec among the package's checkpoints: `python -m wavtokenizer_hf.checkpoints.pack FOLDER NAME`.

Weights are stored in half precision, and compute in single precision: the configuration says float32, and loading
casts them. The codebook stays as it is.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from wavtokenizer_hf.configuration_wavtokenizer import WavTokenizerConfig
from wavtokenizer_hf.feature_extraction_wavtokenizer import WavTokenizerFeatureExtractor
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerModel

_CODEBOOK = "encoder_model.quantizer."


def pack(source: Path, target: Path) -> None:
    """Writes the codec of a folder, such as a run's checkpoint, into another one, at half its size.

    Raises:
        ValueError: If a weight exceeds what half precision can hold.
    """
    model = WavTokenizerModel.from_pretrained(source, dtype=torch.float32)
    tensors = {}
    for name, tensor in model.state_dict().items():
        stored = tensor if name.startswith(_CODEBOOK) else tensor.half()
        if not stored.isfinite().all():
            raise ValueError(f"{name} holds values beyond half precision; keep this codec in single precision")
        tensors[name] = stored.contiguous()
    target.mkdir(parents=True, exist_ok=True)
    weights = target / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # whoever installs the package may read it
    config: WavTokenizerConfig = model.config
    config.architectures = [type(model).__name__]
    config.dtype = torch.float32
    config.save_pretrained(target)
    WavTokenizerFeatureExtractor(sampling_rate=config.sampling_rate, hop_length=config.hop_length).save_pretrained(
        target
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the codec's folder")
    parser.add_argument("name", help="what to call it")
    arguments = parser.parse_args()
    pack(arguments.source, Path(__file__).parent / arguments.name)


if __name__ == "__main__":
    main()
