"""Runs the tests against the oldest dependencies that `pyproject.toml` admits.

`python -m tests.conformance.floors [arguments of pytest]` installs the floors into `.cache/floors/<hash>/`, once, and
puts that folder before the environment's own packages. torch and torchaudio stay those of the environment: they are
gigabytes, and `torches` is about them.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import PathDistribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
NOT_REPLACED = {"torch", "torchaudio"}
EXTRAS = ("eval", "train", "corpus", "cluster")


def floors(pyproject: str) -> list[str]:
    """The lower bounds among the `dependencies` of a pyproject.toml and those of its extras, as exact requirements."""
    requirements = []
    for name in ("dependencies", *EXTRAS):
        block = re.search(rf"^{name} = \[$(.*?)^\]$", pyproject, re.MULTILINE | re.DOTALL)
        if block is None:
            raise ValueError(f"pyproject.toml holds no `{name} = [`.")
        requirements += re.findall(r'^\s*"(.+?)",?$', block[1], re.MULTILINE)
    pins = []
    for text in requirements:
        requirement = Requirement(text)
        lowest = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
        if len(lowest) != 1:
            raise ValueError(f"Every dependency needs one floor (name>=version), got {text!r}.")
        if requirement.name not in NOT_REPLACED:
            pins.append(f"{requirement.name}=={lowest[0]}")
    return list(dict.fromkeys(pins))


def unsatisfied(folder: Path) -> list[str]:
    """What the packages in a folder require and neither the folder nor the environment has."""
    installed: dict[str, str] = {}
    for distribution in distributions(path=[str(folder), *sys.path]):
        installed.setdefault(canonicalize_name(distribution.metadata["Name"]), distribution.version)
    absent = set()
    for distribution in distributions(path=[str(folder)]):
        assert isinstance(distribution, PathDistribution)
        for text in distribution.requires or []:
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            name = canonicalize_name(requirement.name)
            met = name in installed and requirement.specifier.contains(installed[name], prereleases=True)
            if name not in NOT_REPLACED and not met:
                absent.add(f"{requirement.name}{requirement.specifier}")
    return sorted(absent)


def install(pins: list[str]) -> Path:
    """Installs the pins, and older versions of what they require where the environment's are too new."""
    digest = hashlib.sha256("\n".join([sys.version, *pins]).encode()).hexdigest()[:16]
    destination = ROOT / ".cache" / "floors" / digest
    if destination.is_dir():
        return destination
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
        folder = Path(scratch, "packages")
        requirements = pins
        while requirements:
            print("Installing", *requirements, flush=True)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
            subprocess.run([*command, *requirements], check=True)
            requirements = unsatisfied(folder)
        folder.rename(destination)
    return destination


def main(arguments: list[str]) -> int:
    folder = install(floors((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    environment = os.environ | {"PYTHONPATH": str(folder)}
    subprocess.run([sys.executable, "-m", "tests.conformance.fetch"], check=True, env=environment, cwd=ROOT)
    # Old releases use what newer packages below them have deprecated.
    command = [sys.executable, "-m", "pytest", "-W", "ignore::DeprecationWarning", *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
