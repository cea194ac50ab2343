"""Writing a model's folder whole or not at all."""

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conversion.errors import ConversionError, UsageError

# The files of a model: a conversion into the folder replaces these and leaves all others alone.
_OF_A_MODEL = re.compile(
    r"config\.json|preprocessor_config\.json|README\.md|discriminators\.safetensors"
    r"|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
)


def check_target(out: Path, overwrite: bool) -> None:
    """Refuses a place that a converted model must not be written to, before any work is done.

    Raises:
        UsageError: If `out` is a file, or a folder that is not empty, without `overwrite`.
    """
    if out.is_symlink() and not out.exists():
        raise UsageError(f"{out} is a link to nothing")
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder")
    if not overwrite and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; name another folder, or replace the model in it with --overwrite")


@contextmanager
def replacing_model(out: Path) -> Iterator[Path]:
    """A new folder in or beside `out`; its files become those of `out` at the end.

    After an error or an interrupt nothing of it is left, and the model that `out` held before is still there.

    Raises:
        ConversionError: If the files cannot be written.
    """
    out = out.resolve()
    # On the file system of `out`, which may be a mount of its own: renaming works within one only.
    place = out if out.exists() else out.parent
    tag = secrets.token_hex(4)
    staging, retired = place / f".{tag}.partial", place / f".{tag}.retired"
    new_parents = [parent for parent in out.parents if not parent.exists()]
    try:
        staging.mkdir(parents=True)
        yield staging
        if out.exists():
            _exchange(staging, out, retired)
        else:
            staging.rename(out)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        for parent in new_parents:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        if isinstance(error, OSError):
            raise ConversionError(f"cannot write {out}: {error.strerror or error}") from error
        raise
    shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(retired, ignore_errors=True)


def _exchange(staging: Path, out: Path, retired: Path) -> None:
    """Moves the old model's files away and the new one's in, or puts everything back."""
    old = [path.name for path in out.iterdir() if _OF_A_MODEL.fullmatch(path.name)]
    new = [path.name for path in staging.iterdir()]
    retired.mkdir()
    try:
        for name in old:
            (out / name).rename(retired / name)
        for name in new:
            (staging / name).rename(out / name)
    except BaseException:
        for name in new:
            if not (staging / name).exists():
                (out / name).unlink(missing_ok=True)
        for name in old:
            if (retired / name).exists():
                (retired / name).rename(out / name)
        shutil.rmtree(retired, ignore_errors=True)
        raise
