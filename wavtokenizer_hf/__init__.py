"""WavTokenizer, the one-codebook audio codec, and a codec of sparse events, as transformers models.

Importing the package calls `register`, so that transformers' Auto classes know its models. Only the package's own
command line does that later, when a command loads a model: what is imported for it takes seconds.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoints import bundled_checkpoint

if TYPE_CHECKING:
    from .configuration_sparse_event_codec import SparseEventCodecConfig
    from .configuration_wavtokenizer import WavTokenizerCausalConfig, WavTokenizerConfig, fingerprint
    from .feature_extraction_sparse_event_codec import SparseEventCodecFeatureExtractor
    from .feature_extraction_wavtokenizer import WavTokenizerFeatureExtractor
    from .modeling_sparse_event_codec import (
        SparseEventCodecDecoderOutput,
        SparseEventCodecEncoderOutput,
        SparseEventCodecModel,
        SparseEventCodecOutput,
    )
    from .modeling_wavtokenizer import (
        WavTokenizerCausalModel,
        WavTokenizerDecoderModel,
        WavTokenizerDecoderOutput,
        WavTokenizerEncoderModel,
        WavTokenizerEncoderOutput,
        WavTokenizerModel,
        WavTokenizerOutput,
    )
    from .processing_wavtokenizer import AudioVocabulary, WavTokenizerProcessor

__version__ = "0.1.0"

__all__ = [
    "AudioVocabulary",
    "SparseEventCodecConfig",
    "SparseEventCodecDecoderOutput",
    "SparseEventCodecEncoderOutput",
    "SparseEventCodecFeatureExtractor",
    "SparseEventCodecModel",
    "SparseEventCodecOutput",
    "WavTokenizerCausalConfig",
    "WavTokenizerCausalModel",
    "WavTokenizerConfig",
    "WavTokenizerDecoderModel",
    "WavTokenizerDecoderOutput",
    "WavTokenizerEncoderModel",
    "WavTokenizerEncoderOutput",
    "WavTokenizerFeatureExtractor",
    "WavTokenizerModel",
    "WavTokenizerOutput",
    "WavTokenizerProcessor",
    "bundled_checkpoint",
    "fingerprint",
    "register",
]

# Where the names are that come when they are asked for; none of these files imports a later one.
_FILES = (
    *("configuration_wavtokenizer", "feature_extraction_wavtokenizer", "modeling_wavtokenizer"),
    *("configuration_sparse_event_codec", "feature_extraction_sparse_event_codec", "modeling_sparse_event_codec"),
    "processing_wavtokenizer",
)

if not TYPE_CHECKING:  # to whom any name would exist

    def __getattr__(name: str) -> Any:
        if name in __all__:
            modules = (importlib.import_module(f".{file}", __name__) for file in _FILES)
            globals()[name] = next(getattr(module, name) for module in modules if hasattr(module, name))
            return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def register() -> None:
    """Makes transformers' Auto classes give the package's classes; calling it again changes nothing.

    They are `AutoConfig`, `AutoModel`, `AutoModelForAudioTokenization`, `AutoFeatureExtractor` and `AutoProcessor`,
    for the model types `wavtokenizer`, `wavtokenizer_causal` and `sparse_event_codec`. transformers knows
    `wavtokenizer` itself since 5.24: for it, the Auto classes then give ours, which read and write the same files, in
    the whole process. The library's own classes are still there under their names.
    """
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioTokenization, AutoProcessor
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES

    from .configuration_sparse_event_codec import SparseEventCodecConfig
    from .configuration_wavtokenizer import WavTokenizerCausalConfig, WavTokenizerConfig
    from .feature_extraction_sparse_event_codec import SparseEventCodecFeatureExtractor
    from .feature_extraction_wavtokenizer import WavTokenizerFeatureExtractor
    from .modeling_sparse_event_codec import SparseEventCodecModel
    from .modeling_wavtokenizer import WavTokenizerCausalModel, WavTokenizerModel
    from .processing_wavtokenizer import WavTokenizerProcessor

    for config, model in (
        (WavTokenizerConfig, WavTokenizerModel),
        (WavTokenizerCausalConfig, WavTokenizerCausalModel),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
        AutoModelForAudioTokenization.register(config, model, exist_ok=True)
        AutoFeatureExtractor.register(config, WavTokenizerFeatureExtractor, exist_ok=True)
        AutoProcessor.register(config, WavTokenizerProcessor, exist_ok=True)

    AutoConfig.register(SparseEventCodecConfig.model_type, SparseEventCodecConfig, exist_ok=True)
    AutoModel.register(SparseEventCodecConfig, SparseEventCodecModel, exist_ok=True)
    AutoFeatureExtractor.register(SparseEventCodecConfig, SparseEventCodecFeatureExtractor, exist_ok=True)

    # A feature extractor is looked up by its class's name, in the library's own table before what is registered.
    FEATURE_EXTRACTOR_MAPPING_NAMES.pop(WavTokenizerConfig.model_type, None)


def _is_own_command_line() -> bool:
    """Whether this process is `wavtokenizer …` or `python -m wavtokenizer_hf …`, and not somebody else's program."""
    if sys.argv[:1] == ["-m"]:  # while Python looks for the module
        return ("-m", __name__) in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    return bool(sys.argv) and Path(sys.argv[0]).name in ("wavtokenizer", "wavtokenizer.exe")


if not _is_own_command_line():
    register()
