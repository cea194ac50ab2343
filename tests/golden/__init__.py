"""Data that tests compare with or work on; README.md says where it is from."""

from pathlib import Path

# Eight short recordings at 24 kHz: speech in three languages by four voices, and two sounds.
AUDIO = Path(__file__).parent / "audio"
