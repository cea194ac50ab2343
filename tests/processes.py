"""What processes a process has started."""

from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and those that these started."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return [*children, *(later for child in children for later in descendants(child))]


def is_running(pid: int) -> bool:
    """Whether it is there, and not only as what its parent has yet to be told of."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
