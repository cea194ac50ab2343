"""`wavtokenizer convert`: a checkpoint of the original as a folder that transformers loads."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavtokenizer_hf.audio.shown import folded
from wavtokenizer_hf.cli import options
from wavtokenizer_hf.cli.errors import reporting, say
from wavtokenizer_hf.cli.jobs import StageBars
from wavtokenizer_hf.conversion.checkpoints import RELEASED

if TYPE_CHECKING:
    from wavtokenizer_hf.conversion.convert import Conversion

EPILOG = "Released checkpoints: " + ", ".join(release.name for release in RELEASED)


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE|REPO:FILE",
            help="The name of a released checkpoint, a .ckpt file, or one in a repository on the Hub.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="The folder to write; new, or empty.", show_default=False)
    ] = None,
    output: options.Output = None,
    yaml: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The original's YAML file, to check against what the tensors say.",
            show_default=False,
        ),
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the model that OUT holds. Its other files stay.")
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Convert a checkpoint of WavTokenizer or SimVQ to a folder: weights, configuration and a model card.

    No code of the checkpoint runs, and its architecture is read off its tensors.

    Example: wavtokenizer convert small-speech-75token wavtokenizer-75
    """
    with reporting(debug):
        out = Path(options.one_output(out, output))
        from wavtokenizer_hf.conversion.convert import convert as convert_checkpoint

        with StageBars() as bars:
            done = convert_checkpoint(
                source,
                out,
                yaml=yaml,
                causal=causal,
                keep_discriminators=keep_discriminators,
                overwrite=overwrite,
                progress=bars.update,
            )
        _print(done, keep_discriminators)


def _print(done: "Conversion", keeps_discriminators: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("keys", "what became of them")
    table.add_row(str(len(done.key_map.kept)), "converted")
    if keeps_discriminators:
        table.add_row(str(len(done.key_map.discriminators)), "discriminators, kept under their own names")
    left_out = [row for row in done.key_map.dropped.values() if not (keeps_discriminators and row.is_discriminator)]
    for row, count in Counter(left_out).items():
        every = "*" if row.prefix[-1] == "." else ""
        table.add_row(str(count), f"dropped, {row.prefix}{every}: {row.reason}")
    Console().print(table)
    if done.yaml_settings:
        say(f"The YAML agrees in {len(done.yaml_settings)} settings.")
    if done.remark:
        say(done.remark)
    say(
        f"{folded(str(done.out))}: {done.config.frame_rate:g} codes a second, {done.num_bytes / 1e6:.1f} MB of weights"
    )
