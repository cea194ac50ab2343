"""How long the codec of sparse events takes for a window, beside the original's arithmetic, in one run.

Three columns: the original's arithmetic written plainly (every frame of the encoder, weight norm at every call, one
convolution for each of tanh and gate, resonances by transforms of all frames, convolutions at twice the window), our
wavetable, which computes the same, and our oscillator. Weights are drawn; time does not depend on them. Figures are
process seconds on one thread, so that what else the machine does counts little; rounds alternate between the columns,
and the median counts.

    python -m benchmarks.event_speed --out benchmarks/results/event_speed.json
"""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.record import conditions, write_result
from wavtokenizer_hf import SparseEventCodecConfig, SparseEventCodecModel
from wavtokenizer_hf.rendering_sparse_event_codec import WavetableRenderer

_TABLE, _HOP = 2048, 1024


def plain_encoder(model: SparseEventCodecModel, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The original's encoder as its formulas stand: vectors and switches of all frames."""
    encoder = model.encoder
    hidden = encoder.input_projection(residual)
    total = torch.zeros_like(hidden)
    for block in encoder.blocks:
        padded = F.pad(hidden, (0, block.dilation))
        hidden = hidden + block.conv(padded).tanh() * block.gate(padded).sigmoid()
        total = total + hidden
    total = encoder.output_projection(total)
    return encoder.vector_head(total), encoder.switch_head(total)[:, 0]


def plain_convolution(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    length = one.shape[-1]
    spectrum = torch.fft.rfft(F.pad(one, (0, length))) * torch.fft.rfft(F.pad(other, (0, length)))
    return torch.fft.irfft(spectrum)[..., :length]


def plain_renderer(
    renderer: WavetableRenderer, vector: torch.Tensor, frame: torch.Tensor, gain: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """The original's renderer as its formulas stand, for one event: (1, N)."""
    num_samples, hop = renderer.num_samples, renderer.hop_length
    heads = renderer.parameters_of(vector)

    def to_window(signal: torch.Tensor) -> torch.Tensor:
        return F.pad(signal, (0, num_samples - signal.shape[-1]))

    def stretched(points: torch.Tensor, length: int) -> torch.Tensor:
        return F.interpolate(points, size=length, mode="linear")

    points = heads["envelopes"].softmax(-1) @ renderer.envelopes.square()
    burst = to_window(stretched(points[:, None], noise.shape[-1]) * noise[:, None])
    filters = renderer.filters * torch.hamming_window(renderer.filters.shape[-1])
    filtered = plain_convolution(
        burst.expand(-1, renderer.num_variants, -1), to_window(heads["noise_resonance"].softmax(-1) @ filters)
    )
    curve = heads["noise_deformations"].softmax(-1) @ renderer.noise_deformations
    curve = curve.unflatten(-1, (renderer.num_variants, -1)).softmax(dim=1)
    attack = (stretched(curve, num_samples) * filtered).sum(dim=1, keepdim=True)

    magnitudes = 0.9999 * (heads["resonances"].softmax(-1) @ renderer.resonances).sigmoid()  # (1, J, bins)
    steps = torch.arange(1, num_samples // _HOP + 1)[:, None] * torch.arange(_TABLE // 2 + 1) * math.pi / _HOP
    frames = torch.fft.irfft(magnitudes[:, :, None] * torch.polar(torch.ones_like(steps), steps))
    frames = frames * torch.hann_window(_TABLE)
    resonance = F.fold(
        frames.flatten(0, 1).transpose(1, 2), (1, num_samples + _HOP), kernel_size=(1, _TABLE), stride=(1, _HOP)
    )
    resonance = resonance.reshape(1, renderer.num_variants, -1)[..., :num_samples]
    resonance = resonance / (resonance.abs().amax(dim=-1, keepdim=True) + 1e-8)
    resonance = plain_convolution(resonance, to_window(heads["res_filter"].softmax(-1) @ filters))
    decay = heads["decays"].softmax(-1) @ (0.5 + 0.5 * renderer.decays.sigmoid())
    decay = stretched((decay + 1e-12).log().cumsum(-1).exp()[:, None], num_samples)
    excited = plain_convolution(attack.expand_as(resonance), resonance * decay)
    curve = heads["deformations"].softmax(-1) @ renderer.deformations
    curve = curve.unflatten(-1, (renderer.num_variants, -1)).softmax(dim=1)
    wet = (stretched(curve, num_samples) * excited).sum(dim=1)
    mix = heads["mixes"].softmax(-1)
    sound = mix[:, :1] * attack[:, 0] + mix[:, 1:] * wet
    room = heads["room_choice"].softmax(-1) @ renderer.room_responses
    mix = heads["room_mix"].softmax(-1)
    sound = mix[:, :1] * plain_convolution(sound, room) + mix[:, 1:] * sound
    sound = heads["amplitudes"].abs() * sound
    when = torch.zeros_like(sound)
    when[0, int(frame) * hop] = gain[0]
    return renderer.shift(heads, plain_convolution(when, sound))


def plain_window(model: SparseEventCodecModel, waveform: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The original's loop over the events of a window; the residual that it leaves."""
    half = model.config.selection_frames
    residual = model.spectrum(waveform, model.config.num_frames)
    for _ in range(model.config.num_events):
        vectors, switches = plain_encoder(model, residual)
        gain, frame = switches[:, :half].relu().max(dim=-1)
        sound = plain_renderer(model.renderer, vectors[:, :, int(frame)], frame, gain, noise)
        residual = residual - model.spectrum(sound, model.config.num_frames)
    return residual


def seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def measure(rounds: int, num_events: int) -> dict:
    """Process seconds of each part, by column: medians of all rounds."""
    torch.manual_seed(0)
    models = {
        renderer: SparseEventCodecModel(SparseEventCodecConfig(renderer=renderer, num_events=num_events)).eval()
        for renderer in ("wavetable", "oscillator")
    }
    wavetable, oscillator = models["wavetable"], models["oscillator"]
    for model in models.values():
        torch.nn.init.constant_(model.encoder.switch_head.bias, 5.0)
    times = torch.arange(wavetable.config.num_samples) / wavetable.config.sampling_rate
    tone = sum(torch.sin(2 * math.pi * 150 * order * times) / order for order in range(1, 12))
    waveform = 0.2 * (tone * torch.sin(9 * times).square() + 0.05 * torch.randn(len(times)))[None]
    half = waveform[:, None, : wavetable.config.selection_samples]  # one window of our walk over a clip
    residual = wavetable.spectrum(waveform, wavetable.config.num_frames)
    noise = 0.02 * (2 * torch.rand(1, 8192) - 1)
    vector, frame, gain = torch.randn(1, 32), torch.tensor([7]), torch.ones(1)
    events = {name: model.encode(half) for name, model in models.items()}
    found = {name: int(some.event_mask.sum()) for name, some in events.items()}

    def rendering(name: str) -> Callable[[], object]:
        return lambda: models[name].render(events[name], length=waveform.shape[-1])

    calls: dict[str, dict[str, Callable[[], object]]] = {
        "encode_window": {
            "plain": lambda: plain_window(wavetable, waveform, noise),
            "wavetable": lambda: wavetable.encode(half),
            "oscillator": lambda: oscillator.encode(half),
        },
        "encoder_pass": {
            "plain": lambda: plain_encoder(wavetable, residual),
            "wavetable": lambda: wavetable.encoder(residual, 256, matrices["wavetable"]),
            "oscillator": lambda: oscillator.encoder(mel, 256, matrices["oscillator"]),
        },
        "render_window": {
            "plain": lambda: [
                plain_renderer(wavetable.renderer, vector, frame, gain, noise) for _ in range(num_events)
            ],
            "wavetable": rendering("wavetable"),
            "oscillator": rendering("oscillator"),
        },
    }
    matrices = {name: model.encoder.matrices() for name, model in models.items()}
    mel = oscillator.mel_features(oscillator.spectrum(waveform, oscillator.config.num_frames)[0].transpose(0, 1))[None]
    taken: dict = {part: {column: [] for column in columns} for part, columns in calls.items()}
    for number in range(rounds + 1):
        for part, columns in calls.items():
            for column, call in columns.items():
                elapsed = seconds(call)
                if number:  # the first round warms up
                    taken[part][column].append(elapsed)
    medians = {
        part: {column: statistics.median(all_rounds) for column, all_rounds in columns.items()}
        for part, columns in taken.items()
    }
    return {
        "events": {"plain": num_events, **found},
        "seconds": {part: {k: round(v, 5) for k, v in columns.items()} for part, columns in medians.items()},
        "times_the_plain": {
            part: {k: round(columns["plain"] / v, 2) for k, v in columns.items()} for part, columns in medians.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count")
    parser.add_argument("--events", type=int, default=32, help="events per window")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    with torch.inference_mode():
        result = measure(arguments.rounds, arguments.events)
    write_result(arguments.out, conditions(load) | result)
    for part, columns in result["seconds"].items():
        print(part, columns, result["times_the_plain"][part])


if __name__ == "__main__":
    main()
