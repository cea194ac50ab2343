"""What every test may rely on: no network, no cache of this machine, the same seeds, and small models."""

import atexit
import os
import random
import shutil
import socket
import tempfile
from pathlib import Path

# Read by huggingface_hub and transformers when they are imported, so they are set before that.
_modules_cache = tempfile.mkdtemp(prefix="hf_modules_")
atexit.register(shutil.rmtree, _modules_cache, ignore_errors=True)
os.environ["HF_MODULES_CACHE"] = _modules_cache
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.tiny import tiny_config as make_tiny_config  # noqa: E402
from tests.tiny import tiny_model as make_tiny_model  # noqa: E402
from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerModel  # noqa: E402

_LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}

# Sums in one order, whatever the machine and whatever ran before: some tests compare what two moments computed, bit by
# bit.
torch.set_num_threads(1)

# How long an example takes says more of the machine than of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, request):
    """Refuses connections beyond this machine, except for tests that are marked as needing the Hub."""
    if request.node.get_closest_marker("hub"):
        return

    def guarded(connect):
        def refuse(self, address):
            if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in _LOCAL_HOSTS:
                raise RuntimeError(f"A test tried to connect to {address}; tests run offline.")
            return connect(self, address)

        return refuse

    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))


@pytest.fixture(autouse=True)
def _same_seeds():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def accelerator():
    """A function from a precision to accelerate's `Accelerator` on the CPU, of which a process has one at a time."""

    def build(mixed_precision: str = "no") -> Accelerator:
        AcceleratorState._reset_state(reset_partial_state=True)
        return Accelerator(cpu=True, mixed_precision=mixed_precision)

    yield build
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def tiny_config() -> WavTokenizerConfig:
    """Hop 80, 64 codes of width 16; `tests.tiny.tiny_config` takes changes."""
    return make_tiny_config()


@pytest.fixture
def tiny_model() -> WavTokenizerModel:
    """A tiny codec in eval mode with varying codes; `tests.tiny.tiny_model` takes changes."""
    return make_tiny_model()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """The tiny codec as `save_pretrained` writes it. Shared by all tests: copy it before changing it."""
    path = tmp_path_factory.mktemp("tiny_codec")
    make_tiny_model().save_pretrained(path)
    return path
