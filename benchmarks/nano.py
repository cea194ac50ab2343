"""How good is the checkpoint that comes with the package? Keeps what `wavtokenizer evaluate nano-75 DATA` finds.

The figures of the README and of the model card come from here. DATA holds recordings that were not trained on, with a
manifest that says what is speech, music or sound.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import RESULTS, write_result
from wavtokenizer_hf.checkpoints import DEFAULT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="recordings: a folder or a manifest")
    data = parser.parse_args().data
    with tempfile.TemporaryDirectory() as folder:
        command = ["evaluate", DEFAULT, str(data), "--out", folder, "--num-pictures", "0", "--overwrite"]
        subprocess.run([sys.executable, "-m", "wavtokenizer_hf", *command], check=True)
        results = json.loads(Path(folder, "results.json").read_text(encoding="utf-8"))
    write_result(RESULTS / "nano_75.json", {"command": f"wavtokenizer evaluate {DEFAULT} {data.name}", **results})


if __name__ == "__main__":
    main()
