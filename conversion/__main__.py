"""The command line: `python -m conversion convert|verify|cards`. Exit status 0, 1 (failed) or 2 (wrong use)."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from transformers.utils import logging as transformers_logging

from conversion.cards import write_released_cards
from conversion.checkpoints import RELEASED
from conversion.convert import convert
from conversion.errors import ConversionError, UsageError
from conversion.parity import verify
from wavtokenizer_hf.audio.atomic import unwinding_when_terminated
from wavtokenizer_hf.audio.shown import folded

app = typer.Typer(
    help="Checkpoints of the original WavTokenizer and of SimVQ, as folders that transformers loads.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_SOURCE_HELP = "A .ckpt file, REPO:FILE on the Hub, or the name of a released checkpoint."


@app.command("convert", epilog="Released checkpoints: " + ", ".join(release.name for release in RELEASED))
def convert_command(
    source: Annotated[str, typer.Argument(help=_SOURCE_HELP)],
    out: Annotated[Path, typer.Argument(help="A folder that does not exist or is empty.")],
    yaml: Annotated[
        Path | None, typer.Option(help="The original's YAML file, to check against what the tensors say.")
    ] = None,
    causal: Annotated[
        bool | None,
        typer.Option(
            "--causal/--no-causal",
            help="Whether the encoder of a checkpoint of SimVQ is causal, which no tensor shows. A YAML file says it, "
            "too; else it is taken to be, as published.",
            show_default=False,
        ),
    ] = None,
    keep_discriminators: Annotated[
        bool,
        typer.Option("--keep-discriminators", help="Also write discriminators.safetensors, for further training."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model that OUT holds.")] = False,
) -> None:
    """Convert a checkpoint to the folder OUT: weights, configuration and a model card."""
    with _reporting_errors(), _Bars() as bars:
        done = convert(
            source,
            out,
            yaml=yaml,
            causal=causal,
            keep_discriminators=keep_discriminators,
            overwrite=overwrite,
            progress=bars.update,
        )
    table = Table("keys", "what became of them")
    table.add_row(str(len(done.key_map.kept)), "converted")
    if keep_discriminators:
        table.add_row(str(len(done.key_map.discriminators)), "discriminators, kept under their own names")
    left_out = [row for row in done.key_map.dropped.values() if not (keep_discriminators and row.is_discriminator)]
    for row, count in Counter(left_out).items():
        table.add_row(
            str(count),
            f"dropped, {row.prefix}*: {row.reason}"
            if row.prefix[-1] == "."
            else f"dropped, {row.prefix}: {row.reason}",
        )
    console = Console()
    console.print(table)
    if done.yaml_settings:
        console.print(Text(f"The YAML agrees in {len(done.yaml_settings)} settings."))
    if done.remark:
        console.print(Text(done.remark), soft_wrap=True)
    console.print(
        Text(
            f"{folded(str(done.out))}: {done.config.frame_rate:g} codes a second, "
            f"{done.num_bytes / 1e6:.1f} MB of weights"
        ),
        soft_wrap=True,
    )


@app.command("verify")
def verify_command(
    out: Annotated[Path, typer.Argument(help="A converted folder.")],
    against: Annotated[str, typer.Option(help="The checkpoint it came from. " + _SOURCE_HELP)],
    audio: Annotated[Path | None, typer.Option(help="A recording to encode and decode; else a packaged clip.")] = None,
) -> None:
    """Prove that a converted folder holds the values of its checkpoint, and that it encodes and decodes audio."""
    transformers_logging.disable_progress_bar()
    with _reporting_errors(), _Bars() as bars:
        found = verify(out, against, audio=audio, progress=bars.update)
    table = Table("checked", "found")
    table.add_row("tensors compared", f"{found.num_tensors} ({found.num_values} values)")
    if found.num_discriminators:
        table.add_row("discriminator tensors compared", str(found.num_discriminators))
    if found.round_trip is not None:
        trip = found.round_trip
        table.add_row("recording", f"{trip.duration_s:.2f} s")
        table.add_row("codes", f"{trip.num_codes} ({trip.num_distinct_codes} distinct)")
        table.add_row("level in, level out", f"{trip.rms_in:.4f}, {trip.rms_out:.4f} RMS")
    table.add_row("differences", str(len(found.differences)))
    Console().print(table)
    for difference in found.differences:
        typer.echo(folded(difference), err=True)
    if found.differences:
        raise typer.Exit(1)


@app.command("cards")
def cards_command(
    folder: Annotated[Path, typer.Argument(help="Where to write them.")] = Path("model_cards"),
) -> None:
    """Write the model card of each released checkpoint."""
    with _reporting_errors():
        for path in write_released_cards(folder):
            typer.echo(path)


@contextmanager
def _reporting_errors() -> Iterator[None]:
    """One line for what is the file's or the user's fault; a traceback for what is ours."""
    try:
        yield
    except ConversionError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None


class _Bars:
    """A progress bar for each stage of the work, on stderr; where that is no terminal, only its end is shown."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def update(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what)
        self._progress.update(self._tasks[what], completed=done, total=total)


def main() -> None:
    with unwinding_when_terminated():
        app(prog_name="python -m conversion")


if __name__ == "__main__":
    main()
