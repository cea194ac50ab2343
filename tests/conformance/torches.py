"""Runs the tests that tell most against several releases of torch, each with the torchaudio that loads beside it.

`python -m tests.conformance.torches [VERSION …]` installs each pair into `.cache/torch/<version>/`, some 5 GB each,
and puts that folder before the environment's own packages. Parity, streams, and recordings through the commands are
what is run; the codes are compared with the original's by equality.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
# torch by torchaudio: its compiled part says beside what it loads, and its requirements do not.
PAIRS = {"2.11.0": "2.11.0", "2.12.1": "2.11.0", "2.13.0": "2.11.1", "2.14.1": "2.11.1", "2.15.0": "2.11.1"}
TESTS = (
    *("tests/parity/test_inference.py", "tests/parity/test_preprocessing.py"),
    *("tests/property/test_encoder_streaming.py", "tests/property/test_decoder_streaming.py"),
    "tests/integration/test_cli.py::test_recordings_and_codes_go_through_pipes",
)


def install(version: str) -> Path:
    """The folder of a release, which is made if it is not there."""
    destination = ROOT / ".cache" / "torch" / version
    if not destination.is_dir():
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
            folder = Path(scratch, "packages")
            pair = [f"torch=={version}", f"torchaudio=={PAIRS[version]}"]
            print("Installing", *pair, flush=True)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *pair]
            subprocess.run(command, check=True)
            folder.rename(destination)
    return destination


def main(versions: list[str]) -> int:
    failed = []
    for version in versions or PAIRS:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(install(version))])}
        shown = "import torch, torchaudio; print('torch', torch.__version__, 'torchaudio', torchaudio.__version__)"
        # What a new release deprecates is its users' concern when it is gone.
        command = [sys.executable, "-m", "pytest", "--quiet", "-W", "ignore::DeprecationWarning", *TESTS]
        for arguments in ([sys.executable, "-c", shown], command):
            if subprocess.run(arguments, env=environment, cwd=ROOT).returncode:
                failed.append(version)
                break
    print(f"{len(versions or PAIRS)} releases of torch, failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
