"""What does the search for the nearest code cost, and what does the search along principal axes save?

Latents of a second of audio and more are looked up in codebooks of several sizes: by comparison with all entries, as
`WavTokenizerCodebook` does it for small codebooks, and along principal axes, as it does for large ones. Beside them
stands the product of matrices that a comparison with all entries cannot do without, for as many latents at once as are
fastest. All are measured by the processor's clock, in rounds whose order rotates.

What a bound is worth depends on how the entries lie. Latents come from a trained checkpoint, turned into as many
dimensions as the released ones have, with noise of one hundredth of their variance in all of these. Codebooks are
latents of other recordings ("latents", as k-means would have them, as far as there are enough), draws from a normal
distribution with the latents' mean and covariance ("normal", which is what SimVQ's table times its linear map is), and
entries that lie alike in all directions ("white", where no bound helps).
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.long_audio import forget_peak, resident
from benchmarks.record import RESULTS, conditions, write_result
from benchmarks.recordings import DEFAULT_AUDIO, read_recordings
from benchmarks.rounds import significant, summary
from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerModel, bundled_checkpoint, nearest_wavtokenizer
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerCodebook
from wavtokenizer_hf.nearest_wavtokenizer import CodebookIndex

SIZES = (4096, 8192, 16384, 65536, 262144)
KINDS = ("latents", "normal", "white")
NOISE = 0.01
PER_SECOND = 75
BASELINE, PRODUCT, AXES = "all entries", "product alone", "principal axes"


@torch.inference_mode()
def latents_of(audio: torch.Tensor) -> torch.Tensor:
    """Latents (N, D) of audio (T,) under the bundled checkpoint."""
    model = WavTokenizerModel.from_pretrained(bundled_checkpoint()).eval()
    pieces = [piece for piece in audio.split(30 * model.config.sampling_rate) if len(piece) > model.config.hop_length]
    found = [model.encode(piece[None, None], output_latents=True).encoder_latents[0].T for piece in pieces]
    return torch.cat(found).clone()


def widened(latents: torch.Tensor, width: int, seed: int) -> torch.Tensor:
    """Latents (N, D) in `width` dimensions: turned, always alike, and with noise in all of them."""
    turn = torch.linalg.qr(torch.randn(width, latents.shape[1], generator=torch.Generator().manual_seed(0)))[0]
    deviation = (NOISE * latents.var(dim=0).sum() / width).sqrt()
    generator = torch.Generator().manual_seed(seed)
    return latents @ turn.T + deviation * torch.randn(len(latents), width, generator=generator)


def entries_of(kind: str, latents: torch.Tensor, size: int, width: int) -> torch.Tensor | None:
    """A codebook (size, width), or `None` where there are too few latents for it."""
    generator = torch.Generator().manual_seed(1)
    if kind == "white":
        return torch.randn(size, width, generator=generator) * (latents.var(dim=0).sum() / width).sqrt()
    if kind == "latents":
        if len(latents) < size:
            return None
        return widened(latents[torch.randperm(len(latents), generator=generator)[:size]], width, seed=2)
    covariance = torch.cov(latents.T.double())
    root = torch.linalg.cholesky(covariance + 1e-9 * covariance.trace() * torch.eye(len(covariance)))
    drawn = torch.randn(size, len(covariance), generator=generator).double() @ root.T + latents.mean(dim=0)
    return widened(drawn.float(), width, seed=2)


def ways(codebook: WavTokenizerCodebook) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Ways to the codes (N,) of vectors (N, D), by name."""

    def with_index_from(size: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def search(vectors: torch.Tensor) -> torch.Tensor:
            before = nearest_wavtokenizer.INDEXED_FROM
            nearest_wavtokenizer.INDEXED_FROM = size
            try:
                return codebook(vectors.T[None])[0]
            finally:
                nearest_wavtokenizer.INDEXED_FROM = before

        return search

    def product(vectors: torch.Tensor) -> torch.Tensor:
        found = [torch.mm(some, codebook.embed.T).argmax(dim=-1) for some in vectors.split(64)]
        return torch.cat(found)

    return {BASELINE: with_index_from(2**40), PRODUCT: product, AXES: with_index_from(0)}


def measure(codebook: WavTokenizerCodebook, vectors: torch.Tensor, num_rounds: int) -> dict[str, Any]:
    """Processor time for a second of audio, memory, and whether the codes are the same."""
    functions = ways(codebook)
    forget_peak()
    start = time.process_time()
    index = CodebookIndex(codebook.embed)
    build_s = time.process_time() - start
    functions[AXES](vectors[:1])  # which makes an index of its own
    times: dict[str, list[float]] = {name: [] for name in functions}
    memory_mb: dict[str, float] = {}
    codes: dict[str, torch.Tensor] = {}
    for number in range(num_rounds):
        names = list(functions)
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            before = forget_peak()
            start = time.process_time()
            codes[name] = functions[name](vectors)
            times[name].append((time.process_time() - start) * PER_SECOND / len(vectors))
            memory_mb[name] = max(memory_mb.get(name, 0.0), (resident("VmHWM") - before) / 1e6)
    held = sum(value.numel() * value.element_size() for value in vars(index).values() if torch.is_tensor(value))
    return {
        "num_axes": index.num_axes,
        "build_s": significant(build_s),
        "index_mb": significant(held / 1e6),
        "equal": bool(torch.equal(codes[AXES], codes[BASELINE])),
        "ways": {
            name: {
                "cpu_s_per_s": summary(seconds),
                "ratio_to_baseline": significant(
                    statistics.median(other / own for own, other in zip(seconds, times[BASELINE], strict=True))
                ),
                "memory_mb": significant(memory_mb[name]),
            }
            for name, seconds in times.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="recordings that are looked up")
    parser.add_argument("--codebook-audio", type=Path, help="others, whose latents make codebooks; else the same")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--width", type=int, default=WavTokenizerConfig().hidden_size)
    parser.add_argument("--seconds", type=float, default=3, help="of audio that is looked up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS / "nearest_code.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0]
    asked = latents_of(torch.from_numpy(read_recordings(arguments.audio)))
    others = arguments.codebook_audio
    known = asked if others is None else latents_of(torch.from_numpy(read_recordings(others)))
    num_vectors = round(arguments.seconds * PER_SECOND)
    chosen = torch.randperm(len(asked), generator=torch.Generator().manual_seed(3))[:num_vectors]
    vectors = widened(asked[chosen], arguments.width, seed=4)
    measurements = []
    for size in arguments.sizes:
        for kind in KINDS:
            entries = entries_of(kind, known, size, arguments.width)
            if entries is None:
                continue
            config = WavTokenizerConfig(codebook_size=size, hidden_size=arguments.width)
            codebook = WavTokenizerCodebook(config)
            codebook.embed.copy_(entries)
            del entries
            measurements.append(
                {
                    "codebook_size": size,
                    "codebook": kind,
                    "table_mb": significant(codebook.embed.numel() * 4 / 1e6),
                    **measure(codebook, vectors, arguments.rounds),
                }
            )
            print(size, kind, measurements[-1], flush=True)
    result = {
        "question": __doc__.partition("\n")[0],
        **conditions(load),
        "settings": {
            "audio": arguments.audio.name,
            "codebook_latents": len(known),
            "width": arguments.width,
            "num_vectors": num_vectors,
            "rounds": arguments.rounds,
        },
        "measurements": measurements,
    }
    write_result(arguments.out, result)
    print(f"wrote {arguments.out}; `python -m benchmarks.table` puts it into the documents")


if __name__ == "__main__":
    main()
