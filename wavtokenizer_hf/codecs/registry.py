"""Which class serves which type of model."""

import importlib
from typing import Any

from wavtokenizer_hf.codecs.codec import Codec

# Where a family's class lies, by the type of model. It is imported when a model of that type is met.
_PLACES = {
    "wavtokenizer": "wavtokenizer_hf.families.wavtokenizer:WavTokenizerCodec",
    "wavtokenizer_causal": "wavtokenizer_hf.families.wavtokenizer:WavTokenizerCodec",
    "wavtokenizer_encoder": "wavtokenizer_hf.families.wavtokenizer:WavTokenizerCodec",
    "sparse_event_codec": "wavtokenizer_hf.families.sparse_event_codec:SparseEventCodec",
}
_REGISTERED: dict[str, type[Codec]] = {}


def register(family: type[Codec]) -> type[Codec]:
    """Makes a family known, for all of its types of model; usable as a decorator."""
    for model_type in family.model_types:
        _REGISTERED[model_type] = family
    return family


def model_types() -> list[str]:
    """All that are known."""
    return list({**_PLACES, **_REGISTERED})


def family_of(model_type: str) -> type[Codec]:
    """The class that serves a type of model.

    Raises:
        ValueError: If none does; the message names those that are known.
    """
    if model_type not in _REGISTERED:
        if model_type not in _PLACES:
            raise ValueError(
                f"no codec is known for models of type {model_type!r}, only for {', '.join(model_types())}"
            )
        module, _, name = _PLACES[model_type].partition(":")
        register(getattr(importlib.import_module(module), name))
    return _REGISTERED[model_type]


def codec_of(model: Any, feature_extractor: Any = None, *, name: str = "", fingerprint: str | None = None) -> Codec:
    """A model under the calls that all families share; a `Codec` stays as it is.

    Raises:
        ValueError: If no family serves its type, or the feature extractor is another codec's.
    """
    if isinstance(model, Codec):
        return model
    family = family_of(getattr(model.config, "model_type", type(model).__name__))
    return family(model, feature_extractor, name=name, fingerprint=fingerprint)
