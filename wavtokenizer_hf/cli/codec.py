"""Loading a model for a command."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from wavtokenizer_hf.checkpoints import find_model, reading_model
from wavtokenizer_hf.cli.errors import say
from wavtokenizer_hf.cli.jobs import StageBars
from wavtokenizer_hf.conversion.checkpoints import find_release, is_released_repository

if TYPE_CHECKING:
    import torch

    from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerFeatureExtractor
    from wavtokenizer_hf.conversion.checkpoints import ReleasedCheckpoint
    from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerPreTrainedModel

Part = Literal["encoder", "decoder", "whole", "stored"]

_ENCODER_ONLY = "WavTokenizerEncoderModel"
_DECODER_ONLY = "WavTokenizerDecoderModel"


@dataclasses.dataclass(frozen=True)
class Codec:
    """A model that is ready to run, with its feature extractor.

    Args:
        fingerprint: Of the checkpoint in float32, whatever `dtype` the model runs in; `None` where there is no encoder
            or none was asked for.
        name: The Hub id, or the name of the folder.
    """

    model: "WavTokenizerPreTrainedModel"
    feature_extractor: "WavTokenizerFeatureExtractor"
    fingerprint: str | None
    name: str

    @property
    def config(self) -> "WavTokenizerConfig":
        return self.model.config


def load_codec(name: str, part: Part, *, revision: str = "main", device: str = "cpu", dtype: str = "float32") -> Codec:
    """Loads what a command needs of a model.

    Args:
        name: As `find_codec` takes it.
        part: `"encoder"` leaves the decoder's weights unread. `"decoder"` reads the encoder too where there is one,
            since the fingerprint covers it. `"stored"` takes what there is.
        dtype: torch's name; `"stored"` keeps that of the checkpoint and takes no fingerprint.

    Raises:
        BadParameter: If there is no such model or device.
        ValueError: If the folder holds another kind of model, or lacks the part.
    """
    name = find_codec(name)
    place = find_device(device)
    config = load_config(name, revision)
    stored = next(iter(config.architectures or ()), "")
    if part in ("encoder", "whole") and stored == _DECODER_ONLY:
        raise ValueError(f"{name} holds a decoder alone: it can decode, and nothing else")
    if part in ("decoder", "whole") and stored == _ENCODER_ONLY:
        raise ValueError(f"{name} holds an encoder alone: it can encode, and nothing else")

    import torch

    import wavtokenizer_hf
    from wavtokenizer_hf.configuration_wavtokenizer import check_same_codec

    wavtokenizer_hf.register()
    model_class: type[WavTokenizerPreTrainedModel]
    if part == "encoder" or stored == _ENCODER_ONLY:
        model_class = wavtokenizer_hf.WavTokenizerEncoderModel
    elif stored == _DECODER_ONLY:
        model_class = wavtokenizer_hf.WavTokenizerDecoderModel
    else:
        model_class = wavtokenizer_hf.WavTokenizerModel
    keeps_dtype = dtype == "stored"
    with reading_model(name):
        model, loaded = model_class.from_pretrained(
            name,
            revision=revision,
            dtype="auto" if keeps_dtype else torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
        feature_extractor = _load_feature_extractor(name, revision, config)
        check_same_codec(feature_extractor, config)
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise ValueError(f"{name} lacks weights of {model_class.__name__}: {missing[0]} ({len(missing)} in all)")
    mark = None if keeps_dtype or stored == _DECODER_ONLY else wavtokenizer_hf.fingerprint(model)
    model = model.to(place) if keeps_dtype else model.to(device=place, dtype=getattr(torch, dtype))
    return Codec(model.eval(), feature_extractor, mark, _short_name(name))


def load_config(name: str, revision: str = "main") -> "WavTokenizerConfig":
    """Reads the config of a folder or a Hub id; says in plain words what is wrong with what they hold."""
    from transformers.utils import logging

    from wavtokenizer_hf import WavTokenizerCausalConfig, WavTokenizerConfig

    if Path(name).is_dir():
        # Reading a folder takes a moment; a download keeps its bars.
        logging.disable_progress_bar()
    with reading_model(name):
        try:
            values, _ = WavTokenizerConfig.get_config_dict(name, revision=revision)
        except OSError as error:
            raise OSError(f"{name} is neither a folder here nor to be had from the Hub: {error}") from error
        known = WavTokenizerConfig.model_type, WavTokenizerCausalConfig.model_type
        if values.get("model_type") not in known:
            raise ValueError(
                f"{name} holds a model of type {values.get('model_type')!r}, expected {' or '.join(map(repr, known))}"
            )
        return WavTokenizerConfig.from_pretrained(name, revision=revision)


def check_bandwidth_id(bandwidth_id: int | None, config: "WavTokenizerConfig") -> None:
    """Refuses a bandwidth id that the model does not have, before any file is read."""
    if bandwidth_id is not None and bandwidth_id >= config.adanorm_num_embeddings:
        raise typer.BadParameter(
            f"--bandwidth-id must lie from 0 to {config.adanorm_num_embeddings - 1} for this model, got {bandwidth_id}"
        )


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


def _load_feature_extractor(name: str, revision: str, config: "WavTokenizerConfig") -> "WavTokenizerFeatureExtractor":
    from wavtokenizer_hf import WavTokenizerFeatureExtractor

    if Path(name).is_dir() and not Path(name, "preprocessor_config.json").is_file():
        # What saving a model alone leaves; everything that the file would say follows from the config.
        return WavTokenizerFeatureExtractor(sampling_rate=config.sampling_rate, hop_length=config.hop_length)
    return WavTokenizerFeatureExtractor.from_pretrained(name, revision=revision)


def _short_name(name: str) -> str:
    return Path(name).resolve().name if Path(name).is_dir() else name
