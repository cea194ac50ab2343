"""Writing a model's folder whole or not at all."""

import re
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path

import wavtokenizer_hf
from wavtokenizer_hf.audio.atomic import recover, replacing_folder

# The files of a model: writing another model into its folder replaces these and leaves all others alone.
_OF_A_MODEL = re.compile(
    r"config\.json|preprocessor_config\.json|README\.md|model(-\d+-of-\d+)?\.safetensors"
    r"|model\.safetensors\.index\.json"
)
# The flat files beside the package's folders, but those of a processor.
_CODE_FILES = {path.name for path in Path(wavtokenizer_hf.__file__).parent.glob("*_*.py")} - {
    "__init__.py",
    "__main__.py",
    "processing_wavtokenizer.py",
}


def check_target(out: Path, overwrite: bool) -> None:
    """Refuses a place that a model must not be written to, before any work is done.

    What a killed process left half done there is put right first.

    Raises:
        FileExistsError: If `out` is a file, or a folder that is not empty, without `overwrite`.
    """
    if out.is_symlink() and not out.exists():
        raise FileExistsError(f"{out} is a link to nothing")
    recover(out.resolve())
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; name a folder")
    if not overwrite and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; name another folder, or overwrite the model in it")


def replacing_model(out: Path, further_files: Collection[str] = ()) -> AbstractContextManager[Path]:
    """A new folder, whose files become those of `out` at the end, as `replacing_folder` does it.

    The files of the model that `out` held go, and any other file in it stays.

    Args:
        out: Where the model is to be.
        further_files: Names of files that also belong to a model here.
    """
    files = {*further_files, *_CODE_FILES}
    return replacing_folder(out, lambda name: name not in files and not _OF_A_MODEL.fullmatch(name))
