"""A corpus from beginning to end, whoever does the work."""

import contextlib
import dataclasses
import errno
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from wavtokenizer_hf.codecs.codec import Codec
from wavtokenizer_hf.corpus.card import write_card
from wavtokenizer_hf.corpus.launch import Processes
from wavtokenizer_hf.corpus.lock import only_run_in
from wavtokenizer_hf.corpus.log import CorpusLog
from wavtokenizer_hf.corpus.plan import Plan, Settings, find_plan, make_plan
from wavtokenizer_hf.corpus.progress import CorpusProgress, checking, listing
from wavtokenizer_hf.corpus.shards import (
    HOW_TO_GO_ON,
    TORN,
    damage_of,
    read_record,
    read_records,
    remove_unfinished,
    shard_path,
    write_shard,
)
from wavtokenizer_hf.corpus.source import Source
from wavtokenizer_hf.corpus.statistics import Statistics, sum_up, write_statistics
from wavtokenizer_hf.corpus.worker import OnClips, Resources, Worker


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """All that it takes to make shards, wherever that is."""

    plan: Plan
    source: Source
    codec: Codec
    resources: Resources

    def worker(self, on_clips: OnClips | None = None, forks: bool = False) -> Worker:
        return Worker(
            self.codec,
            self.source,
            self.plan.settings,
            self.resources,
            on_clips=on_clips,
            forks=forks,
        )


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

Runner = Callable[[ShardJob, Sequence[int], CorpusLog, CorpusProgress], None]


def run_here(job: ShardJob, shards: Sequence[int], log: CorpusLog, progress: CorpusProgress) -> None:
    """Makes shards one after the other in this process."""
    with contextlib.closing(job.worker(progress.add, forks=True)) as worker:
        for result in worker.encode(job.plan.shard(index) for index in shards):
            log.shard(write_shard(job.plan, result), job.plan.codec, wall_s=result.wall_s)


@contextlib.contextmanager
def _telling_how_to_go_on(folder: Path) -> Iterator[None]:
    """A full disk is an error that says which disk, whatever was being written: plan, log or statistics."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM or HOW_TO_GO_ON in str(error):
            raise
        raise OSError(error.errno, f"{folder} cannot be written to ({error.strerror}). {HOW_TO_GO_ON}") from error


def tokenize_corpus(
    source: Source,
    folder: Path,
    codec: Codec,
    *,
    settings: Settings | None = None,
    resources: Resources | None = None,
    processes: Processes | None = None,
    runner: Runner = run_here,
    shows_progress: bool = False,
) -> Statistics:
    """Turns recordings into a folder of codes, or goes on where an earlier call ended, however it ended.

    Args:
        folder: New, empty, or that of an earlier call with the same recordings, model and settings.
        codec: With its name and fingerprint, in eval mode, on its device; it stays as it is.
        resources: How the work is done; it may differ from call to call.
        processes: Those that call this together with the same arguments; see `launch`.
        runner: Where shards are made.

    Returns:
        What the folder holds, which is all of it unless another process ended early.

    Raises:
        FileExistsError: If the folder holds another corpus, or anything else.
        FileNotFoundError, ValueError: If the source cannot be listed, or is gone in the middle.
        RuntimeError: If another run is at work in the folder.
        OSError: If a shard cannot be written. Shards that are finished stay, and a further call goes on.
    """
    processes = processes or Processes()
    resources = resources or Resources()
    folder = folder.absolute()

    def begin() -> tuple[Plan, list[int], Statistics, dict[int, str]]:
        find_plan(folder)  # which refuses a folder of something else before anything is written there
        held.enter_context(only_run_in(folder))
        with listing(is_shown=shows_progress) as on_listed:
            plan = make_plan(folder, source, codec.spec, settings or Settings(), on_listed)
        remove_unfinished(plan)
        before = Statistics(plan)
        pending, damage = [], {}
        for index in checking(range(plan.num_shards), is_shown=shows_progress):
            record = read_record(plan, index)
            if record is None and shard_path(plan, index).exists():
                damage[index] = TORN
            elif record is not None and (reason := damage_of(plan, record)):
                damage[index] = reason
            elif record is not None:
                before.add(record)
                continue
            pending.append(index)
        if pending:
            write_card(plan)
        return plan, pending, before, damage

    with contextlib.ExitStack() as held, _telling_how_to_go_on(folder):
        plan, pending, before, damage = processes.from_main(begin)
        own = pending[processes.index :: processes.number]
        log = CorpusLog(folder, processes.index)
        log.write(
            "start",
            plan=plan.digest,
            num_shards=len(own),
            device=str(codec.device),
            process=processes.index,
            num_processes=processes.number,
            means=dataclasses.asdict(resources),
            passed_over=plan.passed_over,
        )
        for index in sorted(set(damage) & set(own)):
            log.write("damaged", shard=index, reason=damage[index])
        with CorpusProgress(plan, before, is_shown=shows_progress and processes.is_main) as progress:
            for index, reason in damage.items():
                progress.say(f"shard {index} was damaged and is made again: {reason}")
            if processes.is_main and processes.number > 1:
                progress.watch(sorted(set(pending) - set(own)))
            runner(ShardJob(plan, source, codec, resources), own, log, progress)
            processes.wait()
        if not processes.is_main:
            return sum_up(plan, read_records(plan))
        statistics = write_statistics(plan, read_records(plan))
        if statistics.is_complete:
            write_card(plan, statistics)
            remove_unfinished(plan)  # of processes that were lost on the way
        log.write("end", is_complete=statistics.is_complete, num_clips=statistics.num_clips, hours=statistics.hours)
        return statistics
