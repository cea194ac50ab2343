"""Imports transformers' common tests from where `fetch` puts them."""

import importlib
import sys
from types import ModuleType

import pytest

from tests.conformance.fetch import COMMAND, folder

_PACKAGE = "transformers_tests"

# What the common tests import from folders that the source distribution lacks.
_STAND_INS = {
    # Tests of `transformers.exporters`; tests/unit/test_export_compile.py tests our export.
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    # Asked only whether a test class inherits from it; a codec does not generate.
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    # Settings that any configuration must take, none at its default.
    "utils.test_configuration_utils": {
        "config_common_kwargs": {
            "return_dict": False,
            "output_hidden_states": True,
            "output_attentions": True,
            "dtype": "float16",
            "chunk_size_feed_forward": 3,
            "architectures": ["WavTokenizerModel"],
            "id2label": {0: "speech"},
            "label2id": {"speech": 0},
            "problem_type": "regression",
        }
    },
}


def library_tests(name: str) -> ModuleType:
    """A module of transformers' `tests` folder; skips the calling test module where the folder is absent."""
    path = folder()
    if not path.is_dir():
        pytest.skip(f"{path} is absent; run `{COMMAND}` while the network is there", allow_module_level=True)
    if _PACKAGE not in sys.modules:
        _add_module(_PACKAGE).__path__ = [str(path)]
        for stand_in, content in _STAND_INS.items():
            parent, _, _ = stand_in.partition(".")
            if not (path / parent).is_dir():
                _add_module(f"{_PACKAGE}.{parent}").__path__ = []
                _add_module(f"{_PACKAGE}.{stand_in}").__dict__.update(content)
    return importlib.import_module(f"{_PACKAGE}.{name}")


def _add_module(name: str) -> ModuleType:
    module = sys.modules[name] = ModuleType(name)
    return module
