"""A folder that loads through transformers' Auto classes where this package is not installed."""

import copy
import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from wavtokenizer_hf.codecs.registry import codec_of
from wavtokenizer_hf.hub.folder import check_target, replacing_model
from wavtokenizer_hf.hub.model_card import for_self_contained_folder, render_model_card

_EXTRACTOR = "AutoFeatureExtractor"


def export_to_hub_folder(
    model: PreTrainedModel,
    feature_extractor: Any,
    directory: str | os.PathLike[str],
    *,
    card: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes weights, configs, the code itself and a model card into one folder, whole or not at all.

    The folder loads with `trust_remote_code=True`, and saving what was loaded from it gives such a folder again.
    Neither `model` nor `feature_extractor` is changed.

    Args:
        model: The whole codec, not fused.
        directory: A folder that does not exist yet, or is empty.
        card: The text of a model card to keep, but for its section "Use"; `None` means to write one, under the name of
            `directory`.
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
    codec = codec_of(model, feature_extractor)
    codec.check_exportable()
    target = Path(directory).resolve()
    check_target(target, overwrite)
    auto_map = codec.auto_map(model.config)
    with replacing_model(target) as folder:
        model.save_pretrained(folder)
        config = copy.deepcopy(model.config)
        config.auto_map = auto_map
        config.save_pretrained(folder)
        extractor = copy.deepcopy(feature_extractor)
        extractor.auto_map = {_EXTRACTOR: auto_map[_EXTRACTOR]}
        extractor.save_pretrained(folder)
        if card is None:
            card = render_model_card(model.config, name=target.name)
        else:
            card = for_self_contained_folder(card, model.config)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return target
