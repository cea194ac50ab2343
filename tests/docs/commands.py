"""Runs the project's own commands in this process: in one of their own, each would import torch anew, for seconds."""

import shlex

import torch
from typer.testing import CliRunner

from wavtokenizer_hf.cli import app

_SHELL_SYNTAX = set("|&;<>()$`*?[]{}~#!")


def is_own_command(line: str) -> bool:
    """Whether a line of shell is one command of the project, with nothing in it that only a shell understands."""
    return line.startswith("wavtokenizer ") and not _SHELL_SYNTAX & set(line)


def run_own_command(line: str) -> None:
    """Runs it.

    Raises:
        RuntimeError: If its exit status is not 0; the message has what it printed.
    """
    with torch.enable_grad():  # whatever a document before it switched off in this process
        result = CliRunner().invoke(app, shlex.split(line)[1:])
    if result.exit_code:
        raise RuntimeError(f"`{line}` ended with status {result.exit_code}: {result.output}")
