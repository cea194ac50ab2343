"""Writing a model's folder whole or not at all."""

import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

# The files of a model: writing another model into its folder replaces these and leaves all others alone.
_OF_A_MODEL = re.compile(
    r"config\.json|preprocessor_config\.json|README\.md|model(-\d+-of-\d+)?\.safetensors"
    r"|model\.safetensors\.index\.json|audio_input\.py|(configuration|feature_extraction|modeling)_wavtokenizer\.py"
)


def check_target(out: Path, overwrite: bool) -> None:
    """Refuses a place that a model must not be written to, before any work is done.

    Raises:
        FileExistsError: If `out` is a file, or a folder that is not empty, without `overwrite`.
    """
    if out.is_symlink() and not out.exists():
        raise FileExistsError(f"{out} is a link to nothing")
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; name a folder")
    if not overwrite and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; name another folder, or overwrite the model in it")


@contextmanager
def replacing_model(out: Path, further_files: Collection[str] = ()) -> Iterator[Path]:
    """Yields a new folder in or beside `out`, whose files become those of `out` at the end.

    The files of the model that `out` held go, and any other file in it stays. After an error or an interrupt nothing
    of the new folder is left, and the old model is still there.

    Args:
        out: Where the model is to be.
        further_files: Names of files that also belong to a model here.
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
            _exchange(staging, out, retired, further_files)
        else:
            staging.rename(out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for parent in new_parents:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise
    shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(retired, ignore_errors=True)


def _exchange(staging: Path, out: Path, retired: Path, further_files: Collection[str]) -> None:
    """Moves the old model's files away and the new one's in, or puts everything back."""
    new = [path.name for path in staging.iterdir()]
    replaced = {*new, *further_files}
    old = [path.name for path in out.iterdir() if path.name in replaced or _OF_A_MODEL.fullmatch(path.name)]
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
