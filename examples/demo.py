"""From a recording to codes and back: the command line on one file, with the checkpoint that the package brings."""

import argparse
import subprocess
import sys
from pathlib import Path


def run(*arguments: str | Path) -> None:
    """Shows a command of the package and runs it; ends the demonstration with its exit status if it fails."""
    print(f"\n$ wavtokenizer {' '.join(map(str, arguments))}", flush=True)
    status = subprocess.run([sys.executable, "-m", "wavtokenizer_hf", *map(str, arguments)]).returncode
    if status:
        sys.exit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path, help="a recording: WAV, FLAC, OGG or MP3, of any rate")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for what comes out")
    arguments = parser.parse_args()
    audio, output = arguments.audio, arguments.output
    output.mkdir(parents=True, exist_ok=True)
    codes, decoded = output / f"{audio.stem}.npz", output / f"{audio.stem}.decoded.wav"
    copy, report = output / f"{audio.stem}.reconstructed.wav", output / "report"
    run("encode", audio, "-o", codes, "--overwrite")
    run("info", codes)
    run("decode", codes, "-o", decoded, "--overwrite")
    run("reconstruct", audio, copy, "--overwrite", "--report", report)
    print(f"\nOpen {report / 'index.html'} to see and hear both signals.")
    print("The checkpoint is small and for trying things out; README.md says how to get the released ones.")


if __name__ == "__main__":
    main()
