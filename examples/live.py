"""A call through the codec: pieces of 20 ms go in as a microphone would give them, and sound comes out while they do.

A recording stands for the microphone. What is said about latency is what a listener would notice: the time at which a
sample came out, less the time at which it was spoken.
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers.utils import logging

from wavtokenizer_hf import WavTokenizerFeatureExtractor, WavTokenizerModel
from wavtokenizer_hf.audio.files import write_audio
from wavtokenizer_hf.checkpoints import DEFAULT, find_model
from wavtokenizer_hf.streaming import ChunkedDecoder, StreamingEncoder


class Clock:
    """Seconds since the call began; `has_patience=False` jumps over the time that it would wait."""

    def __init__(self, has_patience: bool):
        self._has_patience = has_patience
        self._start_s = time.perf_counter()

    def now_s(self) -> float:
        return time.perf_counter() - self._start_s

    def wait_until(self, moment_s: float) -> None:
        missing_s = moment_s - self.now_s()
        if missing_s <= 0:
            return
        if self._has_patience:
            time.sleep(missing_s)
        else:
            self._start_s -= missing_s


def microphone(samples: torch.Tensor, piece: int, sampling_rate: int, clock: Clock) -> Iterator[torch.Tensor]:
    """Pieces (1, 1, n) of a recording (1, 1, T), each when its last sample has been spoken."""
    spoken = 0
    for part in samples.split(piece, dim=-1):
        spoken += part.shape[-1]
        clock.wait_until(spoken / sampling_rate)
        yield part


@dataclass
class Side:
    """What was measured of one half: when each of its outputs was due and came, and how long it computed.

    Args:
        name: For people.
        algorithmic_s: What it has to wait for, however fast it computes.
    """

    name: str
    algorithmic_s: float
    lags_s: list[float] = field(default_factory=list)
    computing_s: float = 0.0

    def line(self, duration_s: float) -> str:
        return (
            f"{self.name:<22}{1000 * self.algorithmic_s:>9.1f} ms{1000 * statistics.median(self.lags_s):>9.1f} ms"
            f"{1000 * max(self.lags_s):>9.1f} ms{self.computing_s / duration_s:>11.3f}"
        )


@dataclass(frozen=True)
class Call:
    """What came out, (T,), and the two halves and the whole of it."""

    samples: torch.Tensor
    sides: tuple[Side, Side, Side]


@torch.inference_mode()
def call(
    model: WavTokenizerModel, decoder: ChunkedDecoder, samples: torch.Tensor, piece_ms: float, has_patience: bool
) -> Call:
    """Sends a recording (1, 1, T) through both streams and takes the times."""
    config = model.config
    frame_s = 1 / config.frame_rate
    encoder = StreamingEncoder(model)
    encoding = Side("samples to codes", encoder.latency_s)
    decoding = Side("codes to samples", decoder.latency_s)
    both = Side("voice to ear", frame_s + encoder.latency_s + decoder.latency_s)
    code_times_s: list[float] = []
    heard: list[torch.Tensor] = []
    num_heard = 0

    clock = Clock(has_patience)
    piece = round(piece_ms * config.sampling_rate / 1000)
    pieces = microphone(samples, piece, config.sampling_rate, clock)
    while True:
        part = next(pieces, None)
        started_s = clock.now_s()
        codes = encoder.flush() if part is None else encoder.push(part)
        encoded_s = clock.now_s()
        audio = [decoder.push(codes)] + ([decoder.flush()] if part is None else [])
        decoded_s = clock.now_s()

        for _ in range(codes.shape[-1]):
            code_times_s.append(encoded_s)
            # An end may come before the last frame is full.
            spoken_s = min(len(code_times_s) * frame_s, samples.shape[-1] / config.sampling_rate)
            encoding.lags_s.append(encoded_s - spoken_s)
        for block in audio:
            if block.shape[-1]:
                decoding.lags_s.append(decoded_s - code_times_s[num_heard // config.hop_length])
                both.lags_s.append(decoded_s - num_heard / config.sampling_rate)
                num_heard += block.shape[-1]
                heard.append(block)
        encoding.computing_s += encoded_s - started_s
        decoding.computing_s += decoded_s - encoded_s
        if part is None:
            break
    both.computing_s = encoding.computing_s + decoding.computing_s
    return Call(torch.cat(heard, dim=-1)[0, 0, : samples.shape[-1]], (encoding, decoding, both))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path, help="a recording: WAV, FLAC, OGG or MP3, of any rate")
    parser.add_argument("--output", type=Path, default=Path("live.wav"), help="what the listener hears")
    parser.add_argument("--model", default=DEFAULT, help="a folder, a name on the Hub, or the package's checkpoint")
    parser.add_argument("--piece-ms", type=float, default=20.0, help="length of a piece in milliseconds")
    parser.add_argument("--chunk-frames", type=int, help="as in ChunkedDecoder; likewise the next two")
    parser.add_argument("--context-frames", type=int)
    parser.add_argument("--lookahead-frames", type=int)
    parser.add_argument("--no-wait", action="store_true", help="do not wait for the microphone, as if time jumped")
    parser.add_argument("--threads", type=int, help="CPU threads")
    told = parser.parse_args(arguments)
    if told.threads:
        torch.set_num_threads(told.threads)
    logging.disable_progress_bar()
    folder = find_model(told.model)
    model = WavTokenizerModel.from_pretrained(folder).eval()
    extractor = WavTokenizerFeatureExtractor.from_pretrained(folder)
    samples = extractor(str(told.audio), resample=True, return_tensors="pt")["input_values"]
    decoder = ChunkedDecoder(model, told.chunk_frames, told.context_frames, told.lookahead_frames)

    made = call(model, decoder, samples, told.piece_ms, has_patience=not told.no_wait)
    duration_s = samples.shape[-1] / model.config.sampling_rate
    write_audio(told.output, made.samples.numpy(), model.config.sampling_rate)
    print(f"{duration_s:.2f} s in pieces of {told.piece_ms:g} ms; {told.output} holds what was heard.\n")
    print(f"{'':<22}{'algorithmic':>12}{'median':>12}{'longest':>12}{'computing':>11}")
    for side in made.sides:
        print(side.line(duration_s))
    print("\nalgorithmic: what it must wait for, on a computer without end; median and longest: as measured;")
    print("computing: seconds per second of audio, below 1 keeps up.")


if __name__ == "__main__":
    main()
