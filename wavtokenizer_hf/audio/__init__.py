"""Audio files and code files."""

from wavtokenizer_hf.audio.codes import CodeFile
from wavtokenizer_hf.audio.files import find_files, read_audio, write_audio

__all__ = ["CodeFile", "find_files", "read_audio", "write_audio"]
