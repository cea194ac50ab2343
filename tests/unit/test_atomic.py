"""Files and folders that are replaced whole or not at all, whatever ends the process."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wavtokenizer_hf.audio import atomic
from wavtokenizer_hf.audio.atomic import (
    discard_partial,
    partial_path,
    recover,
    replacing,
    replacing_folder,
    unwinding_when_terminated,
)

OLD = {"config.json": "old", "model.safetensors": "old", "gone": "old", "notes.txt": "mine", ".git/HEAD": "mine"}
NEW = {"config.json": "new", "model.safetensors": "new", "added": "new"}
REPLACED = {**NEW, "notes.txt": "mine", ".git/HEAD": "mine"}


def is_kept(name: str) -> bool:
    return name in ("notes.txt", ".git")


def fill(folder: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def replace(folder: Path) -> None:
    with replacing_folder(folder, is_kept) as staging:
        fill(staging, NEW)


def in_fork(work) -> int:
    """The status of a forked process that does the work."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(step: int, work) -> None:
    """Does the work, and kills the process by SIGKILL at its n-th call that has to do with files."""
    calls = 0

    def count(event: str, _arguments) -> None:
        nonlocal calls
        if event == "open" or event.startswith(("os.", "shutil.")):
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    work()


@pytest.mark.skipif(sys.platform != "linux", reason="folders change places in one step on Linux alone")
@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_kill_at_any_step_leaves_the_old_folder_or_the_new_one_and_the_next_start_cleans_up(
    tmp_path, monkeypatch, in_one_step
):
    monkeypatch.setattr(atomic, "_is_at_work_in", lambda folder: not in_one_step)
    folder, seen, step, status = tmp_path / "out", [], 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        step += 1
        fill(folder, OLD)
        status = in_fork(lambda step=step: killed_at(step, lambda: replace(folder)))
        at_once = content(folder)
        recover(folder)
        seen.append(content(folder))
        assert os.listdir(tmp_path) == ["out"]
        if in_one_step:
            assert at_once == seen[-1]
        discard = [path for path in folder.rglob("*") if path.is_file()]
        for path in discard:
            path.unlink()
    assert status == 0
    assert step > 10
    assert all(left in (OLD, REPLACED) for left in seen)
    assert (seen[0], seen[-1]) == (OLD, REPLACED)
    assert seen.index(REPLACED) < len(seen) - 1  # a kill after the change, too


def test_a_new_folder_takes_the_place_of_one_that_is_a_mount_file_by_file(tmp_path, monkeypatch):
    fill(tmp_path / "out", OLD)
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    inode = (tmp_path / "out").stat().st_ino
    replace(tmp_path / "out")
    assert content(tmp_path / "out") == REPLACED
    assert (tmp_path / "out").stat().st_ino == inode


def test_the_folder_that_the_process_works_in_stays_the_same_one(tmp_path, monkeypatch):
    fill(tmp_path / "out", OLD)
    monkeypatch.chdir(tmp_path / "out")
    replace(Path("."))
    assert content(Path.cwd()) == REPLACED


@pytest.mark.skipif(atomic.fcntl is None, reason="no locks here")
def test_two_processes_do_not_write_one_folder_at_once(tmp_path):
    def second() -> None:
        with pytest.raises(FileExistsError, match="being written by another process"):
            replace(tmp_path / "out")

    with replacing_folder(tmp_path / "out") as staging:
        fill(staging, NEW)
        assert in_fork(second) == 0
    assert content(tmp_path / "out") == NEW


def test_what_killed_processes_left_in_a_folder_is_discarded(tmp_path):
    fill(partial_path(tmp_path / "half"), {"weights": "ha"})
    fill(tmp_path / "whole", {"weights": "whole"})
    discard_partial(tmp_path)
    assert content(tmp_path) == {"whole/weights": "whole"}


def test_the_temporary_file_of_a_killed_process_goes_with_the_next_write_of_its_target(tmp_path):
    target = tmp_path / ("x" * 250 + ".npz")

    def killed() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_fork(killed) == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    with replacing(target) as temporary:
        temporary.write_text("whole")
    assert content(tmp_path) == {target.name: "whole"}


def test_two_writers_of_one_file_do_not_write_into_one_another(tmp_path):
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert content(tmp_path) == {"a": "first"}


@pytest.mark.skipif(atomic.fcntl is None, reason="no locks here")
def test_a_file_system_without_locks_is_written_all_the_same(tmp_path, monkeypatch):
    def without_locks(*_arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(atomic.fcntl, "flock", without_locks)
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("whole")
    replace(tmp_path / "out")
    assert content(tmp_path) == {"a": "whole", **{f"out/{name}": "new" for name in NEW}}


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_have_the_modes_that_the_umask_gives_whoever_wrote_them(tmp_path, umask):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "a") as temporary:
            temporary.unlink()  # as libraries do that write a private file of their own
            temporary.touch(mode=0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


class LibraryError(Exception):
    """Of a library that says nothing, or only in words."""


@pytest.mark.parametrize("make", [replacing, replacing_folder])
@pytest.mark.parametrize(
    ("said", "free", "number"),
    [
        ("System error.", 0, errno.ENOSPC),
        ("Error while serializing: I/O error: File too large (os error 27)", 1 << 30, errno.EFBIG),
    ],
)
def test_a_full_disk_is_named_whatever_a_library_makes_of_it(tmp_path, monkeypatch, make, said, free, number):
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda path: atomic.shutil._ntuple_diskusage(1 << 40, 0, free))
    with pytest.raises(OSError, match=r"[Ll]arge|space") as raised, make(tmp_path / "a"):
        raise LibraryError(said)
    assert raised.value.errno == number
    assert os.listdir(tmp_path) == []


def test_an_error_on_a_disk_with_room_stays_what_it_is(tmp_path):
    with pytest.raises(LibraryError), replacing(tmp_path / "a"):
        raise LibraryError("System error.")


def test_a_terminated_process_removes_what_it_was_writing(tmp_path):
    program = (
        "import sys, time\n"
        "from wavtokenizer_hf.audio.atomic import replacing, replacing_folder, unwinding_when_terminated\n"
        "with unwinding_when_terminated(), replacing('a') as a, replacing_folder('b') as b:\n"
        "    a.touch(); print(flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    process.stdout.close()
    assert os.listdir(tmp_path) == []


def test_a_forked_child_is_ended_by_the_signal_at_once():
    def child() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    before = signal.getsignal(signal.SIGTERM)
    with unwinding_when_terminated():
        assert in_fork(child) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
