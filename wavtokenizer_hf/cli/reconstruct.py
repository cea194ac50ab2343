"""`wavtokenizer reconstruct`: recordings through the codec and back."""

from pathlib import Path
from typing import Annotated

import typer

from wavtokenizer_hf.audio.files import AUDIO_SUFFIXES, WRITABLE_SUFFIXES, write_audio
from wavtokenizer_hf.checkpoints import DEFAULT
from wavtokenizer_hf.cli import options
from wavtokenizer_hf.cli.errors import reporting, say
from wavtokenizer_hf.cli.jobs import Job, plan_jobs, run_jobs, warn_about


def reconstruct(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="A recording (WAV, FLAC, OGG, MP3), a folder of them, or a pattern; - for stdin.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str | None,
        typer.Argument(
            metavar="OUT",
            help="The file to write, for one recording; a folder for several, or where the name has no suffix; - for "
            "stdout.",
            show_default=False,
        ),
    ] = None,
    output: options.Output = None,
    model: options.Model = DEFAULT,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write a page that compares the two: waveforms, spectrograms, players, codes, bitrate and "
            "distances. Several recordings get a folder each below it.",
            show_default="no page",
        ),
    ] = None,
    audio_format: options.AudioFormatChoice = None,
    bandwidth_id: options.BandwidthId = None,
    device: options.Device = "auto",
    dtype: options.Precision = options.DType.float32,
    revision: options.Revision = "main",
    allow_incomplete: options.AllowIncomplete = False,
    overwrite: options.Overwrite = False,
    skip_existing: options.SkipExisting = False,
    debug: options.Debug = False,
) -> None:
    """Encode and decode recordings, to hear what the codec keeps.

    The result is mono, at the codec's rate, and as long as the recording.

    Example: wavtokenizer reconstruct speech.flac speech.wav --report page
    """
    with reporting(debug):
        jobs = plan_jobs(
            [source],
            options.one_output(out, output),
            input_suffixes=AUDIO_SUFFIXES,
            output_suffixes=WRITABLE_SUFFIXES,
            output_format=audio_format.value if audio_format else None,
            overwrite=overwrite,
            skip_existing=skip_existing,
            report=report,
        )

        from wavtokenizer_hf.cli.codec import decode_options, open_codec

        codec = open_codec(model, "whole", revision=revision, device=device, dtype=dtype.value)
        import torch

        told = decode_options(codec, bandwidth_id)
        clipped: list[Path] = []

        def work(job: Job) -> None:
            clip = codec.feature_extractor(
                job.source, resample=True, allow_incomplete=allow_incomplete, return_tensors="pt"
            )["input_values"]
            with torch.inference_mode():
                codes = codec.encode(clip.to(codec.device))
                audio_values = codec.decode(codes.audio_codes, codes.mask, clip.shape[-1], **told)
            samples, audio_codes = audio_values[0, 0].cpu().numpy(), codes.of_clip(0).cpu().numpy()
            if write_audio(job.target, samples, codec.spec.sampling_rate):
                clipped.append(job.target)
            if len(jobs) == 1:
                duration_s = len(samples) / codec.spec.sampling_rate
                say(f"{job.target}: {duration_s:.2f} s from {audio_codes.size} codes", err=job.is_piped)
            if job.page:
                from wavtokenizer_hf.evaluation.report import write_report

                page = write_report(
                    job.page,
                    original=clip[0, 0].numpy(),
                    reconstruction=samples,
                    sampling_rate=codec.spec.sampling_rate,
                    audio_codes=audio_codes,
                    spec=codec.spec,
                    title=job.source.name,
                    source=f"{job.source.name} with {codec.name}",
                )
                if len(jobs) == 1:
                    say(f"{page}: the comparison", err=job.is_piped)

        try:
            run_jobs(jobs, work, verb="Reconstructing", debug=debug)
        finally:
            warn_about(clipped, "went beyond full scale and was clipped")
