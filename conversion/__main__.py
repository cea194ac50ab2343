"""The command line: `python -m conversion convert|verify|cards`. Exit status 0, 1 (failed) or 2 (wrong use)."""

from pathlib import Path
from typing import Annotated

import typer

from wavtokenizer_hf.audio.atomic import unwinding_when_terminated
from wavtokenizer_hf.cli.convert import EPILOG, convert
from wavtokenizer_hf.cli.errors import reporting
from wavtokenizer_hf.cli.grammar import Command
from wavtokenizer_hf.cli.verify import verify
from wavtokenizer_hf.conversion.cards import write_released_cards

app = typer.Typer(
    help="Checkpoints of the original WavTokenizer and of SimVQ, as folders that transformers loads.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(epilog=EPILOG, cls=Command)(convert)
app.command(cls=Command)(verify)


@app.command()
def cards(folder: Annotated[Path, typer.Argument(help="Where to write them.")] = Path("model_cards")) -> None:
    """Write the model card of each released checkpoint."""
    with reporting(debug=False):
        for path in write_released_cards(folder):
            typer.echo(path)


def main() -> None:
    with unwinding_when_terminated():
        app(prog_name="python -m conversion")


if __name__ == "__main__":
    main()
