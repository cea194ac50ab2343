"""WavTokenizer, the one-codebook audio codec, as a transformers model.

Importing the package registers its classes for `AutoConfig`, `AutoModel`, `AutoModelForAudioTokenization` and
`AutoFeatureExtractor`. Where transformers knows `wavtokenizer` itself, configuration and models become ours, and its
feature extractor, which reads the same file, stays.
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioTokenization

from .configuration_wavtokenizer import WavTokenizerConfig, fingerprint
from .feature_extraction_wavtokenizer import WavTokenizerFeatureExtractor
from .modeling_wavtokenizer import (
    WavTokenizerDecoderModel,
    WavTokenizerDecoderOutput,
    WavTokenizerEncoderModel,
    WavTokenizerEncoderOutput,
    WavTokenizerModel,
    WavTokenizerOutput,
)

AutoConfig.register("wavtokenizer", WavTokenizerConfig, exist_ok=True)
AutoModel.register(WavTokenizerConfig, WavTokenizerModel, exist_ok=True)
AutoModelForAudioTokenization.register(WavTokenizerConfig, WavTokenizerModel, exist_ok=True)
AutoFeatureExtractor.register(WavTokenizerConfig, WavTokenizerFeatureExtractor, exist_ok=True)

__version__ = "0.1.0"

__all__ = [
    "WavTokenizerConfig",
    "WavTokenizerDecoderModel",
    "WavTokenizerDecoderOutput",
    "WavTokenizerEncoderModel",
    "WavTokenizerEncoderOutput",
    "WavTokenizerFeatureExtractor",
    "WavTokenizerModel",
    "WavTokenizerOutput",
    "fingerprint",
]
