"""Options that several commands share."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from wavtokenizer_hf.checkpoints import DEFAULT


class AudioFormat(str, enum.Enum):
    wav = "wav"
    flac = "flac"
    ogg = "ogg"
    mp3 = "mp3"


class DType(str, enum.Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


MODEL_VARIABLE = "WAVTOKENIZER_MODEL"

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        envvar=MODEL_VARIABLE,
        metavar="FOLDER|HUB_ID|NAME",
        help="The codec: a folder that holds config.json and weights, an id on the Hugging Face Hub, the name of a "
        "released checkpoint, which is downloaded and converted the first time (convert --help names them), or the "
        f"small {DEFAULT} of this package, which is for trying things out.",
    ),
]
Revision = Annotated[
    str,
    typer.Option(help="Branch, tag or commit, where the model is a Hub id.", metavar="NAME"),
]
Device = Annotated[
    str,
    typer.Option(
        help="Where to compute: cpu, cuda, cuda:1, mps and so on; auto takes CUDA where there is one, else the CPU.",
        metavar="NAME",
    ),
]
Precision = Annotated[
    DType,
    typer.Option(
        "--dtype",
        help="Number format of the weights. Half precision may change some codes; the nearest-code search and the "
        "inverse STFT stay in float32.",
    ),
]
AudioFormatChoice = Annotated[
    AudioFormat | None,
    typer.Option("--format", help="Format of the audio files.", show_default="as OUT is named, else wav (16 bit)"),
]
BandwidthId = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Row of the decoder's adaptive norms. The released checkpoints have 0 to 3 and are used with 0.",
        show_default="the model's own",
    ),
]
AllowIncomplete = Annotated[
    bool,
    typer.Option(
        "--allow-incomplete",
        help="Take what there is of recordings that break off or lack something, with a warning. Without it they are "
        "errors.",
    ),
]
# One place to write to has the same names in all commands, and most take it in its place among the arguments, too.
OUTPUT_NAMES = ("--output", "--out", "-o")
Output = Annotated[
    str | None,
    typer.Option(*OUTPUT_NAMES, metavar="OUT", help="Where to write, if not said as an argument.", show_default=False),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Write over outputs that exist. Without it they are refused.")
]
SkipExisting = Annotated[
    bool,
    typer.Option("--skip-existing", help="Leave out what has its output, to go on where the command was interrupted."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def one_output(argument: str | Path | None, option: str | None) -> str:
    """Where to write, which is said as an argument or as `-o`."""
    places = [place for place in (argument, option) if place is not None]
    if len(places) != 1:
        raise typer.BadParameter("say where to write, as an argument or with -o" + (", not both" if places else ""))
    return str(places[0])
