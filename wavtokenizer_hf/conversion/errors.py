"""What can go wrong, in one line each: a checkpoint is somebody else's file, and so is every name in it."""

from collections.abc import Iterable

from wavtokenizer_hf.audio.shown import folded

_LISTED = 20
_NAME_LENGTH = 160


class ConversionError(ValueError):
    """The conversion or the verification failed."""

    def __init__(self, message: str):
        super().__init__(folded(message))


class UsageError(ConversionError):
    """The arguments name something that cannot be converted, or a place that cannot be written to."""


def listed(names: Iterable[object]) -> str:
    """Names for an error message: all of them up to 20, then how many more there are."""
    shown = [folded(str(name))[:_NAME_LENGTH] for name in names]
    more = f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
    return ", ".join(shown[:_LISTED]) + more
