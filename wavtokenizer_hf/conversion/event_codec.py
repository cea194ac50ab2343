"""From the original's weights of the codec of sparse events to ours: a table of keys, and the geometry from shapes.

The original saves a bare state dict, and the weights of its discriminator in a file of their own.
"""

from collections.abc import Mapping

import torch

from wavtokenizer_hf.configuration_sparse_event_codec import SparseEventCodecConfig
from wavtokenizer_hf.conversion.errors import ConversionError, listed
from wavtokenizer_hf.conversion.key_map import Dropped, Kept

_SAMPLES_PER_EVENT = 4096

KEPT = (
    Kept("encoder.proj.{leaf}", "encoder.input_projection.{leaf}"),
    Kept("encoder.stack.blocks.{i}.conv.conv.{path}", "encoder.blocks.{i}.conv.{path}"),
    Kept("encoder.stack.blocks.{i}.gate.conv.{path}", "encoder.blocks.{i}.gate.{path}"),
    Kept("encoder.stack.ff.{leaf}", "encoder.output_projection.{leaf}"),
    Kept("to_event_vectors.{leaf}", "encoder.vector_head.{leaf}"),
    Kept("to_event_switch.{leaf}", "encoder.switch_head.{leaf}"),
    Kept("resonance.r.items", "renderer.resonances"),
    Kept("resonance.n.items", "renderer.filters"),
    Kept("resonance.e.items", "renderer.envelopes"),
    Kept("resonance.d.items", "renderer.decays"),
    Kept("resonance.warp.items", "renderer.deformations"),
    Kept("resonance.noise_warp.items", "renderer.noise_deformations"),
    Kept("resonance.verb.items", "renderer.room_responses"),
    Kept("multihead.mods.{path}", "renderer.heads.{path}"),
)
DISCRIMINATOR_KEPT = (
    Kept("disc.proj.{leaf}", "projection.{leaf}"),
    Kept("disc.downsample.{i}.net.1.bias", "convolutions.{i}.bias"),
    Kept("disc.downsample.{i}.net.1.weight_g", "convolutions.{i}.parametrizations.weight.original0"),
    Kept("disc.downsample.{i}.net.1.weight_v", "convolutions.{i}.parametrizations.weight.original1"),
    Kept("disc.judge.{leaf}", "judge.{leaf}"),
)
# The prefix of the batch norms follows a block's number, which a prefix cannot say.
_BYPASSED = Dropped("encoder.stack.blocks.", "a batch norm that the original bypasses")
DROPPED = (
    Dropped("resonance.scheduler.pos", "a table that the original never reads"),
    Dropped("multihead.mods.noise_mixes.", "a head whose output the original drops"),
)


def why_dropped(name: str) -> Dropped | None:
    """The reason for which a key of the original is not converted, if there is one."""
    if name.startswith(_BYPASSED.prefix) and name.split(".")[4:5] == ["norm"]:
        return _BYPASSED
    return next((row for row in DROPPED if name.startswith(row.prefix)), None)


def to_ours(name: str, table: tuple[Kept, ...] = KEPT) -> str | None:
    """Our name for a key of the original, `None` where it has none or is dropped."""
    if why_dropped(name):
        return None
    return next((ours for row in table if (ours := row.to_ours(name)) is not None), None)


def convert(state_dict: Mapping[str, torch.Tensor], table: tuple[Kept, ...] = KEPT) -> dict[str, torch.Tensor]:
    """The same tensors under our names.

    Args:
        state_dict: The original's, of the model or, with `DISCRIMINATOR_KEPT`, of the discriminator.
        table: Which of the two.

    Raises:
        ConversionError: If there are keys that the table does not know.
    """
    unknown = [name for name in state_dict if to_ours(name, table) is None and why_dropped(name) is None]
    if unknown:
        raise ConversionError(f"leftover keys, for which the map has no row: {listed(unknown)}")
    return {ours: tensor for name, tensor in state_dict.items() if (ours := to_ours(name, table)) is not None}


def architecture(state_dict: Mapping[str, torch.Tensor]) -> SparseEventCodecConfig:
    """The geometry of the original's model, read off the shapes of its tensors.

    Raises:
        ConversionError: If a tensor that tells it is missing.
    """
    try:
        num_rooms, num_samples = state_dict["resonance.verb.items"].shape
        num_filters, taps = state_dict["resonance.n.items"].shape
        variants = state_dict["multihead.mods.noise_resonance.weight"].shape[0] // num_filters
        return SparseEventCodecConfig(
            renderer="wavetable",
            num_frames=num_samples // 256,
            num_events=num_samples // _SAMPLES_PER_EVENT,
            event_dim=state_dict["to_event_vectors.weight"].shape[0],
            hidden_size=state_dict["encoder.proj.weight"].shape[0],
            num_noise_filters=num_filters,
            noise_filter_samples=taps,
            noise_expressivity=variants,
            instr_expressivity=variants,
            noise_deformations=state_dict["resonance.noise_warp.items"].shape[0],
            num_deformations=state_dict["resonance.warp.items"].shape[0],
            num_resonances=state_dict["resonance.r.items"].shape[0],
            num_envelopes=state_dict["resonance.e.items"].shape[0],
            num_decays=state_dict["resonance.d.items"].shape[0],
            num_rooms=num_rooms,
        )
    except KeyError as error:
        raise ConversionError(f"not a checkpoint of the codec of sparse events: it has no key {error}") from error
