"""Many files, one after the other: where each result goes, and what happens when one file is bad."""

import collections
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from wavtokenizer_hf.audio.files import FoundFile, find_files
from wavtokenizer_hf.cli.errors import report, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclasses.dataclass(frozen=True)
class Job:
    """One file to read and one to write."""

    source: Path
    target: Path


def plan_jobs(
    inputs: Sequence[str],
    output: str,
    *,
    input_suffixes: Sequence[str],
    output_suffixes: Sequence[str],
    output_format: str | None,
    overwrite: bool,
) -> list[Job]:
    """Pairs every input with its output, before anything is loaded or written.

    With one input, `output` names the file to write, unless it is a folder, ends in a slash or has no suffix.
    Otherwise it is a folder, in which results lie as their inputs lie below the folder or pattern that was given.
    Inputs that differ in their suffix alone keep it (`a.wav` and `a.mp3` become `a.wav.npz` and `a.mp3.npz`).

    Args:
        output_suffixes: Formats that can be written; the first is the default.
        output_format: Suffix without its dot; `None` follows `output`.

    Raises:
        BadParameter: If the inputs and `output` do not fit together, two results would have one name, or one exists.
    """
    try:
        found = find_files(inputs, input_suffixes)
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error)) from None
    suffix = f".{output_format}" if output_format else output_suffixes[0]
    folder = Path(output)
    is_one_file = len(inputs) == len(found) == 1 and not Path(inputs[0]).is_dir()
    if is_one_file and folder.suffix and not _names_folder(output):
        jobs = [Job(found[0].path, _checked_file(folder, output_suffixes, output_format))]
    else:
        if folder.exists() and not folder.is_dir():
            raise typer.BadParameter(f"results need a folder to go to, and {output} is a file")
        if folder.suffix.lower() in output_suffixes and not _names_folder(output):
            raise typer.BadParameter(
                f"results need a folder to go to, and {output} looks like a file; if it is meant as a folder, end it "
                "in a slash"
            )
        jobs = _lay_out(found, folder, suffix)
    if not any(job.source.exists() for job in jobs):
        raise typer.BadParameter(f"no such file: {_first_of([job.source for job in jobs])}")
    sources = {os.path.realpath(job.source) for job in jobs}  # which a link that leads in a circle does not stop
    for job in jobs:
        if os.path.realpath(job.target) in sources:
            raise typer.BadParameter(f"{job.target} is an input too: choose another output")
    refuse_existing([job.target for job in jobs], overwrite)
    return jobs


def run_jobs(jobs: Sequence[Job], work: Callable[[Job], None], *, verb: str, debug: bool) -> None:
    """Does the work for every job; a failure is printed and does not stop the rest.

    Args:
        work: Reads `source` and writes `target`, whose folder exists by then.
        verb: What is being done, for the progress bar, which is shown from two jobs up.

    Raises:
        Exit: With status 1, at the end, if any job failed.
    """
    num_failed = 0
    with progress_bar(len(jobs)) as progress:
        for job in progress.track(jobs, description=verb):
            try:
                job.target.parent.mkdir(parents=True, exist_ok=True)
                work(job)
            except Exception as error:
                num_failed += 1
                report(error, about=str(job.source), debug=debug)
    if len(jobs) > 1:
        say(f"{verb}: {len(jobs) - num_failed} of {len(jobs)} files done", err=True)
    if num_failed:
        raise typer.Exit(1)


def progress_bar(num_files: int) -> "Progress":
    """A bar on stderr, which is shown from two files up."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=num_files == 1)


class StageBars:
    """A progress bar for each stage of the work, on stderr; where that is no terminal, only its end is shown."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        share = TextColumn("{task.percentage:>3.0f}%")
        columns = (TextColumn("{task.description}"), BarColumn(), share, TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "StageBars":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def update(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what)
        self._progress.update(self._tasks[what], completed=done, total=total)


def refuse_existing(outputs: Sequence[Path], overwrite: bool) -> None:
    """Raises BadParameter if there is a file or a filled folder where an output would go, unless `overwrite`."""
    existing = [path for path in outputs if (any(path.iterdir()) if path.is_dir() else path.exists())]
    if existing and not overwrite:
        raise typer.BadParameter(
            f"{_first_of(existing)} would be overwritten: choose another output, or give --overwrite"
        )


def warn_about(paths: Sequence[Path], what: str) -> None:
    """Prints one warning about any number of files."""
    if paths:
        say(f"warning: {_first_of(paths)} {what}", err=True)


def describe_counts(counts: Mapping[str, int]) -> str:
    """Such as `3 .txt, 1 hidden`."""
    return ", ".join(f"{number:,} {name}" for name, number in counts.items())


def _first_of(paths: Sequence[Path]) -> str:
    return f"{paths[0]} (and {len(paths) - 1} more)" if len(paths) > 1 else str(paths[0])


def _names_folder(output: str) -> bool:
    return Path(output).is_dir() or output.endswith(("/", os.sep))


def _checked_file(path: Path, suffixes: Sequence[str], output_format: str | None) -> Path:
    if path.suffix.lower() not in suffixes:
        raise typer.BadParameter(
            f"a file to write must end in {', '.join(suffixes)}, and a folder's name with a dot in a slash, got {path}"
        )
    if output_format and path.suffix.lower() != f".{output_format}":
        raise typer.BadParameter(f"--format {output_format} contradicts the name of the output, {path}")
    return path


def _lay_out(found: Sequence[FoundFile], folder: Path, suffix: str) -> list[Job]:
    unique = {(os.path.realpath(file.path), file.relative): file for file in found}.values()
    counts = collections.Counter(file.relative.with_suffix(suffix) for file in unique)
    sources: dict[Path, Path] = {}
    for file in unique:
        relative = file.relative.with_suffix(suffix)
        if counts[relative] > 1:
            relative = file.relative.with_name(file.relative.name + suffix)
        target = folder / relative
        if target in sources:
            raise typer.BadParameter(
                f"{sources[target]} and {file.path} would both be written to {target}: name the folder that holds "
                "both, and results are laid out like it"
            )
        sources[target] = file.path
    return [Job(source, target) for target, source in sources.items()]
