"""WavTokenizer, the one-codebook audio codec, and a codec of sparse events, as transformers models.

Importing the package registers its classes for `AutoConfig`, `AutoModel`, `AutoModelForAudioTokenization`,
`AutoFeatureExtractor` and `AutoProcessor`. Where transformers knows `wavtokenizer` itself, as it does since 5.24, the
Auto classes then give ours, which read and write the same files; the library's own are still there under their names.
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioTokenization, AutoProcessor
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES

from .checkpoints import bundled_checkpoint
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

for _config, _model in (
    (WavTokenizerConfig, WavTokenizerModel),
    (WavTokenizerCausalConfig, WavTokenizerCausalModel),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
    AutoModelForAudioTokenization.register(_config, _model, exist_ok=True)
    AutoFeatureExtractor.register(_config, WavTokenizerFeatureExtractor, exist_ok=True)
    AutoProcessor.register(_config, WavTokenizerProcessor, exist_ok=True)

AutoConfig.register(SparseEventCodecConfig.model_type, SparseEventCodecConfig, exist_ok=True)
AutoModel.register(SparseEventCodecConfig, SparseEventCodecModel, exist_ok=True)
AutoFeatureExtractor.register(SparseEventCodecConfig, SparseEventCodecFeatureExtractor, exist_ok=True)

# A feature extractor is looked up by its class's name, and the library's own table comes before what is registered.
FEATURE_EXTRACTOR_MAPPING_NAMES.pop(WavTokenizerConfig.model_type, None)

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
]
