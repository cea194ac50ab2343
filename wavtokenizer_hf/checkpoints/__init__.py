"""The small checkpoint that comes with the package, so that everything runs without a download."""

import os
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
