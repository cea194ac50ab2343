"""One run at a time in the folder of a corpus."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from wavtokenizer_hf.corpus.plan import CLIPS, LOG, MANIFEST

_LOCK = LOG / "lock"


@contextlib.contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder; the system lets them in when this process ends, however it ends.

    A folder in which no plan came about is left as it was.

    Raises:
        RuntimeError: If another run is at work there.
    """
    is_new = not folder.exists()
    (folder / LOG).mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    with contextlib.suppress(NotImplementedError):  # a file system that knows no locks
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(
                f"another run is at work in {folder}: wait for its end, or choose another folder; "
                "`wavtokenizer status` shows how far it is"
            ) from None
    try:
        yield
    finally:
        if not (folder / MANIFEST).is_file():
            with contextlib.suppress(OSError):
                (folder / _LOCK).unlink()
            for emptied in (folder / LOG, folder / CLIPS.parent, *([folder] if is_new else [])):
                with contextlib.suppress(OSError):
                    emptied.rmdir()
        lock.release()
