"""`wavtokenizer verify`: the proof of a conversion."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavtokenizer_hf.audio.shown import folded
from wavtokenizer_hf.cli import options
from wavtokenizer_hf.cli.errors import reporting, say
from wavtokenizer_hf.cli.jobs import StageBars

if TYPE_CHECKING:
    from wavtokenizer_hf.conversion.parity import Verification


def verify(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A converted folder.", show_default=False)],
    against: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE|REPO:FILE",
            help="The checkpoint that it came from, as convert takes it.",
            show_default=False,
        ),
    ],
    audio: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A recording to encode and decode.", show_default="a clip of the package"),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Prove that a converted folder holds the values of its checkpoint, and that it encodes and decodes audio.

    Example: wavtokenizer verify wavtokenizer-75 --against small-speech-75token
    """
    with reporting(debug):
        from transformers.utils.logging import disable_progress_bar

        from wavtokenizer_hf.conversion.parity import verify as verify_folder

        disable_progress_bar()
        with StageBars() as bars:
            found = verify_folder(out, against, audio=audio, progress=bars.update)
        _print(found)
        if found.differences:
            raise typer.Exit(1)


def _print(found: "Verification") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("checked", "found")
    table.add_row("tensors compared", f"{found.num_tensors} ({found.num_values} values)")
    if found.num_discriminators:
        table.add_row("discriminator tensors compared", str(found.num_discriminators))
    if (trip := found.round_trip) is not None:
        table.add_row("recording", f"{trip.duration_s:.2f} s")
        table.add_row("codes", f"{trip.num_codes} ({trip.num_distinct_codes} distinct)")
        table.add_row("level in, level out", f"{trip.rms_in:.4f}, {trip.rms_out:.4f} RMS")
    table.add_row("differences", str(len(found.differences)))
    Console().print(table)
    for difference in found.differences:
        say(folded(difference), err=True)
