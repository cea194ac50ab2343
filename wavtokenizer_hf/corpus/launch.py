"""The processes that `accelerate launch` or `torchrun` starts together, on one host or several."""

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

T = TypeVar("T")

# Processes meet before the first shard and after the last one: the wait is as long as planning, or as the slowest.
_LONGEST_WAIT = datetime.timedelta(days=100)


@dataclasses.dataclass(frozen=True)
class Processes:
    """This process among those that share the work.

    Args:
        index: From 0, which is the one that speaks for all.
        number: How many there are.
    """

    index: int = 0
    number: int = 1

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def from_main(self, work: Callable[[], T]) -> T:
        """What `work` returns in the main process; what it raises there is raised in all."""
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = work()
            except Exception as error:
                if self.number == 1:
                    raise
                outcome[1] = error
        if self.number > 1:
            torch.distributed.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.number > 1:
            torch.distributed.barrier()


@contextlib.contextmanager
def joined_processes() -> Iterator[Processes]:
    """Joins the processes that were launched together, if there is more than one, each with a GPU of its own.

    They talk through the CPU, and only about what is to be done.
    """
    number = int(os.environ.get("WORLD_SIZE", "1"))
    if number == 1:
        yield Processes()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.distributed.init_process_group("gloo", timeout=_LONGEST_WAIT)
    try:
        yield Processes(torch.distributed.get_rank(), number)
    finally:
        torch.distributed.destroy_process_group()
