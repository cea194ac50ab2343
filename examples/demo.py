"""From a recording to codes and back: makes a checkpoint, converts it, and runs the command line on one file.

The checkpoint has the geometry of the released 75-codes-a-second models and weights drawn from a seed, since released
weights would have to be downloaded: everything runs as with trained weights, but the reconstruction is noise.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from tests.golden import reference_weights

GOLDEN = Path(reference_weights.__file__).parent
SEED = 1234


def run(*arguments: str | Path) -> None:
    """Shows a command and runs it; ends the demonstration with its exit status if it fails."""
    shown = ["wavtokenizer" if argument == "wavtokenizer_hf" else str(argument) for argument in arguments]
    print(f"\n$ {' '.join(shown if shown[0] == 'wavtokenizer' else ['python', '-m', *shown])}", flush=True)
    status = subprocess.run([sys.executable, "-m", *map(str, arguments)]).returncode
    if status:
        sys.exit(status)


def make_model(folder: Path) -> Path:
    """Draws an original checkpoint and converts it, unless an earlier run did."""
    model = folder / "wavtokenizer-75-untrained"
    if not model.exists():
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / "original.ckpt"
        print(f"Drawing the weights of an original checkpoint: {checkpoint}", flush=True)
        manifest = reference_weights.load_manifest(GOLDEN / "manifest_hop320.json")
        reference_weights.write_original_checkpoint(checkpoint, manifest, SEED, training_modules=False)
        run("conversion", "convert", checkpoint, model)
        run("conversion", "verify", model, "--against", checkpoint)
        checkpoint.unlink()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path, help="a recording: WAV, FLAC, OGG or MP3, of any rate")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for what comes out")
    parser.add_argument("--cache", type=Path, default=Path(".cache/demo"), help="folder for the checkpoint")
    arguments = parser.parse_args()
    audio, output = arguments.audio, arguments.output
    model = make_model(arguments.cache)
    output.mkdir(parents=True, exist_ok=True)
    codes, decoded = output / f"{audio.stem}.npz", output / f"{audio.stem}.decoded.wav"
    copy, report = output / f"{audio.stem}.reconstructed.wav", output / "report"
    run("wavtokenizer_hf", "encode", audio, "-o", codes, "--model", model, "--overwrite")
    run("wavtokenizer_hf", "info", codes)
    run("wavtokenizer_hf", "decode", codes, "-o", decoded, "--model", model, "--overwrite")
    run("wavtokenizer_hf", "reconstruct", audio, copy, "--model", model, "--overwrite", "--report", report)
    print(f"\nOpen {report / 'index.html'} to see and hear both signals.")
    print(
        "The weights are drawn, not trained, so the reconstruction is noise. README.md says how to get trained ones."
    )


if __name__ == "__main__":
    main()
