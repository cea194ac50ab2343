"""The small checkpoint that comes with the package, so that everything runs without a download."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

DEFAULT = "nano-75"


def bundled_checkpoint(name: str = DEFAULT) -> str:
    """Where a checkpoint of the package lies, for `from_pretrained`.

    It is for trying the software, tests and examples; the released checkpoints sound far better.

    Raises:
        ValueError: If there is none of that name.

    Example:

    ```python
    >>> from transformers import AutoModel
    >>> from wavtokenizer_hf import bundled_checkpoint

    >>> model = AutoModel.from_pretrained(bundled_checkpoint())
    ```
    """
    here = Path(__file__).parent
    names = sorted(path.parent.name for path in here.glob("*/config.json"))
    if name not in names:
        raise ValueError(f"no checkpoint {name!r} comes with the package; there is {', '.join(names)}")
    return os.fspath(here / name)


def find_model(name: str) -> str:
    """What to load for a model's name: the folder of a checkpoint of the package, where that is what it names.

    A folder here that has the name goes first; any other name stays as it is.
    """
    return bundled_checkpoint(name) if name == DEFAULT and not Path(name).exists() else name


@contextlib.contextmanager
def reading_model(name: str) -> Iterator[None]:
    """Reading a model's folder, which may hold anything, within the block.

    Raises:
        ValueError: In place of whatever the libraries raise for a damaged folder, with its name and their reason. What
            is an OSError stays one.
    """
    _check_json(Path(name))
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, (ValueError, RuntimeError)) or _is_of_a_library(error) else type(error).__name__
        reason = ": ".join(filter(None, (kind, " ".join(str(error).split())[:_MAX_REASON])))
        raise ValueError(reason if name in reason else f"{name} does not load: {reason}") from error


_MAX_REASON = 500


def _is_of_a_library(error: Exception) -> bool:
    """Whether the class of an error says no more than which library raised it."""
    return type(error).__module__ != "builtins"


def _check_json(folder: Path) -> None:
    """Refuses a file of settings that is none, which the libraries would trip over in words of their own."""
    for name in ("config.json", "preprocessor_config.json", "model.safetensors.index.json"):
        path = folder / name
        if not path.exists():
            continue
        if not path.is_file():
            raise ValueError(f"{path} is no regular file")
        try:
            values = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} holds no JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}")
