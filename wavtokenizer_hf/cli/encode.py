"""`wavtokenizer encode`: recordings to files of codes."""

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavtokenizer_hf.audio.codes import CODE_SUFFIXES, CodeFile
from wavtokenizer_hf.audio.files import AUDIO_SUFFIXES
from wavtokenizer_hf.audio.shown import printable
from wavtokenizer_hf.checkpoints import DEFAULT
from wavtokenizer_hf.cli import options
from wavtokenizer_hf.cli.errors import reporting, say
from wavtokenizer_hf.cli.jobs import Job, plan_jobs, run_jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import torch

    from wavtokenizer_hf.cli.codec import Codec


class CodeFormat(str, enum.Enum):
    npz = "npz"
    json = "json"


def encode(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="IN",
            help="Recordings (WAV, FLAC, OGG, MP3; any rate, any number of channels), folders of them, or patterns; "
            "- for stdin.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            *options.OUTPUT_NAMES,
            metavar="OUT",
            help="The file to write, for one recording; a folder for several, or where the name has no suffix; "
            "- for stdout.",
            show_default=False,
        ),
    ],
    model: options.Model = DEFAULT,
    code_format: Annotated[
        CodeFormat | None,
        typer.Option("--format", help="Format of the files of codes.", show_default="as OUT is named, else npz"),
    ] = None,
    device: options.Device = "auto",
    dtype: options.Precision = options.DType.float32,
    revision: options.Revision = "main",
    allow_incomplete: options.AllowIncomplete = False,
    overwrite: options.Overwrite = False,
    skip_existing: options.SkipExisting = False,
    debug: options.Debug = False,
) -> None:
    """Encode recordings into files of codes.

    Channels are averaged and any rate is brought to the codec's. A file of codes also holds the rate, the number of
    samples and a fingerprint of the model.

    Example: wavtokenizer encode speech.flac -o speech.npz
    """
    with reporting(debug):
        jobs = plan_jobs(
            inputs,
            output,
            input_suffixes=AUDIO_SUFFIXES,
            output_suffixes=CODE_SUFFIXES,
            output_format=code_format.value if code_format else None,
            overwrite=overwrite,
            skip_existing=skip_existing,
        )

        from wavtokenizer_hf.audio_input import versions
        from wavtokenizer_hf.cli.codec import load_codec

        codec = load_codec(model, "encoder", revision=revision, device=device, dtype=dtype.value)

        def work(job: Job) -> None:
            audio_codes, num_samples, reader = _encode(codec, job.source, allow_incomplete)
            codes = CodeFile(
                audio_codes=audio_codes[0].numpy(),
                sampling_rate=codec.config.sampling_rate,
                num_samples=num_samples,
                hop_length=codec.config.hop_length,
                codebook_size=codec.config.codebook_size,
                fingerprint=codec.fingerprint or "",
                model=codec.name,
                source=printable(job.source.name),
                reader=reader,
                resampler=versions()["resampler"],
            )
            codes.save(job.target)
            if len(jobs) == 1:
                say(f"{job.target}: {codes.num_codes} codes for {codes.duration_s:.2f} s", err=job.is_piped)

        run_jobs(jobs, work, verb="Encoding", debug=debug)


def _encode(codec: "Codec", path: Path, allow_incomplete: bool) -> tuple["torch.Tensor", int, str]:
    """Codes (1, 1, L) of a recording of any length, its number of samples at the codec's rate, and what decoded it."""
    import torch

    from wavtokenizer_hf.audio_input import open_audio
    from wavtokenizer_hf.feature_extraction_wavtokenizer import prepare_blocks
    from wavtokenizer_hf.streaming import encode_long

    with open_audio(path, allow_incomplete=allow_incomplete) as recording:
        rate, blocks = recording.sampling_rate, recording.blocks(10 * recording.sampling_rate)
        extractor = codec.feature_extractor
        if extractor.peak_db is not None:  # the whole recording has to be seen before its first sample
            clip = extractor(recording.read(), sampling_rate=rate, resample=True, return_tensors="pt")["input_values"]
            with torch.inference_mode():
                audio_codes = codec.model.encode(clip.to(codec.model.device)).audio_codes.cpu()
            return audio_codes, clip.shape[-1], recording.decoder
        lengths: list[int] = []

        def counted() -> "Iterator[np.ndarray]":
            for block in prepare_blocks(blocks, rate, codec.config.sampling_rate, recording.name):
                lengths.append(len(block))
                yield block

        audio_codes = encode_long(codec.model, counted(), progress=False)
        return audio_codes, sum(lengths), recording.decoder
