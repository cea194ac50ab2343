"""How an error reaches the user: as one line."""

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import typer

from wavtokenizer_hf.audio.shown import folded, printable
from wavtokenizer_hf.audio_input import RecordingWarning
from wavtokenizer_hf.conversion.errors import UsageError

# What a caller can get wrong or a machine can lack. Anything else is a mistake of ours, and its type is shown.
_EXPECTED = (OSError, ValueError, RuntimeError, ImportError)


def describe(error: BaseException) -> str:
    """The error's message on one line."""
    message = folded(str(error))
    if isinstance(error, _EXPECTED) and message:
        return message
    return f"{type(error).__name__}{': ' if message else ''}{message} (--debug shows where)"


def report(error: BaseException, *, about: str = "", debug: bool = False) -> None:
    """Prints an error to stderr, with the traceback in front of it if `debug`."""
    if debug:
        typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    message, about = describe(error), printable(about)
    say(f"error: {about}: {message}" if about and about not in message else f"error: {message}", err=True)


def say(text: object, err: bool = False) -> None:
    """Prints one line, in which nothing acts upon the terminal, whatever names it quotes."""
    with unless_nobody_reads():
        typer.echo(printable(str(text)), err=err)


@contextlib.contextmanager
def unless_nobody_reads() -> Iterator[None]:
    """Ends the process well if what reads the output inside the block has gone, as `head` does when it has enough."""
    try:
        yield
    except BrokenPipeError:
        leave_quietly()


def leave_quietly() -> NoReturn:
    # What is still in the buffer would make Python complain at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)


@contextlib.contextmanager
def reporting(debug: bool) -> Iterator[None]:
    """Ends the command with status 1 and one line on any error inside the block; wrong use keeps its status 2.

    What there is to say of recordings becomes a line, too.
    """
    try:
        with _recordings_heard():
            yield
    except (typer.Exit, typer.Abort):
        raise
    except typer.BadParameter as error:
        error.message = folded(error.message)
        raise
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None
    except Exception as error:
        report(error, debug=debug)
        raise typer.Exit(1) from None


@contextlib.contextmanager
def wrong_use(*kinds: type[Exception], debug: bool = False) -> Iterator[None]:
    """Ends the command with status 2 and one line on an error of these kinds, which what the user named has caused."""
    try:
        yield
    except kinds as error:
        report(error, debug=debug)
        raise typer.Exit(2) from None


@contextlib.contextmanager
def _recordings_heard() -> Iterator[None]:
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if issubclass(category, RecordingWarning):
                say(f"warning: {folded(str(message))}", err=True)
            else:
                others(message, category, *place)

        warnings.simplefilter("always", RecordingWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield
