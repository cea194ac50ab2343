"""The architecture of a checkpoint, read off the shapes of its tensors, and the check of a YAML file against it."""

import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import yaml

from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerModel
from wavtokenizer_hf.audio.shown import folded
from wavtokenizer_hf.conversion.errors import ConversionError, UsageError, listed
from wavtokenizer_hf.conversion.key_map import SIMVQ, WAVTOKENIZER, Layout

Shapes = Mapping[str, tuple[int, ...]]

_Settings = tuple[tuple[str, Callable[[WavTokenizerConfig], object]], ...]

# What the originals' YAML files state of the architecture, below model.init_args, and what it must equal.
_YAML_SETTINGS: _Settings = (
    ("sample_rate", lambda config: config.sampling_rate),
    ("feature_extractor.init_args.dowmsamples", lambda config: list(config.upsampling_ratios)),
    ("feature_extractor.init_args.vq_bins", lambda config: config.codebook_size),
    ("feature_extractor.init_args.num_quantizers", lambda config: config.num_quantizers),
    ("backbone.init_args.input_channels", lambda config: config.hidden_size),
    ("backbone.init_args.dim", lambda config: config.decoder_hidden_size),
    ("backbone.init_args.intermediate_dim", lambda config: config.decoder_intermediate_size),
    ("backbone.init_args.num_layers", lambda config: config.decoder_num_layers),
    ("backbone.init_args.adanorm_num_embeddings", lambda config: config.adanorm_num_embeddings),
    ("head.init_args.dim", lambda config: config.decoder_hidden_size),
    ("head.init_args.n_fft", lambda config: config.n_fft),
    ("head.init_args.hop_length", lambda config: config.hop_length),
    ("head.init_args.padding", lambda config: "same"),
)
_YAML_SETTINGS_OF_SIMVQ: _Settings = (
    ("sample_rate", lambda config: config.sampling_rate),
    ("ddconfig.dimension", lambda config: config.hidden_size),
    ("ddconfig.causal", lambda config: config.use_causal_conv),
    ("quantconfig.params.n_e", lambda config: config.codebook_size),
    ("quantconfig.params.e_dim", lambda config: config.codebook_dim),
)


def infer_settings(shapes: Shapes, sampling_rate: object = None, layout: Layout = WAVTOKENIZER) -> dict[str, Any]:
    """The fields of the configuration that tensors of these shapes determine.

    They do not tell dilation, padding, number of groups and epsilon, for which the original has one value each: our
    defaults.

    Args:
        shapes: Shape of each tensor of the generator, by the original's name.
        sampling_rate: What the checkpoint's hyper-parameters say, in Hz; anything but a positive whole number means
            our default.
        layout: How the original names its tensors.

    Raises:
        ConversionError: If a tensor that tells something is missing, or what they tell does not fit together.
    """
    missing: list[str] = []
    encoder = layout.encoder

    def shape(name: str, num_axes: int) -> tuple[int, ...]:
        found = shapes.get(name)
        if found is None:
            missing.append(name)
            return (1,) * num_axes
        if len(found) != num_axes or not all(found):
            raise ConversionError(f"{name} has shape {list(found)}; expected {num_axes} axes, none of them empty")
        return found

    # Any key of a layer shows that the layer is there, so that a missing one is reported as such.
    convs = _indices(shapes, re.escape(encoder) + r"(\d+)\.conv\..*")
    lstms = _indices(shapes, re.escape(encoder) + r"(\d+)\.lstm\..*")
    lstm_layers = _indices(shapes, re.escape(encoder) + r"\d+\.lstm\..*_l(\d+)")
    convnexts = _indices(shapes, r"backbone\.convnext\.(\d+)\..*")
    if len(convs) < 3:
        raise ConversionError(
            f"missing keys: {encoder}*.conv.conv.*, of a first, a strided and a last convolution at least"
        )
    last_conv = convs[-1]

    num_filters, audio_channels, kernel_size = shape(f"{encoder}0.conv.conv.weight_v", 3)
    hidden_size, _, last_kernel_size = shape(f"{encoder}{last_conv}.conv.conv.weight_v", 3)
    block_width, _, residual_kernel_size = shape(f"{encoder}1.block.1.conv.conv.weight_v", 3)
    shape(f"{encoder}{lstms[0] if lstms else last_conv - 2}.lstm.weight_ih_l0", 2)
    codebook_size, codebook_dim = shape(layout.codebook + "embed", 2)
    decoder_hidden_size, _, _ = shape("backbone.embed.weight", 3)
    intermediate_size, _ = shape("backbone.convnext.0.pwconv1.weight", 2)
    num_embeddings, _ = shape(layout.norm, 2)
    num_outputs, _ = shape("head.out.weight", 2)
    strided = {name: shape(name, 3)[-1] for name in (f"{encoder}{index}.conv.conv.weight_v" for index in convs[1:-1])}
    if missing:
        raise ConversionError(f"missing keys, without which the architecture is not known: {listed(missing)}")
    for name, kernel in strided.items():
        if kernel % 2:
            raise ConversionError(f"{name} is {kernel} wide; a strided convolution is twice as wide as its stride")
    if num_filters % block_width:
        raise ConversionError(
            f"a residual block narrows {num_filters} channels to {block_width}, which does not divide them"
        )
    strides = [kernel // 2 for kernel in strided.values()]
    hop_length = math.prod(strides)
    if num_outputs != 4 * hop_length + 2:
        raise ConversionError(
            f"head.out.weight has {num_outputs} rows; the encoder's strides {strides} (hop {hop_length}) go with "
            f"n_fft {4 * hop_length}, so with {4 * hop_length + 2} rows"
        )
    return {
        "sampling_rate": sampling_rate if type(sampling_rate) is int and sampling_rate > 0 else 24000,
        "audio_channels": audio_channels,
        "num_filters": num_filters,
        "upsampling_ratios": strides[::-1],  # The encoder runs them from last to first.
        "kernel_size": kernel_size,
        "last_kernel_size": last_kernel_size,
        "residual_kernel_size": residual_kernel_size,
        # Before the first strided convolution: the first convolution, the residual blocks, an activation.
        "num_residual_layers": convs[1] - 2,
        "compress": num_filters // block_width,
        "use_conv_shortcut": any(name.startswith(f"{encoder}1.shortcut.") for name in shapes),
        "num_lstm_layers": len(lstm_layers),
        "hidden_size": hidden_size,
        "codebook_size": codebook_size,
        "codebook_dim": codebook_dim,
        "decoder_hidden_size": decoder_hidden_size,
        "decoder_intermediate_size": intermediate_size,
        "decoder_num_layers": len(convnexts),
        "adanorm_num_embeddings": num_embeddings,
    }


def build_config(settings: Mapping[str, Any]) -> WavTokenizerConfig:
    """The configuration with these fields.

    Raises:
        ConversionError: If they do not fit together.
    """
    try:
        return WavTokenizerConfig(**settings)
    except Exception as error:  # The strict dataclass raises its own type, wrapping ours.
        raise ConversionError(f"no such WavTokenizer: {error.__cause__ or error}") from None


_MAX_DIGITS = 9


def _indices(shapes: Shapes, pattern: str) -> list[int]:
    expression = re.compile(pattern)
    found = {match[1] for name in shapes if (match := expression.fullmatch(name))}
    if any(len(index) > _MAX_DIGITS for index in found):
        raise ConversionError(f"no such WavTokenizer: it has layers of numbers with more than {_MAX_DIGITS} digits")
    return sorted({int(index) for index in found})


def expected_shapes(config: WavTokenizerConfig) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor that a model of this configuration saves, by our name; no memory is taken for them."""
    try:
        with torch.device("meta"):
            model = WavTokenizerModel(config)
    except (RuntimeError, ValueError) as error:
        raise ConversionError(f"no such WavTokenizer: {error}") from None
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def read_yaml(path: str | os.PathLike[str]) -> object:
    """The content of a YAML file.

    Raises:
        UsageError: If the file cannot be read.
        ConversionError: If it is no YAML.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file)
    except OSError as error:
        raise UsageError(f"cannot read {os.fspath(path)}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConversionError(f"{os.fspath(path)} is not a YAML file: {error}") from None


def check_yaml(path: str | os.PathLike[str], config: WavTokenizerConfig, layout: Layout = WAVTOKENIZER) -> list[str]:
    """Checks the original's YAML file against the architecture that the tensors have.

    Settings that the file leaves out are not checked.

    Returns:
        The settings that were compared.

    Raises:
        UsageError: If the file cannot be read.
        ConversionError: If it is no YAML of this original, or says something else than the tensors.
    """
    content = read_yaml(path)
    settings = _YAML_SETTINGS_OF_SIMVQ if layout is SIMVQ else _YAML_SETTINGS
    compared, mismatches = [], []
    for setting, value_of in settings:
        stated = yaml_setting(content, setting)
        if stated is None:
            continue
        compared.append(setting)
        if stated != value_of(config):
            mismatches.append(
                f"{setting} is {folded(str(stated))[:80]} in the YAML, {value_of(config)} in the tensors"
            )
    if not compared:
        raise ConversionError(
            f"{os.fspath(path)} is not a YAML of {layout.original}: model.init_args has none of "
            f"{listed(setting for setting, _ in settings)}"
        )
    if mismatches:
        raise ConversionError(f"{os.fspath(path)} describes another model: {'; '.join(mismatches)}")
    return compared


def yaml_setting(content: object, setting: str) -> object:
    """What a YAML file says below model.init_args, `None` where it says nothing."""
    for part in ("model", "init_args", *setting.split(".")):
        if not isinstance(content, dict):
            return None
        content = content.get(part)
    return content
