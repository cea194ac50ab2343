"""What is found by a name and imported when it is asked for; and which class serves which type of model."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from wavtokenizer_hf.codecs.codec import Codec

Kind = TypeVar("Kind")


class Registry(Generic[Kind]):
    """Classes by their names.

    Args:
        key: What names one, for messages.
        places: Where the package's own lie, by name: `module:class`. One is imported when it is asked for.
        names_of: The names of a class that is registered.
    """

    def __init__(
        self,
        key: str,
        places: Mapping[str, str],
        names_of: Callable[[Any], Iterable[str]] = lambda kind: (kind.name,),
    ):
        self.key = key
        self._places = dict(places)
        self._names_of = names_of
        self._registered: dict[str, type[Kind]] = {}

    @property
    def names(self) -> list[str]:
        """All that are known."""
        return list({**self._places, **self._registered})

    def register(self, kind: type[Kind]) -> type[Kind]:
        """Makes a class known by its names; usable as a decorator."""
        self._registered |= dict.fromkeys(self._names_of(kind), kind)
        return kind

    def find(self, name: str) -> type[Kind]:
        """The class of a name.

        Raises:
            ValueError: If there is none; the message names those that are known.
        """
        if name not in self._registered:
            if name not in self._places:
                raise ValueError(f"`{self.key}` must be one of {', '.join(self.names)}, got {name!r}.")
            module, _, kind = self._places[name].partition(":")
            self.register(getattr(importlib.import_module(module), kind))
        return self._registered[name]


families: Registry[Codec] = Registry(
    "model_type",
    {
        "wavtokenizer": "wavtokenizer_hf.families.wavtokenizer:WavTokenizerCodec",
        "wavtokenizer_causal": "wavtokenizer_hf.families.wavtokenizer:WavTokenizerCodec",
        "wavtokenizer_encoder": "wavtokenizer_hf.families.wavtokenizer:WavTokenizerCodec",
        "sparse_event_codec": "wavtokenizer_hf.families.sparse_event_codec:SparseEventCodec",
    },
    lambda family: family.model_types,
)
register = families.register


def family_of(model_type: str) -> type[Codec]:
    """The class that serves a type of model.

    Raises:
        ValueError: If none does; the message names those that are known.
    """
    if model_type not in families.names:
        raise ValueError(f"no codec is known for models of type {model_type!r}, only for {', '.join(families.names)}")
    return families.find(model_type)


def codec_of(model: Any, feature_extractor: Any = None, *, name: str = "", fingerprint: str | None = None) -> Codec:
    """A model under the calls that all families share; a `Codec` stays as it is.

    Raises:
        ValueError: If no family serves its type, or the feature extractor is another codec's.
    """
    if isinstance(model, Codec):
        return model
    family = family_of(getattr(model.config, "model_type", type(model).__name__))
    return family(model, feature_extractor, name=name, fingerprint=fingerprint)
