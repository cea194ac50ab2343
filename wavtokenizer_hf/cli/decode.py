"""`wavtokenizer decode`: files of codes to audio."""

from pathlib import Path
from typing import Annotated

import typer

from wavtokenizer_hf.audio.codes import CODE_SUFFIXES, CodeFile
from wavtokenizer_hf.audio.files import WRITABLE_SUFFIXES, write_audio_blocks
from wavtokenizer_hf.checkpoints import DEFAULT
from wavtokenizer_hf.cli import options
from wavtokenizer_hf.cli.errors import reporting, say
from wavtokenizer_hf.cli.jobs import Job, plan_jobs, run_jobs, warn_about


def decode(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="IN",
            help="Files of codes (.npz, .json), folders of them, or patterns; - for stdin.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            *options.OUTPUT_NAMES,
            metavar="OUT",
            help="The file to write, for one file of codes; a folder for several, or where the name has no suffix; "
            "- for stdout.",
            show_default=False,
        ),
    ],
    model: options.Model = DEFAULT,
    audio_format: options.AudioFormatChoice = None,
    bandwidth_id: options.BandwidthId = None,
    chunked: Annotated[
        bool,
        typer.Option("--chunked", help="Decode long clips in pieces: bounded memory, nearly the same sound."),
    ] = False,
    device: options.Device = "auto",
    dtype: options.Precision = options.DType.float32,
    revision: options.Revision = "main",
    overwrite: options.Overwrite = False,
    skip_existing: options.SkipExisting = False,
    debug: options.Debug = False,
) -> None:
    """Decode files of codes into audio.

    The audio is mono, at the codec's rate, and exactly as long as the recording was. Codes that another model made
    are decoded with a warning.

    Example: wavtokenizer decode speech.npz -o speech.wav
    """
    with reporting(debug):
        jobs = plan_jobs(
            inputs,
            output,
            input_suffixes=CODE_SUFFIXES,
            output_suffixes=WRITABLE_SUFFIXES,
            output_format=audio_format.value if audio_format else None,
            overwrite=overwrite,
            skip_existing=skip_existing,
        )

        from wavtokenizer_hf.cli.codec import decode_options, open_codec

        codec = open_codec(model, "decoder", revision=revision, device=device, dtype=dtype.value)
        import torch

        from wavtokenizer_hf.streaming import decode_long

        told = decode_options(codec, bandwidth_id)
        clipped: list[Path] = []
        foreign: list[Path] = []
        unmarked: list[Path] = []

        def work(job: Job) -> None:
            codes = CodeFile.load(job.source)
            codec.spec.check_fits(codes.spec, str(job.source))
            if chunked:
                pieces = decode_long(codec, job.source, progress=False, **told)
            else:
                audio_codes = torch.from_numpy(codes.audio_codes)[None].to(codec.device)  # (Q, L) -> (1, Q, L)
                with torch.inference_mode():
                    pieces = iter([codec.decode(audio_codes, num_samples=codes.num_samples, **told)])
            arrays = (piece[0].cpu().numpy() for piece in pieces)  # (1, 1, T) -> (1, T)
            if write_audio_blocks(job.target, arrays, codec.spec.sampling_rate):
                clipped.append(job.target)
            if not codes.fingerprint or codec.fingerprint is None:
                unmarked.append(job.source)
            elif codes.fingerprint != codec.fingerprint:
                foreign.append(job.source)
            if len(jobs) == 1:
                say(f"{job.target}: {codes.duration_s:.2f} s at {codes.sampling_rate} Hz", err=job.is_piped)

        try:
            run_jobs(jobs, work, verb="Decoding", debug=debug)
        finally:
            warn_about(clipped, "went beyond full scale and was clipped")
            warn_about(foreign, f"was made by another model than {codec.name}: the audio may be wrong")
            reason = "a decoder alone has no fingerprint" if codec.fingerprint is None else "it holds no fingerprint"
            warn_about(unmarked, f"may have been made by another model than {codec.name}: {reason}")
