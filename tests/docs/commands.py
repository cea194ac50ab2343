"""Runs the project's own commands in this process: in one of their own, each would import torch anew, for seconds."""

import shlex

import torch
from typer.testing import CliRunner

import conversion.__main__
import wavtokenizer_hf.cli

_APPS = {"wavtokenizer": wavtokenizer_hf.cli.app, "python -m conversion": conversion.__main__.app}
_SHELL_SYNTAX = set("|&;<>()$`*?[]{}~#!")


def is_own_command(line: str) -> bool:
    """Whether a line of shell is one command of the project, with nothing in it that only a shell understands."""
    return any(line.startswith(f"{name} ") for name in _APPS) and not _SHELL_SYNTAX & set(line)


def run_own_command(line: str) -> None:
    """Runs it.

    Raises:
        RuntimeError: If its exit status is not 0; the message has what it printed.
    """
    name = next(name for name in _APPS if line.startswith(f"{name} "))
    with torch.enable_grad():  # whatever a document before it switched off in this process
        result = CliRunner().invoke(_APPS[name], shlex.split(line.removeprefix(name)))
    if result.exit_code:
        raise RuntimeError(f"`{line}` ended with status {result.exit_code}: {result.output}")
