"""Writing a file or a folder so that its name never holds half of it, whatever ends the process on the way."""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PARTIAL = ".partial-"
# A new folder that is whole, inside the one that its files are being moved to, and what it says of the old files.
_READY, _OBSOLETE = ".ready", ".obsolete.json"
# With less than this free, a disk is full: libraries write in blocks, and not all of them say why they fail.
_LITTLE_ROOM = 1 << 16


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary file beside `path`, which takes its place when the block ends.

    An error or an interrupt inside the block removes the temporary file and leaves what was at `path` as it was. What
    a killed process left is overwritten by the next that writes `path`. The modes are as the umask says.

    Raises:
        FileNotFoundError: If the folder of `path` does not exist.
        OSError: If the disk is full, whatever a library made of that.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: the folder {target.parent} does not exist")
    temporary, lock = _claim(target)
    mode = os.fstat(lock).st_mode & 0o777
    try:
        with _naming_full_disk(target.parent):
            yield temporary
        if temporary.stat().st_mode & 0o777 != mode:
            temporary.chmod(mode)
        if fcntl is None:
            os.close(lock)  # Windows renames no open file
            lock = -1
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
        if lock >= 0:
            os.close(lock)


@contextlib.contextmanager
def replacing_folder(
    path: str | os.PathLike[str], is_kept: Callable[[str], bool] = lambda name: False
) -> Iterator[Path]:
    """Yields a new folder, which takes the place of the folder `path` when the block ends.

    On Linux both change places in one step, so that at every moment one of them is there whole. Where that cannot be
    (another system, a mount, the folder that the process works in), the files are moved one by one, and the next
    `recover` finishes what a kill interrupts. An error or an interrupt inside the block leaves what was there.

    Args:
        path: It need not exist, nor its parents; a link is followed.
        is_kept: Which files and folders in `path` stay, by name, unless the new folder has them, too.

    Raises:
        FileExistsError: If another process is at it.
        OSError: If the disk is full, whatever a library made of that.
    """
    out = Path(path).resolve()
    recover(out)
    new_parents = [parent for parent in out.parents if not parent.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    is_apart = not out.exists() or (os.access(out.parent, os.W_OK) and not os.path.ismount(out))
    staging = partial_path(out) if is_apart else out / _PARTIAL
    lock = None
    try:
        staging.mkdir()
        lock = _lock(staging)
        with _naming_full_disk(staging.parent):
            yield staging
            if not out.exists():
                staging.rename(out)
            else:
                _take_place(staging, out, is_kept)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for parent in new_parents:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise
    finally:
        if lock is not None:
            os.close(lock)
    shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def unwinding_when_terminated() -> Iterator[None]:
    """Lets SIGTERM end the process as Ctrl-C does, so that nothing half written stays; its status is 143 then."""
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a child that was forked meanwhile writes nothing of its own
            os._exit(128 + number)
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def partial_path(path: Path) -> Path:
    """Where a folder is written before it takes its name."""
    return path.with_name(_PARTIAL + path.name)


def recover(path: Path) -> None:
    """Puts right what killed processes left of replacing a folder: it is the old or the new one, and nothing besides.

    Raises:
        FileExistsError: If a living process is replacing it.
    """
    for staging in (partial_path(path), path / _PARTIAL):
        if staging.is_dir():
            lock = _lock(staging)
            shutil.rmtree(staging, ignore_errors=True)
            if lock is not None:
                os.close(lock)
    if (path / _READY).is_dir():
        _move_in(path)


def discard_partial(folder: Path) -> None:
    """Does `recover` for all that killed processes were writing in a folder."""
    for staging in folder.glob(f"{_PARTIAL}?*"):
        recover(staging.with_name(staging.name.removeprefix(_PARTIAL)))


def _take_place(staging: Path, out: Path, is_kept: Callable[[str], bool]) -> None:
    """Replaces the folder `out` by a new one and what it keeps of the old one."""
    old = [each for each in out.iterdir() if each != staging and not os.path.lexists(staging / each.name)]
    if staging.parent != out and not _is_at_work_in(out) and _can_exchange_in(staging):
        for each in old:
            if is_kept(each.name):
                _link_tree(each, staging / each.name)
        shutil.copymode(out, staging)
        _exchange(staging, out)
        return
    obsolete = [each.name for each in old if not is_kept(each.name)]
    (staging / _OBSOLETE).write_text(json.dumps(obsolete), encoding="utf-8")
    staging.rename(out / _READY)
    _move_in(out)


def _move_in(out: Path) -> None:
    """Moves the files of a new folder into place; what was moved before a kill is not moved again."""
    ready = out / _READY
    names = ready / _OBSOLETE
    for name in json.loads(names.read_text(encoding="utf-8")) if names.exists() else ():
        _remove(out / name)
    for new in ready.iterdir():
        if new != names:
            if (out / new.name).is_dir():
                _remove(out / new.name)
            new.replace(out / new.name)
    shutil.rmtree(ready)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_at_work_in(folder: Path) -> bool:
    """Whether the process works in a folder, as the shell that started it then does, too."""
    try:
        return Path.cwd().is_relative_to(folder)
    except FileNotFoundError:
        return False


def _can_exchange_in(folder: Path) -> bool:
    one, other = folder / ".one", folder / ".other"
    try:
        one.mkdir()
        other.mkdir()
        _exchange(one, other)
        return True
    except OSError:
        return False
    finally:
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.rmdir()


def _exchange(one: Path, other: Path) -> None:
    """Lets two folders change names in one step.

    Raises:
        OSError: If the system or the file system cannot.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(one))


def _link_tree(source: Path, target: Path) -> None:
    """Gives a file, or all files of a folder, a second name, or where that cannot be, copies them."""

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other, follow_symlinks=False)
        except OSError:
            shutil.copy2(one, other, follow_symlinks=False)

    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=link)
    else:
        link(os.fspath(source), os.fspath(target))


def _claim(target: Path) -> tuple[Path, int]:
    """A temporary file for a target that no living process has, and what keeps others from it while it is open.

    Its name follows from the target's, so that what a killed process left is found; another process that writes the
    same target at the same time gets a name of its own.
    """
    for tag in (hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16], secrets.token_hex(8)):
        temporary = target.with_name(f".{tag}.tmp")
        try:
            file = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            if temporary.exists():  # somebody else's
                continue
            raise
        try:
            _lock_open(file)
            if os.path.samestat(os.fstat(file), temporary.stat()):
                os.ftruncate(file, 0)
                return temporary, file
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(file)
    raise FileExistsError(f"{target} is being written by another process")


def _lock_open(file: int) -> None:
    """Locks an open file or folder, where the system and the file system have such a thing.

    Raises:
        BlockingIOError: If another process has it.
    """
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass


def _lock(folder: Path) -> int | None:
    """What keeps other processes from a folder while it is open; `None` where the system has no such thing.

    Raises:
        FileExistsError: If another process has it.
    """
    if fcntl is None:
        return None
    file = os.open(folder, os.O_RDONLY)
    try:
        _lock_open(file)
    except BlockingIOError:
        os.close(file)
        raise FileExistsError(f"{folder} is being written by another process; wait for it") from None
    return file


@contextlib.contextmanager
def _naming_full_disk(place: Path) -> Iterator[None]:
    """Makes an OSError of what a library raises because the disk refused it, without saying so in a way to be told."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))  # as libraries in Rust have it
        number = int(found[1]) if found else errno.ENOSPC
        if found or shutil.disk_usage(place).free < _LITTLE_ROOM:
            raise OSError(number, f"{os.strerror(number)} ({error})", os.fspath(place)) from error
        raise
