"""What the tables of results are made of."""

from collections.abc import Iterable, Sequence
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    body = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{body}\n{caption}\n" if caption else body


def conditions(result: dict[str, Any]) -> str:
    """A line that says where, with what and when a result was measured."""
    machine, versions = result["machine"], result["versions"]
    allocator = ", ".join(f"{name}={value}" for name, value in result["allocator"].items()) or "as the system sets it"
    device = "" if result["device"] == "cpu" else f"{result['device']}, CUDA {versions.get('cuda')}; "
    return (
        f"{device}{machine['processor']}, {threads(result['threads'])} of {machine['logical_cores']}, load"
        f" {machine['load_before']:g} before the run; allocator {allocator}; torch {versions['torch']}, transformers"
        f" {versions['transformers']}; commit {result['commit']}, {result['finished'][:10]}."
    )


def threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"
