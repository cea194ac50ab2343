"""One conversion, from a SOURCE to a folder."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerFeatureExtractor
from wavtokenizer_hf.conversion import checkpoints
from wavtokenizer_hf.conversion.architecture import build_config, check_yaml, expected_shapes, infer_settings
from wavtokenizer_hf.conversion.cards import converted_card
from wavtokenizer_hf.conversion.errors import ConversionError, UsageError, listed
from wavtokenizer_hf.conversion.key_map import SIMVQ, KeyMap, Layout, check_against, map_keys
from wavtokenizer_hf.conversion.lightning import OriginalCheckpoint
from wavtokenizer_hf.conversion.simvq import Checkpoint, causality, recognise
from wavtokenizer_hf.conversion.weights_file import write_safetensors
from wavtokenizer_hf.hub.folder import check_target, replacing_model

DISCRIMINATORS = "discriminators.safetensors"

# What is going on, how many bytes are done, of how many.
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Args:
        out: The folder written.
        config: The architecture that was found.
        key_map: What became of each key.
        num_bytes: Size of all converted tensors.
        yaml_settings: The settings of a YAML file that were compared with the tensors.
        remark: What was assumed, because neither tensors nor arguments tell it.
    """

    out: Path
    config: WavTokenizerConfig
    key_map: KeyMap
    num_bytes: int
    yaml_settings: list[str]
    remark: str | None = None


def convert(
    source: str,
    out: str | os.PathLike[str],
    *,
    yaml: str | os.PathLike[str] | None = None,
    causal: bool | None = None,
    keep_discriminators: bool = False,
    overwrite: bool = False,
    progress: OnProgress = lambda what, done, total: None,
) -> Conversion:
    """Writes a checkpoint of WavTokenizer or SimVQ as a folder that `WavTokenizerModel.from_pretrained` loads.

    Args:
        source: A `.ckpt` path, `REPO:FILE` on the Hub, or a released checkpoint's name.
        out: A folder that does not exist or is empty.
        yaml: The original's YAML file, to check against what the tensors say, and to tell whether SimVQ's encoder is
            causal.
        causal: Whether it is. Where neither says so, it is taken to be, as in the published configuration.
        keep_discriminators: Whether to write `discriminators.safetensors`, too, for further training.
        overwrite: Whether to replace the model that `out` holds.
        progress: Called along the way.

    Raises:
        UsageError: If an argument names something that cannot be converted, or a place that cannot be written to.
        ConversionError: If anything else fails. Nothing is left behind, and what `out` held is untouched.
    """
    out = Path(out)
    try:
        check_target(out, overwrite)
    except FileExistsError as error:
        raise UsageError(str(error)) from None
    found = checkpoints.resolve(source)
    path = found.fetch()
    sha256 = _hash(path, progress)
    release = checkpoints.identify(found, sha256)
    with OriginalCheckpoint(path) as file:
        layout, checkpoint = recognise(file)
        use_causal_conv, remark = causality(layout, causal, yaml)
        key_map = map_keys(checkpoint.names, layout)
        config, dtype = _architecture(checkpoint, key_map, layout, use_causal_conv)
        yaml_settings = check_yaml(yaml, config, layout) if yaml is not None else []
        discriminators = key_map.discriminators if keep_discriminators else []
        if keep_discriminators and not discriminators:
            raise ConversionError(f"{path} has no discriminators of WavTokenizer to keep")
        written = {ours: (dtype, checkpoint.record(name).shape) for name, ours in key_map.kept.items()}
        extra = {name: (checkpoint.record(name).dtype, checkpoint.record(name).shape) for name in discriminators}
        num_bytes = sum(kind.itemsize * torch.Size(shape).numel() for kind, shape in (written | extra).values())
        original = {ours: name for name, ours in key_map.kept.items()}
        report = _Counter(progress, "writing", num_bytes)

        with _reporting_write_errors(out), replacing_model(out, [DISCRIMINATORS]) as folder:
            write_safetensors(
                folder / "model.safetensors", written, lambda ours: _read(checkpoint, original[ours]).to(dtype), report
            )
            if extra:
                write_safetensors(folder / DISCRIMINATORS, extra, checkpoint.read, report)
            config.save_pretrained(folder)
            WavTokenizerFeatureExtractor(
                sampling_rate=config.sampling_rate, hop_length=config.hop_length
            ).save_pretrained(folder)
            card = converted_card(
                config,
                found,
                release,
                path.name,
                sha256,
                has_discriminators=bool(extra),
                is_simvq=layout is SIMVQ,
            )
            (folder / "README.md").write_text(card, encoding="utf-8")
    return Conversion(out, config, key_map, num_bytes, yaml_settings, remark)


def _read(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    values = checkpoint.read(name)
    if not values.isfinite().all():
        raise ConversionError(
            f"{listed([name])} holds NaN or infinity: the checkpoint is damaged, or its training had failed"
        )
    return values


@contextmanager
def _reporting_write_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConversionError(f"cannot write {out}: {error.strerror or error}") from error


def _hash(path: Path, progress: OnProgress) -> str:
    size = path.stat().st_size
    return checkpoints.sha256_of(path, _Counter(progress, "checking", size))


def _architecture(
    checkpoint: Checkpoint, key_map: KeyMap, layout: Layout, use_causal_conv: bool
) -> tuple[WavTokenizerConfig, torch.dtype]:
    """The configuration and dtype of the model that the tensors make, once it is sure that they make exactly that."""
    records = {name: checkpoint.record(name) for name in key_map.kept}
    shapes = {name: record.shape for name, record in records.items()}
    settings = infer_settings(shapes, checkpoint.hyper_parameters.get("sample_rate"), layout)
    config = build_config(settings | {"use_causal_conv": use_causal_conv})
    check_against(key_map, shapes, expected_shapes(config), layout)
    no_floats = [f"{name} ({record.dtype})" for name, record in records.items() if not record.dtype.is_floating_point]
    if no_floats:
        raise ConversionError(f"expected tensors of floats, got {listed(no_floats)}")
    # Where dtypes are mixed, the one that holds all values exactly.
    dtype = functools.reduce(torch.promote_types, {record.dtype for record in records.values()})
    config.dtype = dtype
    config.architectures = ["WavTokenizerModel"]
    return config, dtype


class _Counter:
    """Turns sizes of blocks into a running total."""

    def __init__(self, progress: OnProgress, what: str, total: int):
        self._progress, self._what, self._total = progress, what, total
        self._done = 0

    def __call__(self, num_bytes: int) -> None:
        self._done += num_bytes
        self._progress(self._what, self._done, self._total)
