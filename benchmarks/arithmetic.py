"""How much arithmetic the codec is, and how fast the machine does such arithmetic at best."""

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain import PlainCodec
from benchmarks.precision import multiplies_bfloat16
from benchmarks.rounds import significant, timed
from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerModel

_FEW_FRAMES = 8

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Arithmetic:
    """Counts the operations of the plain path, a multiplication and an addition each, in products of matrices.

    The LSTM and the search for the nearest code are in it, and decoding has the attention over all frames.
    """

    def __init__(self, config: WavTokenizerConfig):
        self._config = config
        with torch.device("meta"):
            self._codec = PlainCodec(WavTokenizerModel(config))
        # So many for every frame, but for the ends of a clip, which are padded to whole frames.
        few = torch.zeros(1, 1, _FEW_FRAMES * config.hop_length, device="meta")
        self._encoding_frame = _count(partial(self._codec.encode, few)) / _FEW_FRAMES
        self._decoding: dict[int, float] = {}

    def encoding(self, seconds: float) -> float:
        """Operations to encode a clip."""
        return seconds * self._config.frame_rate * self._encoding_frame

    def decoding(self, seconds: float) -> float:
        """Operations to decode a clip, with a part that grows with the square of its length."""
        num_frames = round(seconds * self._config.frame_rate)
        if num_frames not in self._decoding:
            codes = torch.zeros(1, 1, num_frames, dtype=torch.int64, device="meta")
            self._decoding[num_frames] = _count(partial(self._codec.decode, codes))
        return self._decoding[num_frames]


@torch.inference_mode()
def _count(call: Callable[[], torch.Tensor]) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


class MatrixPeak:
    """Rates of large products, measured now and then between other measurements.

    Two forms of each type: a product of square matrices, and a pointwise convolution in the layout in which channels
    lie side by side, which runs in another library. There is no bfloat16 where the processor has none.
    """

    def __init__(self, size: int = 4096):
        self._calls: dict[str, Callable[[], torch.Tensor]] = {}
        for name, dtype in DTYPES.items():
            if dtype == torch.bfloat16 and not multiplies_bfloat16():
                continue
            square = torch.randn(size, size).to(dtype)
            image = square.view(1, size, 1, size).contiguous(memory_format=torch.channels_last)
            weight = (size**-0.5 * torch.randn(size, size, 1, 1)).to(dtype)
            self._calls[f"product, {name}"] = partial(torch.mm, square, square)
            self._calls[f"convolution, {name}"] = partial(torch.conv2d, image, weight)
        self._operations = 2 * size**3
        self._seconds: dict[str, list[float]] = {name: [] for name in self._calls}

    @torch.inference_mode()
    def measure(self) -> None:
        """Measures each once, after an untimed call that prepares it."""
        for name, call in self._calls.items():
            if not self._seconds[name]:
                call()
            self._seconds[name].append(timed(call))

    def gflop_per_s(self) -> dict[str, float]:
        """Medians of what was measured."""
        return {
            name: significant(self._operations / statistics.median(times) / 1e9)
            for name, times in self._seconds.items()
        }

    def best(self, dtype: str) -> float:
        """Operations per second of the faster form."""
        return 1e9 * max(rate for name, rate in self.gflop_per_s().items() if name.endswith(dtype))
