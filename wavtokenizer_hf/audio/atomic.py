"""Writing a file so that its name never holds half of it."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which takes its place when the block ends.

    An error or an interrupt inside the block removes the temporary file and leaves what was at `path` as it was. The
    file is not made through `tempfile`, whose files nobody else may read.

    Raises:
        FileNotFoundError: If the folder of `path` does not exist.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: the folder {target.parent} does not exist")
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
