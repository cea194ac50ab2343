"""Loading a model for a command."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from wavtokenizer_hf.checkpoints import find_model
from wavtokenizer_hf.cli.errors import say
from wavtokenizer_hf.cli.jobs import StageBars
from wavtokenizer_hf.conversion.checkpoints import find_release, is_released_repository

if TYPE_CHECKING:
    import torch

    from wavtokenizer_hf.codecs.codec import Codec, Part
    from wavtokenizer_hf.conversion.checkpoints import ReleasedCheckpoint


def open_codec(
    name: str, part: "Part", *, revision: str = "main", device: str = "cpu", dtype: str = "float32"
) -> "Codec":
    """As `codecs.loading.load_codec`, of any name that `find_codec` takes.

    Raises:
        BadParameter: If there is no such model or device.
    """
    name = find_codec(name)
    place = find_device(device)
    import wavtokenizer_hf
    from wavtokenizer_hf.codecs import loading

    wavtokenizer_hf.register()
    return loading.load_codec(name, part, revision=revision, device=place, dtype=dtype)


def decode_options(codec: "Codec", bandwidth_id: int | None) -> dict[str, Any]:
    """What the command was told for `codec.decode`, checked before any file is read."""
    options = {} if bandwidth_id is None else {"bandwidth_id": bandwidth_id}
    try:
        codec.check_options(options)
    except ValueError as error:
        raise typer.BadParameter(str(error).replace("bandwidth_id", "--bandwidth-id")) from None
    return options


def find_codec(name: str) -> str:
    """What `from_pretrained` takes for a model's name: a folder, an id on the Hub, or a name that is known here.

    Known are the checkpoint of the package and the released ones, which are downloaded and converted the first time,
    into a folder beside the Hub's cache. The Hub is never asked for another name that has no owner.

    Raises:
        BadParameter: If it is none of these.
        ConversionError: If a released checkpoint cannot be downloaded or converted.
    """
    path = Path(find_model(name))
    if path.is_file():
        hint = f"; convert it first: wavtokenizer convert {name} FOLDER" if path.suffix in (".ckpt", ".pt") else ""
        raise typer.BadParameter(f"a model is a folder, a Hub id or a name, and {name} is a file{hint}")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise typer.BadParameter(f"{name} is not a model's folder: it holds no config.json")
        return str(path)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise typer.BadParameter(f"no such folder, and not an id on the Hub: {name}")
    if "/" in name and not is_released_repository(name):
        return name
    return _find_converted(find_release(name))


def _find_converted(release: "ReleasedCheckpoint") -> str:
    from huggingface_hub import constants

    folder = Path(constants.HF_HOME, "wavtokenizer-hf", release.name)
    if not (folder / "config.json").is_file():
        from wavtokenizer_hf.conversion.convert import convert

        say(f"{release.name} was not converted yet: wavtokenizer convert {release.name} {folder}", err=True)
        say(f"downloading {release.repo}:{release.file}", err=True)
        with StageBars() as bars:
            done = convert(release.name, folder, progress=bars.update)
        if done.remark:
            say(done.remark, err=True)
    return str(folder)


def find_device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise typer.BadParameter(f"no device {name!r} here: {str(error).splitlines()[0]}") from None
    return device
