"""The command line: `wavtokenizer COMMAND …`. Each command has a file of its own.

Importing these files imports nothing heavy, so that help, wrong use and completion come at once: what a command needs
for its work is imported when it runs.
"""

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from wavtokenizer_hf import __version__
from wavtokenizer_hf.audio.atomic import unwinding_when_terminated
from wavtokenizer_hf.audio.shown import folded
from wavtokenizer_hf.cli.convert import EPILOG, convert
from wavtokenizer_hf.cli.decode import decode
from wavtokenizer_hf.cli.encode import encode
from wavtokenizer_hf.cli.errors import leave_quietly, say
from wavtokenizer_hf.cli.evaluate import evaluate
from wavtokenizer_hf.cli.export_hub import export_hub
from wavtokenizer_hf.cli.export_tokens import export_tokens
from wavtokenizer_hf.cli.grammar import Command, Group
from wavtokenizer_hf.cli.info import info
from wavtokenizer_hf.cli.reconstruct import reconstruct
from wavtokenizer_hf.cli.status import status
from wavtokenizer_hf.cli.tokenize_corpus import tokenize_corpus
from wavtokenizer_hf.cli.train import train
from wavtokenizer_hf.cli.verify import verify

app = typer.Typer(
    name="wavtokenizer",
    cls=Group,
    help="Turns recordings into WavTokenizer codes and back.",
    epilog="Exit status: 0 all went well, 1 something failed, 2 wrong use.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"wavtokenizer-hf {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


for _command in (
    encode,
    decode,
    reconstruct,
    evaluate,
    train,
    info,
    tokenize_corpus,
    status,
    export_tokens,
    export_hub,
    verify,
):
    app.command(cls=Command)(_command)
app.command(epilog=EPILOG, cls=Command)(convert)


def _show_warning(message: Warning | str, *_args: object, **_kwargs: object) -> None:
    say(f"warning: {folded(str(message))}", err=True)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits with its status.

    Args:
        arguments: What follows the program's name; `None` means those of the process.
    """
    with unwinding_when_terminated(), warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            app(args=None if arguments is None else list(arguments), prog_name="wavtokenizer")
        except SystemExit as ended:
            if isinstance(ended.__context__, BrokenPipeError):  # of what printed help or a table
                leave_quietly()
            raise
    sys.exit(0)
