"""Encoding and decoding without end: streams that equal the whole clip, and decoding in chunks."""

from wavtokenizer_hf.streaming.decoder import ChunkedDecoder
from wavtokenizer_hf.streaming.encoder import StreamingEncoder
from wavtokenizer_hf.streaming.event_decoder import StreamingEventDecoder
from wavtokenizer_hf.streaming.event_encoder import StreamingEventEncoder
from wavtokenizer_hf.streaming.long_decoding import decode_long
from wavtokenizer_hf.streaming.long_encoding import encode_long

__all__ = [
    "ChunkedDecoder",
    "StreamingEncoder",
    "StreamingEventDecoder",
    "StreamingEventEncoder",
    "decode_long",
    "encode_long",
]
