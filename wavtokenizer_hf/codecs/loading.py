"""A codec by the name of its folder, whichever family it is of."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.utils import logging

from wavtokenizer_hf.checkpoints import find_model, reading_model
from wavtokenizer_hf.codecs.codec import Codec, Part
from wavtokenizer_hf.codecs.registry import families, family_of


def load_config(name: str, revision: str = "main") -> PreTrainedConfig:
    """The configuration in a folder or at a Hub id, of its family's class.

    Raises:
        OSError: If there is none.
        ValueError: If it is that of another kind of model, or cannot be read.
    """
    if Path(name).is_dir():
        # Reading a folder takes a moment; a download keeps its bars.
        logging.disable_progress_bar()
    with reading_model(name):
        try:
            values, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
        except OSError as error:
            raise OSError(f"{name} is neither a folder here nor to be had from the Hub: {error}") from error
        model_type = values.get("model_type")
        if model_type not in families.names:
            known = " or ".join(map(repr, families.names))
            raise ValueError(f"{name} holds a model of type {model_type!r}, expected {known}")
        return family_of(model_type).config_class.from_pretrained(name, revision=revision)


def load_codec(
    name: str,
    part: Part = "whole",
    *,
    revision: str = "main",
    device: str | torch.device = "cpu",
    dtype: str = "float32",
) -> Codec:
    """Loads a codec with its feature extractor and its fingerprint, ready to run.

    Args:
        name: A folder, a Hub id, or the checkpoint of the package.
        part: `"encoder"` leaves unread what only decoding needs. `"decoder"` reads the encoder too where there is one,
            since the fingerprint covers it. `"stored"` takes what there is.
        dtype: torch's name; `"stored"` keeps that of the checkpoint and takes no fingerprint.

    Raises:
        OSError: If there is no such folder or repository.
        ValueError: If it holds another kind of model, lacks the part, or does not load.

    Example:

    ```python
    >>> codec = load_codec("nano-75")
    >>> codes = codec.encode(input_values)
    >>> audio_values = codec.decode(codes.audio_codes, codes.mask)
    ```
    """
    name = find_model(name)
    is_folder = Path(name).is_dir()
    config = load_config(name, revision)
    family = family_of(config.model_type)
    model_class: Any = family.model_class(config, part)
    keeps_dtype = dtype == "stored"
    with reading_model(name):
        model, loaded = model_class.from_pretrained(
            name,
            revision=revision,
            dtype="auto" if keeps_dtype else torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
        if is_folder and not Path(name, "preprocessor_config.json").is_file():
            # What saving a model alone leaves; everything that the file would say follows from the config.
            extractor: Any = family.extractor_for(config)
        else:
            extractor = family.extractor_class.from_pretrained(name, revision=revision)  # type: ignore[attr-defined]
        codec = family(model.eval(), extractor, name=Path(name).resolve().name if is_folder else name)
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise ValueError(f"{name} lacks weights of {model_class.__name__}: {missing[0]} ({len(missing)} in all)")
    if not keeps_dtype:
        codec.fingerprint = codec.take_fingerprint()
    model.to(device) if keeps_dtype else model.to(device=device, dtype=getattr(torch, dtype))
    return codec
