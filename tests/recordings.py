"""Recordings in every format that is read, whole and damaged."""

import io
import struct
from collections.abc import Callable

import numpy as np
import soundfile

RATE = 24000
# By name: suffix, rate, and how soundfile writes it; or FFmpeg's container and codec.
SOUNDFILE_FORMATS = {
    "pcm16": (".wav", RATE, {"format": "WAV", "subtype": "PCM_16"}),
    "float": (".wav", 44100, {"format": "WAV", "subtype": "FLOAT"}),
    "adpcm": (".wav", 16000, {"format": "WAV", "subtype": "IMA_ADPCM"}),
    "gsm": (".wav", 8000, {"format": "WAV", "subtype": "GSM610"}),
    "g721": (".wav", 8000, {"format": "WAV", "subtype": "G721_32"}),
    "aiff": (".aiff", RATE, {"format": "AIFF", "subtype": "PCM_24"}),
    "au": (".au", RATE, {"format": "AU", "subtype": "ULAW"}),
    "w64": (".w64", RATE, {"format": "W64", "subtype": "PCM_16"}),
    "flac": (".flac", 22050, {"format": "FLAC", "subtype": "PCM_16"}),
    "vorbis": (".ogg", 44100, {"format": "OGG", "subtype": "VORBIS"}),
    "opus": (".opus", 48000, {"format": "OGG", "subtype": "OPUS"}),
    "mp3": (".mp3", 44100, {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.5}),
    "slow_mp3": (".mp3", RATE, {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.99}),
}
FFMPEG_FORMATS = {"m4a": (".m4a", 44100, "mp4", "aac"), "webm": (".webm", 48000, "webm", "libopus")}


def sound(seconds: float, rate: int = RATE, num_channels: int = 1, seed: int = 0) -> np.ndarray:
    """A rising tone with bursts of noise, (N, C)."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    bursts = 0.05 * rng.standard_normal(len(time)) * (np.sin(2 * np.pi * 3 * time + seed) > 0)
    tone = 0.3 * np.sin(2 * np.pi * (200 + 100 * time + 37 * seed) * time) + bursts
    return np.stack([tone / (1 + channel) for channel in range(num_channels)], axis=1).astype(np.float32)


def encoded(name: str, seconds: float = 1.5, num_channels: int = 1, seed: int = 0) -> bytes:
    """A recording as the bytes of its file."""
    if name == "bare_mp3":  # as streams have it: no frame that says how long it is
        return without_info(encoded("mp3", seconds, num_channels, seed))
    if name in FFMPEG_FORMATS:
        return _by_ffmpeg(name, seconds, num_channels, seed)
    _, rate, how = SOUNDFILE_FORMATS[name]
    content = io.BytesIO()
    samples = sound(seconds, rate, num_channels, seed)
    with soundfile.SoundFile(content, "w", rate, num_channels, **how) as file:
        for start in range(0, len(samples), 1 << 15):  # libsndfile's Vorbis encoder overflows on more
            file.write(samples[start : start + (1 << 15)])
    return content.getvalue()


def suffix_of(name: str) -> str:
    return ".mp3" if name == "bare_mp3" else (SOUNDFILE_FORMATS | FFMPEG_FORMATS)[name][0]


def without_info(mp3: bytes) -> bytes:
    place = max(mp3.find(b"Xing"), mp3.find(b"Info"))
    return mp3[mp3.index(b"\xff\xfb", place) :]


def _by_ffmpeg(name: str, seconds: float, num_channels: int, seed: int) -> bytes:
    import av

    _, rate, container, codec = FFMPEG_FORMATS[name]
    content = io.BytesIO()
    with av.open(content, "w", format=container) as file:
        layout = "mono" if num_channels == 1 else "stereo"
        stream = file.add_stream(codec, rate=rate, layout=layout)
        samples = np.ascontiguousarray(sound(seconds, rate, num_channels, seed).T)
        if codec == "aac":
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        else:
            frame = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1).copy(), format="flt", layout=layout)
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    return content.getvalue()


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def holed(content: bytes) -> bytes:
    half = len(content) // 2
    return content[:half] + content[half + 704 :]


def flipped(content: bytes) -> bytes:
    damaged = bytearray(content)
    for place in range(len(content) // 3, len(content) * 2 // 3, max(1, len(content) // 30)):
        damaged[place] ^= 0x55
    return bytes(damaged)


def twice(content: bytes) -> bytes:
    return content + content


def lying(content: bytes) -> bytes:
    """The same, under a header that promises twice as much."""
    damaged = bytearray(content)
    if content[:4] == b"RIFF":
        place = content.index(b"data") + 4
        damaged[place : place + 4] = struct.pack("<I", 2 * struct.unpack_from("<I", content, place)[0])
    elif content[:4] == b"fLaC":
        packed = int.from_bytes(content[18:26], "big")
        damaged[18:26] = (packed + (packed & (1 << 36) - 1)).to_bytes(8, "big")
    elif b"Xing" in content[:200] or b"Info" in content[:200]:
        place = max(content.find(b"Xing"), content.find(b"Info")) + 8
        damaged[place : place + 4] = (2 * int.from_bytes(content[place : place + 4], "big")).to_bytes(4, "big")
    elif content[:4] == b".snd":
        damaged[8:12] = (2 * int.from_bytes(content[8:12], "big")).to_bytes(4, "big")
    elif content[:4] == b"FORM":
        place = content.index(b"SSND") + 4
        damaged[place : place + 4] = (2 * int.from_bytes(content[place : place + 4], "big")).to_bytes(4, "big")
    return bytes(damaged)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "whole": bytes,
    "cut": cut,
    "holed": holed,
    "flipped": flipped,
    "lying": lying,
    "twice": twice,
}
