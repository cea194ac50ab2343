"""`wavtokenizer tokenize-corpus`: a large collection of recordings to a folder of codes."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavtokenizer_hf.checkpoints import DEFAULT
from wavtokenizer_hf.cli import options
from wavtokenizer_hf.cli.errors import reporting, say, wrong_use
from wavtokenizer_hf.cli.jobs import describe_counts

if TYPE_CHECKING:
    from wavtokenizer_hf.corpus.statistics import Statistics


def tokenize_corpus(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Recordings: a folder, a pattern, a manifest (TSV or JSONL), tar archives as WebDataset has them "
            "(one, a folder or a pattern), a folder of Hugging Face datasets, or the name of one on the Hub.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT",
            help="Folder for the codes: a new one, or that of the same command, to go on.",
            show_default=False,
        ),
    ] = None,
    output: options.Output = None,
    model: options.Model = DEFAULT,
    device: options.Device = "auto",
    dtype: options.Precision = options.DType.float32,
    revision: options.Revision = "main",
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes that read recordings for each model. With 0 a recording that hangs or crashes its reader "
            "takes the run along.",
            show_default="the CPU's cores but one, 8 at most",
        ),
    ] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="About what encoding a batch may take; on a CPU each thread has one. A longer recording goes through "
            "in pieces.",
            show_default="0.5 on a CPU, else 4",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Give up a recording that takes longer to read.")
    ] = 120.0,
    shard_clips: Annotated[
        int, typer.Option(min=1, help="Most clips of a shard, which is what a killed run loses at most.")
    ] = 2000,
    shard_mb: Annotated[
        float, typer.Option(min=0.001, help="About the most megabytes of recordings for a shard.")
    ] = 1024.0,
    max_hours: Annotated[float, typer.Option(min=0.0, help="Refuse a recording that lasts longer.")] = 24.0,
    keep_silent: Annotated[
        bool,
        typer.Option(
            "--keep-silent", help="Tokenise recordings without a sound, too; else they are listed as errors."
        ),
    ] = False,
    allow_incomplete: options.AllowIncomplete = False,
    split: Annotated[
        str | None, typer.Option(help="Split of a dataset on the Hub.", metavar="NAME", show_default="train")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="Configuration of a dataset on the Hub.", metavar="NAME", show_default=False)
    ] = None,
    data_revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit of a dataset on the Hub.", metavar="NAME", show_default="main"),
    ] = None,
    is_on_ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Work on the Ray cluster that RAY_ADDRESS names, or on a new one on this machine.",
        ),
    ] = False,
    actors: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Models that work at once on a Ray cluster.",
            show_default="one for each GPU or, without any, as many as the CPUs allow",
        ),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Tokenise a large collection of recordings, to go on after any interruption.

    OUT is a dataset of Parquet files for `datasets.load_dataset`. A recording that cannot be used is listed with the
    reason and stops nothing. On several GPUs or hosts: accelerate launch -m wavtokenizer_hf tokenize-corpus …

    Example: wavtokenizer tokenize-corpus recordings codes
    """
    with reporting(debug):
        out = Path(options.one_output(out, output))
        # oneDNN keeps what it made for the last 1024 shapes, which clips of all lengths turn into gigabytes. It looks
        # when it computes for the first time in a process.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
        if actors and not is_on_ray:
            raise typer.BadParameter("--actors goes with --ray")

        from wavtokenizer_hf.cli.codec import find_codec, open_codec

        model = find_codec(model)
        from wavtokenizer_hf.corpus.source import find_source

        with wrong_use(ValueError, debug=debug):
            recordings = find_source(source, config=config, split=split, revision=data_revision)

        from wavtokenizer_hf.corpus import run
        from wavtokenizer_hf.corpus.cluster import RayRunner
        from wavtokenizer_hf.corpus.launch import joined_processes
        from wavtokenizer_hf.corpus.plan import Settings
        from wavtokenizer_hf.corpus.worker import Resources

        with joined_processes() as processes:
            place = "cpu" if is_on_ray else device
            codec = open_codec(model, "encoder", revision=revision, device=place, dtype=dtype.value)
            try:
                with wrong_use(FileNotFoundError, FileExistsError, debug=debug):
                    statistics = run.tokenize_corpus(
                        recordings,
                        out,
                        codec,
                        settings=Settings(
                            dtype.value, shard_clips, shard_mb, max_hours, keep_silent, allow_incomplete
                        ),
                        resources=Resources(_num_workers() if workers is None else workers, memory_gb, timeout),
                        processes=processes,
                        runner=RayRunner(actors) if is_on_ray else run.run_here,
                        shows_progress=True,
                    )
            except KeyboardInterrupt:
                say("interrupted: the same command goes on where this one ended", err=True)
                raise
            if processes.is_main:
                _print(out, statistics)


def _num_workers() -> int:
    """This process' share of the cores, without the one that feeds the model."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


def _print(out: Path, statistics: "Statistics") -> None:
    say(
        f"{out}: {statistics.num_clips:,} clips, {statistics.hours:,.2f} hours, {statistics.num_codes:,} codes in "
        f"{statistics.num_shards:,} shards"
    )
    if statistics.plan.passed_over:
        say(f"passed over beside the recordings: {describe_counts(statistics.plan.passed_over)}", err=True)
    for kind, number in sorted(statistics.num_errors.items()):
        say(f"left out: {number:,} {kind}", err=True)
    if not statistics.is_complete:
        missing = statistics.plan.num_shards - statistics.num_shards
        say(f"{missing:,} shards are not there yet: run the same command again", err=True)
        raise typer.Exit(1)
