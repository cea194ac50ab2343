"""How every command of ours shows its options."""

from typing import Any

import typer.core


class _ShowingFlags:
    """Shows a flag as such in the help, without the type of a value that it does not take."""

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params


class Command(_ShowingFlags, typer.core.TyperCommand):
    """A command."""


class Group(_ShowingFlags, typer.core.TyperGroup):
    """All of them."""
