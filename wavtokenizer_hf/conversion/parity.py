"""Proving that a converted folder holds what its checkpoint holds, and that it works on real audio."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerFeatureExtractor, WavTokenizerModel
from wavtokenizer_hf.conversion import checkpoints
from wavtokenizer_hf.conversion.architecture import infer_settings
from wavtokenizer_hf.conversion.convert import DISCRIMINATORS, OnProgress
from wavtokenizer_hf.conversion.errors import ConversionError, UsageError
from wavtokenizer_hf.conversion.key_map import map_keys, to_original
from wavtokenizer_hf.conversion.lightning import OriginalCheckpoint
from wavtokenizer_hf.conversion.simvq import Checkpoint, recognise

PACKAGED_CLIP = Path(__file__).with_name("LJ001-0002.flac")


@dataclass(frozen=True)
class RoundTrip:
    """What became of one recording. Levels are root mean squares, with full scale at 1."""

    duration_s: float
    num_codes: int
    num_distinct_codes: int
    rms_in: float
    rms_out: float


@dataclass(frozen=True)
class Verification:
    """What was compared, and what differs.

    Args:
        num_tensors: Tensors compared, by our key.
        num_values: Numbers in them.
        num_discriminators: Tensors of `discriminators.safetensors` compared.
        differences: One line for each difference, naming the key, the setting or the failing of the audio.
        round_trip: Of the recording; `None` where the audio could not be encoded and decoded.
    """

    num_tensors: int
    num_values: int
    num_discriminators: int
    differences: list[str]
    round_trip: RoundTrip | None


def verify(
    folder: str | os.PathLike[str],
    against: str,
    *,
    audio: str | os.PathLike[str] | None = None,
    progress: OnProgress = lambda what, done, total: None,
) -> Verification:
    """Compares a converted folder with the checkpoint it came from, through the real `from_pretrained`.

    Args:
        folder: The converted folder.
        against: The checkpoint, as `convert` takes it.
        audio: A recording to encode and decode; `None` means the packaged clip.
        progress: Called along the way.

    Raises:
        UsageError: If an argument names nothing.
        ConversionError: If the folder does not load, or the checkpoint or the recording cannot be read.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is no converted model: it has no config.json")
    clip = Path(audio) if audio is not None else PACKAGED_CLIP
    if not clip.is_file():
        raise UsageError(f"no such recording: {clip}")
    path = checkpoints.resolve(against).fetch()
    try:
        model, loading = WavTokenizerModel.from_pretrained(folder, dtype="auto", output_loading_info=True)
        feature_extractor = WavTokenizerFeatureExtractor.from_pretrained(folder)
    except Exception as error:  # A folder can be broken in any file, and each has its own type of error.
        raise ConversionError(f"{folder} does not load: {error}") from error
    differences = [f"{key}: not in the folder" for key in sorted(loading["missing_keys"])]
    differences += [f"{key}: in the folder, not in the model" for key in sorted(loading["unexpected_keys"])]
    with OriginalCheckpoint(path) as file:
        layout, checkpoint = recognise(file)
        state = model.state_dict()
        names = map_keys(checkpoint.names, layout).kept
        shapes = {name: checkpoint.record(name).shape for name in names}
        settings = infer_settings(shapes, checkpoint.hyper_parameters.get("sample_rate"), layout)
        differences += _compare_settings(settings, model.config, feature_extractor)
        for done, (name, ours) in enumerate(names.items(), start=1):
            differences += _compare(ours, state, name, checkpoint)
            progress("comparing", done, len(names))
        differences += [f"{ours}: not in the checkpoint" for ours in state if to_original(ours, layout) not in names]
        num_discriminators, more = _compare_discriminators(folder / DISCRIMINATORS, file)
    round_trip, troubles = _round_trip(model, feature_extractor, clip)
    return Verification(
        num_tensors=len(names),
        num_values=sum(torch.Size(shape).numel() for shape in shapes.values()),
        num_discriminators=num_discriminators,
        differences=differences + more + troubles,
        round_trip=round_trip,
    )


def _same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two tensors have the same values, whatever their dtypes; the wider one holds both exactly."""
    if ours.shape != theirs.shape:
        return False
    dtype = torch.promote_types(ours.dtype, theirs.dtype)
    return torch.allclose(ours.to(dtype), theirs.to(dtype), rtol=0, atol=0, equal_nan=True)


def _compare(ours: str, state: Mapping[str, torch.Tensor], name: str, checkpoint: Checkpoint) -> list[str]:
    if ours not in state:
        return [f"{ours}: not in the model"]
    return [] if _same(state[ours], checkpoint.read(name)) else [f"{ours}: differs from {name} of the checkpoint"]


def _compare_settings(
    settings: Mapping[str, object], config: WavTokenizerConfig, feature_extractor: WavTokenizerFeatureExtractor
) -> list[str]:
    found = [("config.json", name, getattr(config, name), wanted) for name, wanted in settings.items()]
    found += [
        ("preprocessor_config.json", "sampling_rate", feature_extractor.sampling_rate, settings["sampling_rate"]),
        ("preprocessor_config.json", "hop_length", feature_extractor.hop_length, config.hop_length),
    ]
    return [f"{file}: {name} is {value} instead of {wanted}" for file, name, value, wanted in found if value != wanted]


def _compare_discriminators(path: Path, checkpoint: OriginalCheckpoint) -> tuple[int, list[str]]:
    if not path.is_file():
        return 0, []
    names = map_keys(checkpoint.names).discriminators
    differences = []
    try:
        with safe_open(path, framework="pt") as file:
            stored = set(file.keys())
            for name in sorted(stored | set(names)):
                if name not in stored:
                    differences.append(f"{name}: not in {path.name}")
                elif name not in names:
                    differences.append(f"{name}: not in the checkpoint")
                elif not _same(file.get_tensor(name), checkpoint.read(name)):
                    differences.append(f"{name}: differs from the checkpoint")
    except SafetensorError as error:
        raise ConversionError(f"{path} cannot be read: {error}") from error
    return len(stored), differences


def _round_trip(
    model: WavTokenizerModel, feature_extractor: WavTokenizerFeatureExtractor, clip: Path
) -> tuple[RoundTrip | None, list[str]]:
    try:
        inputs = feature_extractor(clip, resample=True, return_tensors="pt")
    except (ValueError, OSError) as error:
        raise ConversionError(str(error)) from error
    num_samples = inputs["input_values"].shape[-1]
    try:
        with torch.no_grad():
            codes = model.encode(**inputs)["audio_codes"]
            audio = model.decode(codes)["audio_values"][..., :num_samples]
    except (RuntimeError, ValueError, IndexError) as error:
        return None, [f"audio: {clip.name} cannot be encoded and decoded: {error}"]
    troubles = []
    if codes.shape[-1] != model.num_codes(num_samples):
        troubles.append(f"audio: {codes.shape[-1]} codes of {num_samples} samples, not {model.num_codes(num_samples)}")
    if audio.shape != inputs["input_values"].shape:
        troubles.append(f"audio: {audio.shape[-1]} samples came back of {num_samples}")
    if not audio.isfinite().all():
        troubles.append("audio: NaN or infinity came back")
    return RoundTrip(
        duration_s=num_samples / feature_extractor.sampling_rate,
        num_codes=codes.numel(),
        num_distinct_codes=codes.unique().numel(),
        rms_in=inputs["input_values"].square().mean().sqrt().item(),
        rms_out=audio.square().mean().sqrt().item(),
    ), troubles
