"""The keys of a recipe and what they mean, from the dataclasses that hold them.

`python -m wavtokenizer_hf.training.keys` prints the page docs/training-keys.md.
"""

import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from transformers import PreTrainedConfig

from wavtokenizer_hf.configuration_wavtokenizer import WavTokenizerCausalConfig, WavTokenizerConfig
from wavtokenizer_hf.training.config import TrainingConfig

_HEAD = """# Keys of a training run

What a recipe may say, and what `wavtokenizer train RECIPE KEY=VALUE` changes; `wavtokenizer train --keys` prints the
same. Keys of `model` hold for a codec that starts from random weights. The names of the losses, which are the keys of
`loss_weights`, stand in [training.md](training.md#watching-a-run). This page is made of the package's own words:
`python -m wavtokenizer_hf.training.keys`.
"""


class Key(NamedTuple):
    """A key as a change of a recipe names it, its default as YAML, and its meaning."""

    name: str
    default: str
    meaning: str


def keys() -> dict[str, list[Key]]:
    """All keys, in parts: by the name of the part, which is empty for those of the run itself."""
    parts = {"": list(_keys_of(TrainingConfig))}
    for field in dataclasses.fields(TrainingConfig):
        if dataclasses.is_dataclass(field.type):
            parts[field.name] = list(_keys_of(field.type, f"{field.name}."))
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    known = list(_keys_of(WavTokenizerConfig, "model.", inherited))
    inherited |= {key.name.removeprefix("model.") for key in known}
    causal = [
        key._replace(meaning=f"With `is_causal`: {key.meaning}")
        for key in _keys_of(WavTokenizerCausalConfig, "model.", inherited)
    ]
    return parts | {"model": known + causal}


def keys_as_text() -> str:
    """For a terminal."""
    lines = []
    for part in keys().values():
        for key in part:
            lines.append(f"{key.name}={key.default}" if key.default else key.name)
            lines.append(textwrap.indent(textwrap.fill(key.meaning, 100), "    "))
    return "\n".join(lines)


def keys_as_page() -> str:
    """For the documents."""
    sections = [_HEAD]
    for title, part in keys().items():
        sections += [f"## `{title}`\n" if title else "## The run\n", "| key | default | means |", "|---|---|---|"]
        for key in part:
            default = f"`{key.default}`" if key.default else ""
            sections.append(f"| `{key.name}` | {default} | {key.meaning.replace('|', chr(92) + '|')} |")
        sections.append("")
    return "\n".join(sections)


def _keys_of(kind: Any, prefix: str = "", without: Collection[str] = ()) -> Iterator[Key]:
    meanings = _meanings(kind)
    for field in dataclasses.fields(kind):
        if field.name not in without:
            yield Key(prefix + field.name, _default(field), meanings[field.name])


def _meanings(kind: type) -> dict[str, str]:
    """The `Args` of a docstring, with values as YAML has them."""
    _, _, arguments = inspect.getdoc(kind).partition("Args:\n")  # type: ignore[union-attr]
    block = re.split(r"\n(?=\S)", arguments)[0]
    for ours, theirs in {"None": "null", "True": "true", "False": "false"}.items():
        block = block.replace(f"`{ours}`", f"`{theirs}`")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", block, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _default(field: dataclasses.Field) -> str:
    """As YAML; empty for a part that has keys of its own."""
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return "" if dataclasses.is_dataclass(value) else json.dumps(value)


if __name__ == "__main__":
    print(keys_as_page(), end="")
