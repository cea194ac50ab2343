"""What plugs into a run by a name of its configuration."""

import importlib
from collections.abc import Mapping
from typing import Generic, TypeVar

Kind = TypeVar("Kind")


class Registry(Generic[Kind]):
    """Classes by their `name`.

    Args:
        key: The key of a run's configuration that names one.
        places: Where the package's own lie, by name: `module:class`. One is imported when it is asked for.
    """

    def __init__(self, key: str, places: Mapping[str, str]):
        self.key = key
        self._places = dict(places)
        self._registered: dict[str, type[Kind]] = {}

    @property
    def names(self) -> list[str]:
        """All that are known."""
        return list({**self._places, **self._registered})

    def register(self, kind: type[Kind]) -> type[Kind]:
        """Makes a class known by its `name`; usable as a decorator."""
        self._registered[kind.name] = kind  # type: ignore[attr-defined]
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
