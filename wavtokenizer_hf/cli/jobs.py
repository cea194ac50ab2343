"""Many files, one after the other: where each result goes, and what happens when one file is bad."""

import atexit
import collections
import dataclasses
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from wavtokenizer_hf.audio.codes import CODE_SUFFIXES
from wavtokenizer_hf.audio.files import FoundFile, find_files
from wavtokenizer_hf.cli.errors import report, say, unless_nobody_reads

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


# Stands for stdin among inputs, and for stdout as the output.
PIPE = "-"


@dataclasses.dataclass(frozen=True)
class Job:
    """One file to read and one to write.

    Args:
        page: Folder of the page that compares them, if there is to be one.
        is_piped: Whether what is written goes to stdout, so that nothing else may.
    """

    source: Path
    target: Path
    page: Path | None = None
    is_piped: bool = False

    @property
    def is_done(self) -> bool:
        return self.target.exists() and (self.page is None or (self.page / "index.html").exists())


def plan_jobs(
    inputs: Sequence[str],
    output: str,
    *,
    input_suffixes: Sequence[str],
    output_suffixes: Sequence[str],
    output_format: str | None,
    overwrite: bool,
    skip_existing: bool = False,
    report: Path | None = None,
) -> list[Job]:
    """Pairs every input with its output, before anything is loaded or written.

    With one input, `output` names the file to write, unless it is a folder, ends in a slash or has no suffix.
    Otherwise it is a folder, in which results lie as their inputs lie below the folder or pattern that was given.
    Inputs that differ in their suffix alone keep it (`a.wav` and `a.mp3` become `a.wav.npz` and `a.mp3.npz`).
    The input `-` is what comes from stdin, and the output `-` is stdout.

    Args:
        output_suffixes: Formats that can be written; the first is the default.
        output_format: Suffix without its dot; `None` follows `output`.
        skip_existing: Leave out what is done.
        report: Folder for pages; `None` makes none. Where there are several jobs, each has a folder in it that lies
            like the result.

    Raises:
        BadParameter: If the inputs and `output` do not fit together, two results would have one name, or one exists.
        Exit: With status 0, if all is done.
    """
    if overwrite and skip_existing:
        raise typer.BadParameter("--overwrite and --skip-existing exclude each other")
    inputs = [_read_stdin(input_suffixes) if name == PIPE else name for name in inputs]
    try:
        found = find_files(inputs, input_suffixes)
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error)) from None
    suffix = f".{output_format}" if output_format else output_suffixes[0]
    folder = Path(output)
    is_one_file = len(inputs) == len(found) == 1 and not Path(inputs[0]).is_dir()
    if output == PIPE:
        if len(found) != 1:
            raise typer.BadParameter(f"one result can go to stdout, and there are {len(found)}")
        jobs = [Job(found[0].path, _pipe_folder() / f"stdout{suffix}", is_piped=True)]
    elif is_one_file and folder.suffix and not _names_folder(output):
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
    if report:
        pages = [report if len(jobs) == 1 else report / job.target.relative_to(output).with_suffix("") for job in jobs]
        jobs = [dataclasses.replace(job, page=page) for job, page in zip(jobs, pages, strict=True)]
    if skip_existing:
        waiting = [job for job in jobs if not job.is_done]
        if len(waiting) < len(jobs):
            say(f"{len(jobs) - len(waiting)} of {len(jobs)} files were done before", err=True)
        if not waiting:
            raise typer.Exit
        return waiting
    refuse_existing([path for job in jobs for path in (job.target, job.page) if path], overwrite)
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
                if job.is_piped:
                    with unless_nobody_reads(), open(job.target, "rb") as file:
                        shutil.copyfileobj(file, sys.stdout.buffer)
                        sys.stdout.buffer.flush()
            except KeyboardInterrupt:
                if len(jobs) > 1:
                    say("interrupted: the same command with --skip-existing goes on where this one ended", err=True)
                raise
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


def _read_stdin(suffixes: Sequence[str]) -> str:
    """A file with what comes from stdin."""
    path = _pipe_folder() / "stdin"
    with open(path, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    if set(suffixes) != set(CODE_SUFFIXES):
        return str(path)
    return str(path.rename(path.with_suffix(".npz" if zipfile.is_zipfile(path) else ".json")))


def _pipe_folder() -> Path:
    """A new folder for what comes from stdin or goes to stdout, until the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="wavtokenizer-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


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
