"""A folder that loads through transformers' Auto classes where this package is not installed."""

import copy
import os
from collections.abc import Mapping
from pathlib import Path

from wavtokenizer_hf.configuration_wavtokenizer import WavTokenizerConfig, check_same_codec
from wavtokenizer_hf.feature_extraction_wavtokenizer import WavTokenizerFeatureExtractor
from wavtokenizer_hf.hub.folder import check_target, replacing_model
from wavtokenizer_hf.hub.model_card import for_self_contained_folder, render_model_card
from wavtokenizer_hf.modeling_wavtokenizer import (
    WavTokenizerCausalModel,
    WavTokenizerModel,
    WavTokenizerPreTrainedModel,
)

_FEATURE_EXTRACTOR_MAP = {"AutoFeatureExtractor": "feature_extraction_wavtokenizer.WavTokenizerFeatureExtractor"}


def _auto_map(config: WavTokenizerConfig) -> dict[str, str]:
    model_class = WavTokenizerCausalModel if config.is_causal else WavTokenizerModel
    return {
        "AutoConfig": f"configuration_wavtokenizer.{type(config).__name__}",
        "AutoModel": f"modeling_wavtokenizer.{model_class.__name__}",
        "AutoModelForAudioTokenization": f"modeling_wavtokenizer.{model_class.__name__}",
        **_FEATURE_EXTRACTOR_MAP,
    }


def export_to_hub_folder(
    model: WavTokenizerPreTrainedModel,
    feature_extractor: WavTokenizerFeatureExtractor,
    directory: str | os.PathLike[str],
    *,
    name: str | None = None,
    details: Mapping[str, object] | None = None,
    card: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes weights, configs, the code itself and a model card into one folder, whole or not at all.

    The folder loads with `trust_remote_code=True`, and saving what was loaded from it gives such a folder again.
    Neither `model` nor `feature_extractor` is changed.

    Args:
        model: The whole codec, not fused.
        directory: A folder that does not exist yet, or is empty.
        name: What the model card calls the model; `None` means the name of `directory`.
        details: What is known of the checkpoint, for the card; see `render_model_card`.
        card: The text of a model card to keep, but for its section "Use"; `None` means to write one.
        overwrite: Whether to replace the model that `directory` holds. Its other files stay, so `directory` may be
            a clone of a Hub repository.

    Returns:
        The folder.

    Raises:
        TypeError: If `model` is an encoder or a decoder alone, which the Auto classes cannot load, or transformers'
            own.
        ValueError: If `feature_extractor` is another codec's.
        RuntimeError: If `model` is fused.
        FileExistsError: If `directory` is in use.
    """
    if not isinstance(model, WavTokenizerModel):
        raise TypeError(
            f"expected a WavTokenizerModel, got {type(model).__name__} of {type(model).__module__}: a folder holds "
            "the whole codec, as this package has it"
        )
    if model.is_fused:
        raise RuntimeError(
            "a fused model cannot be exported: its weight norm is gone, and the saved folder would not load; load the "
            "checkpoint again and export it before fuse()"
        )
    check_same_codec(feature_extractor, model.config)
    target = Path(directory).resolve()
    check_target(target, overwrite)
    with replacing_model(target) as folder:
        model.save_pretrained(folder)
        config = copy.deepcopy(model.config)
        config.auto_map = _auto_map(config)
        config.save_pretrained(folder)
        extractor = copy.deepcopy(feature_extractor)
        extractor.auto_map = _FEATURE_EXTRACTOR_MAP  # type: ignore[attr-defined]
        extractor.save_pretrained(folder)
        if card is None:
            card = render_model_card(model.config, name=name or target.name, details=details)
        else:
            card = for_self_contained_folder(card)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return target
