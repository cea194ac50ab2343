"""The model card of a folder, from the template beside this file."""

import re
from collections.abc import Mapping

from transformers import PreTrainedConfig

from wavtokenizer_hf.audio.templates import find_template
from wavtokenizer_hf.codecs.registry import family_of

# What may be known of a checkpoint beyond its configuration. All are strings, except for `not_for`, a list of them.
DETAILS = (
    "domain",  # what it was trained on
    "licence",  # an identifier as the Hub spells it, such as "mit"
    "origin_repo",  # Hub repository that the original checkpoint comes from
    "origin_file",  # its file name
    "origin_revision",  # the commit, where it is not the newest
    "origin_sha256",  # of that file; its first digits will do
    "has_discriminators",  # whether the folder keeps the discriminators
    "is_simvq",  # whether it is one of SimVQ's codecs
    "not_for",  # what its training makes it unfit for
    "remark",
)


def render_model_card(
    config: PreTrainedConfig,
    *,
    name: str,
    details: Mapping[str, object] | None = None,
    needs_package: bool = False,
) -> str:
    """Writes the text of a `README.md`.

    Figures are derived from the configuration; what `details` does not say, the card leaves out.

    Args:
        config: The model's.
        name: The card's heading.
        details: What is known of the checkpoint, under the keys of `DETAILS`.
        needs_package: Whether the folder holds no code of its own, so that the package must be imported to load it.

    Raises:
        ValueError: If `details` has a key that no card shows.
    """
    known = {key: value for key, value in (details or {}).items() if value}
    if unknown := sorted(set(known) - set(DETAILS)):
        raise ValueError(f"unknown details {unknown}; a card shows {list(DETAILS)}")
    family = family_of(config.model_type)
    template = find_template(family.card_template, __package__, family.__module__.rpartition(".")[0])
    return template.render(
        dict.fromkeys(DETAILS) | known,
        name=name,
        config=config,
        spec=family.spec_of(config),
        needs_package=needs_package,
    )


def for_self_contained_folder(card: str, config: PreTrainedConfig) -> str:
    """A card in which the section "Use" is that of a folder with code of its own; the rest stays as it is.

    A card without that section is returned unchanged.
    """
    section = _USE.search(render_model_card(config, name=""))
    return _USE.sub(lambda match: section[0] if section else match[0], card, count=1)


# Up to the next heading; a line of Python that begins with a hash is none.
_USE = re.compile(r"^## Use\n.*?(?=^## |\Z)", flags=re.MULTILINE | re.DOTALL)
