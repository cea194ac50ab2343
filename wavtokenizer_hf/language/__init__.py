"""Codes in a language model: its vocabulary, sequences of text and audio, generation.

The vocabulary and the processor live in a flat file, because folders on the Hub take it along.
"""

from wavtokenizer_hf.language.logits import AudioLogitsProcessor
from wavtokenizer_hf.language.streamer import AudioStreamer
from wavtokenizer_hf.processing_wavtokenizer import (
    AudioVocabulary,
    DecodedSequence,
    Segment,
    WavTokenizerProcessor,
)

__all__ = [
    "AudioLogitsProcessor",
    "AudioStreamer",
    "AudioVocabulary",
    "DecodedSequence",
    "Segment",
    "WavTokenizerProcessor",
]
