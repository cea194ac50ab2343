"""How far a run is, for who watches it."""

import contextlib
import datetime
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from wavtokenizer_hf.corpus.plan import Plan
from wavtokenizer_hf.corpus.shards import DATA, read_record, shard_path
from wavtokenizer_hf.corpus.statistics import Statistics

_LOOK_EVERY_S = 5.0
_SPEED_OVER_S = 600.0
_LINE_EVERY_S = 60.0
_BAR_WIDTH = 16


@contextlib.contextmanager
def listing(*, is_shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Yields what to tell how many recordings are listed so far; a terminal shows it."""
    console = Console(stderr=True)
    if not (is_shown and console.is_terminal):
        yield lambda num_clips: None
        return
    with console.status("Listing recordings") as line:
        yield lambda num_clips: line.update(f"Listing recordings: {num_clips:,}")


def checking(shards: Sequence[int], *, is_shown: bool = True) -> Iterator[int]:
    """The shards, while a terminal shows how many were looked through."""
    console = Console(stderr=True)
    if not (is_shown and console.is_terminal):
        yield from shards
        return
    with console.status("Checking shards") as line:
        for number, shard in enumerate(shards):
            line.update(f"Checking shards: {number:,} of {len(shards):,}")
            yield shard


class _Figures(ProgressColumn):
    """All that is said, on a second line where the terminal is narrow: nothing is cut off."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=False))

    def render(self, task: Task) -> Text:
        left = "?" if task.time_remaining is None else str(datetime.timedelta(seconds=int(task.time_remaining)))
        return Text(f"{int(task.completed):,}/{task.total or 0:,.0f} clips · {task.fields['figures']} · {left} left")


class CorpusProgress:
    """A bar on stderr: clips, hours, the speed as a multiple of real time, errors and the time that is left.

    Where stderr is no terminal, these are a line every minute.

    Args:
        before: What was done when the run began.
        is_shown: Whether there is a bar at all.
    """

    def __init__(self, plan: Plan, before: Statistics, *, is_shown: bool = True):
        self._plan = plan
        self._hours, self._num_errors = before.hours, before.num_errors.total()
        self._hours_before = before.hours
        self._start = time.monotonic()
        self._has_lines = is_shown and not Console(stderr=True).is_terminal
        self._figures_column = _Figures()
        self._bar = Bar(
            BarColumn(_BAR_WIDTH),
            self._figures_column,
            console=Console(stderr=True),
            disable=not is_shown,
            speed_estimate_period=_SPEED_OVER_S,
        )
        self._last_line = self._start
        done = before.num_clips + self._num_errors
        self._task = self._bar.add_task("Tokenising", total=plan.num_clips, completed=done, figures=self._figures())
        self._is_over = threading.Event()
        self._watchers: list[threading.Thread] = []

    def __enter__(self) -> "CorpusProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over.set()
        for watcher in self._watchers:
            watcher.join()
        self._bar.stop()

    def add(self, num_clips: int, num_samples: int, num_failures: int) -> None:
        """Counts clips that are done with, failures among them, and the samples of those that have codes."""
        self._hours += num_samples / self._plan.codec.sampling_rate / 3600
        self._num_errors += num_failures
        self._bar.update(self._task, advance=num_clips, figures=self._figures())
        if self._has_lines and time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._bar.console.print(self._figures_column.render(self._bar.tasks[0]), soft_wrap=True)

    def say(self, text: str) -> None:
        """A line of its own."""
        if not self._bar.disable:
            self._bar.console.print(text, soft_wrap=True, markup=False, highlight=False)

    def watch(self, shards: Sequence[int]) -> None:
        """Counts shards that other processes make, as they appear."""
        self._watchers.append(threading.Thread(target=self._watch, args=(set(shards),), daemon=True))
        self._watchers[-1].start()

    def _watch(self, waiting: set[int]) -> None:
        is_over = False
        while waiting and not is_over:
            is_over = self._is_over.wait(_LOOK_EVERY_S)
            present = {path.name for path in self._plan.folder.glob(f"{DATA}/*")}
            for index in [index for index in sorted(waiting) if shard_path(self._plan, index).name in present]:
                record = read_record(self._plan, index)
                if record is not None:
                    waiting.remove(index)
                    self.add(record.num_clips + len(record.errors), record.num_samples, len(record.errors))

    def _figures(self) -> str:
        speed = 3600 * (self._hours - self._hours_before) / max(time.monotonic() - self._start, 1e-9)
        return f"{self._hours:,.2f} h · {speed:,.0f}x real time · {self._num_errors:,} errors"
