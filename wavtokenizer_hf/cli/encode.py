"""`wavtokenizer encode`: recordings to files of codes."""

import enum
from typing import Annotated

import typer

from wavtokenizer_hf.audio.codes import CODE_SUFFIXES, CodeFile
from wavtokenizer_hf.audio.files import AUDIO_SUFFIXES
from wavtokenizer_hf.audio.shown import printable
from wavtokenizer_hf.checkpoints import DEFAULT
from wavtokenizer_hf.cli import options
from wavtokenizer_hf.cli.errors import reporting, say
from wavtokenizer_hf.cli.jobs import Job, plan_jobs, run_jobs


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

        from wavtokenizer_hf.audio_input import open_audio, versions
        from wavtokenizer_hf.cli.codec import open_codec

        codec = open_codec(model, "encoder", revision=revision, device=device, dtype=dtype.value)
        from wavtokenizer_hf.streaming import encode_long

        def work(job: Job) -> None:
            with open_audio(job.source, allow_incomplete=allow_incomplete) as recording:
                encoded = encode_long(codec, recording, progress=False)
            codes = CodeFile.made_by(
                codec.spec,
                encoded.audio_codes[0].numpy(),
                encoded.num_samples,
                source=printable(job.source.name),
                reader=recording.decoder,
                resampler=versions()["resampler"],
            )
            codes.save(job.target)
            if len(jobs) == 1:
                say(f"{job.target}: {codes.num_codes} codes for {codes.duration_s:.2f} s", err=job.is_piped)

        run_jobs(jobs, work, verb="Encoding", debug=debug)
