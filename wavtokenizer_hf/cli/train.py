"""`wavtokenizer train`: a codec from scratch, or from a checkpoint."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from wavtokenizer_hf.audio.shown import printable
from wavtokenizer_hf.cli import options
from wavtokenizer_hf.cli.errors import reporting, say, wrong_use


class _PrintableLines(logging.Formatter):
    """What is logged quotes names of files."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, super().format(record).split("\n")))


def _print_recipes(is_asked: bool) -> None:
    if is_asked:
        from wavtokenizer_hf.training.config import purpose_of, recipe_names

        width = max(map(len, recipe_names()))
        typer.echo("\n".join(f"{name:{width}}  {purpose_of(name)}" for name in recipe_names()))
        raise typer.Exit


def _print_keys(is_asked: bool) -> None:
    if is_asked:
        from wavtokenizer_hf.training.keys import keys_as_text

        typer.echo(keys_as_text())
        raise typer.Exit


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe of the package (--recipes tells them), or a YAML file.",
            show_default=False,
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Changes to the recipe, such as data.train=recordings; --keys tells all keys.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            *options.OUTPUT_NAMES,
            metavar="DIR",
            help="The run's folder: its log, checkpoints, best model and report.",
            show_default="runs/RECIPE",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in the run's folder.")
    ] = False,
    stop_after: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            min=0.0,
            help="Stop with a checkpoint after so long, to go on later with --resume.",
            show_default="at the last step",
        ),
    ] = None,
    allow_incomplete: options.AllowIncomplete = False,
    _recipes: Annotated[
        bool,
        typer.Option("--recipes", help="Tell the recipes and exit.", callback=_print_recipes, is_eager=True),
    ] = False,
    _keys: Annotated[
        bool,
        typer.Option("--keys", help="Tell the keys of a recipe and exit.", callback=_print_keys, is_eager=True),
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Train a codec, or fine-tune one.

    On several GPUs: accelerate launch -m wavtokenizer_hf train RECIPE …

    Example: wavtokenizer train small-75 data.train=recordings --out runs/mine
    """
    with reporting(debug):
        from wavtokenizer_hf.training.config import load_config

        further = ["data.allow_incomplete=true"] if allow_incomplete else []
        with wrong_use(ValueError, FileNotFoundError, debug=debug):
            config = load_config(recipe, [*(changes or []), *further])
        run = out or Path("runs", Path(recipe).stem)

        handler = logging.StreamHandler()
        handler.setFormatter(_PrintableLines())
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        for noisy in ("accelerate", "transformers", "httpx"):
            logging.getLogger(noisy).setLevel(logging.WARNING)

        from huggingface_hub.errors import StrictDataclassError
        from transformers.utils.logging import disable_progress_bar

        import wavtokenizer_hf
        from wavtokenizer_hf.training.trainer import Trainer

        wavtokenizer_hf.register()
        # What does not fit when a run begins was said here; when it goes on, the run's files may be damaged.
        kinds = () if resume else (ValueError, StrictDataclassError)
        with wrong_use(FileNotFoundError, FileExistsError, *kinds, debug=debug):
            trainer = Trainer(config, run, is_resuming=resume)
        disable_progress_bar()  # there would be one for each checkpoint
        progress = trainer.train(None if stop_after is None else 60 * stop_after)
        if trainer.accelerator.is_main_process:
            say(f"{run}: {progress.step} of {config.max_steps} steps")
        if trainer.stopped_by is not None and progress.step < config.max_steps:
            raise typer.Exit(128 + trainer.stopped_by)  # as a shell reports a command that a signal ended
