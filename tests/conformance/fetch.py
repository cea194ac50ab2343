"""Fetches the tests that transformers runs on each of its own models, to run them on ours.

The wheel lacks them and the source distribution has them: `python -m tests.conformance.fetch` downloads that of the
installed version, once, into `.cache/transformers-tests/<version>/` of the repository. Tests that need them are
skipped where they are absent.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path, PurePosixPath

COMMAND = "python -m tests.conformance.fetch"

_CACHE = Path(__file__).parents[2] / ".cache" / "transformers-tests"


def folder() -> Path:
    """Where the tests of the installed transformers lie, or would lie."""
    return _CACHE / version("transformers")


def fetch() -> Path:
    """Downloads the tests of the installed transformers, unless they are there.

    Returns:
        The folder, which appears only when it is complete.

    Raises:
        CalledProcessError: If pip finds no source distribution; its own message stands above.
    """
    destination = folder()
    if destination.is_dir():
        return destination
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_CACHE) as scratch:
        requirement = f"transformers=={version('transformers')}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        subprocess.run([*command, "--dest", scratch, requirement], check=True)
        (archive,) = Path(scratch).glob("transformers-*.tar.gz")
        tests = Path(scratch, "tests")
        extract_tests(archive, tests)
        try:
            os.rename(tests, destination)
        except OSError:
            if not destination.is_dir():  # else another process was faster
                raise
    return destination


def extract_tests(archive: Path, destination: Path) -> None:
    """Writes the Python files under `<root>/tests/` of a source distribution into a package, and nothing else."""
    destination.mkdir()
    (destination / "__init__.py").touch()  # the library's own imports ask for it
    with tarfile.open(archive) as members:
        for member in members:
            path = PurePosixPath(member.name)
            if not member.isfile() or path.suffix != ".py" or path.parts[1:2] != ("tests",) or ".." in path.parts:
                continue
            target = destination.joinpath(*path.parts[2:])
            target.parent.mkdir(parents=True, exist_ok=True)
            content = members.extractfile(member)
            assert content is not None
            target.write_bytes(content.read())


if __name__ == "__main__":
    print(f"Common tests of transformers: {fetch()}")
