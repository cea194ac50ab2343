"""The same worker on a Ray cluster: actors that hold the model, and are replaced where one is lost."""

import dataclasses
import importlib
import logging
import os
import socket
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from wavtokenizer_hf.corpus.log import CorpusLog
from wavtokenizer_hf.corpus.progress import CorpusProgress
from wavtokenizer_hf.corpus.run import ShardJob
from wavtokenizer_hf.corpus.shards import read_record, write_shard


@dataclasses.dataclass(frozen=True)
class RayRunner:
    """Makes shards on the cluster that the environment variable `RAY_ADDRESS` names, or on one that it starts here.

    All nodes must see the recordings and the folder of the corpus under the same paths.

    Args:
        num_actors: How many hold the model; `None` means one for each GPU of the cluster or, where it has none, as
            many as its CPUs are enough for.
    """

    num_actors: int | None = None

    def __call__(self, job: ShardJob, shards: Sequence[int], log: CorpusLog, progress: CorpusProgress) -> None:
        """Makes shards; a task whose actor or node is lost is done again by another one."""
        if not shards:
            return
        ray = _import_ray()
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        has_gpus = ray.cluster_resources().get("GPU", 0) > 0
        num_actors = self.num_actors or _default_actors(ray.cluster_resources(), job.resources.num_workers)
        portable_job = ray.put(_portable(job))  # kept until the end, because an actor that takes over needs it
        rows = ray.data.from_items([{"shard": index} for index in shards], override_num_blocks=len(shards))
        made = rows.map(
            ShardActor,
            fn_constructor_args=(portable_job, has_gpus),
            compute=ray.data.ActorPoolStrategy(size=min(num_actors, len(shards))),
            num_cpus=max(1, job.resources.num_workers),
            num_gpus=1 if has_gpus else 0,
        )
        for row in made.iter_rows():
            if row["problem"]:
                raise OSError(f"{row['problem']} (on {row['host']})")
            record = read_record(job.plan, row["shard"])
            if record is None:
                raise OSError(
                    f"shard {row['shard']} was made on {row['host']} and is not in {job.plan.folder}: all nodes must "
                    "see one and the same folder under that name"
                )
            progress.add(record.num_clips + len(record.errors), record.num_samples, len(record.errors))
            log.shard(record, job.plan.codec, wall_s=row["wall_s"], pid=row["pid"], host=row["host"])


class ShardActor:
    """Holds a model, and makes one shard after the other.

    Args:
        job: Reference to a `ShardJob` whose codec is on the CPU.
        has_gpu: Whether to move it to the GPU that the actor was given.
    """

    def __init__(self, job: Any, has_gpu: bool):
        ray = _import_ray()
        self._job: ShardJob = ray.get(job)
        self._job.codec.model.to("cuda" if has_gpu else "cpu")
        self._worker = self._job.worker()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        index, wall_s, problem = row["shard"], 0.0, ""
        try:
            if read_record(self._job.plan, index) is None:  # else its actor was lost after the last of its work
                result = next(self._worker.encode([self._job.plan.shard(index)]))
                write_shard(self._job.plan, result)
                wall_s = result.wall_s
        except OSError as error:  # a full disk, for one; raised here, it would come out under pages of Ray's own
            problem = str(error)
        place = {"pid": os.getpid(), "host": socket.gethostname()}
        return {"shard": index, "wall_s": wall_s, "problem": problem, **place}


def _portable(job: ShardJob) -> ShardJob:
    """The job with a codec that can travel."""
    return dataclasses.replace(job, codec=job.codec.portable())


def _default_actors(resources: dict[str, float], num_workers: int) -> int:
    return max(1, int(resources.get("GPU", 0)) or int(resources.get("CPU", 1)) // (1 + num_workers))


def _import_ray() -> ModuleType:
    try:
        importlib.import_module("ray.data")
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError(
            f"A Ray cluster needs the package ray ({error}). Install it with: "
            "python -m pip install 'wavtokenizer-hf[cluster]'"
        ) from error
