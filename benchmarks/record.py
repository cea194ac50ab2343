"""Where and under which conditions a figure was measured, and the file that keeps it."""

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from wavtokenizer_hf.audio.atomic import replacing

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
_PACKAGES = ("torch", "torchaudio", "transformers", "numpy")
_ALLOCATOR_VARIABLES = ("LD_PRELOAD", "GLIBC_TUNABLES", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def conditions(started_load: float, device: str = "cpu") -> dict[str, Any]:
    """Machine, versions, commit and settings, to stand beside the figures of a run.

    Args:
        started_load: Load average of the last minute when the run began (`os.getloadavg()[0]`).
        device: Where it computed, `cpu` or `cuda`.
    """
    return {
        "command": shlex.join(["python", "-m", _module_name(), *map(_without_folders, sys.argv[1:])]),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "processor": _processor(),
            "logical_cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
            "system": " ".join((platform.system(), platform.machine(), *platform.libc_ver())).strip(),
            "load_before": round(started_load, 2),
            "load_after": round(os.getloadavg()[0], 2),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
            **({"cuda": torch.version.cuda} if device == "cuda" else {}),
        },
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        # on long clips the allocator alone can double a time: fresh memory is mapped and faulted in for each layer
        "allocator": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith("MALLOC_") or name in _ALLOCATOR_VARIABLES
        },
    }


def write_result(path: Path, result: dict[str, Any]) -> None:
    write_text(path, json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def read_result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _module_name() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec is not None else Path(sys.argv[0]).stem


def _without_folders(argument: str) -> str:
    """A path as its name alone: where this machine keeps its files is nobody's business."""
    return Path(argument).name if os.sep in argument and Path(argument).parent.exists() else argument


def _commit() -> str:
    """The commit that is checked out, with `+changes` where tracked files differ from it."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
