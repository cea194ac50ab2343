"""`wavtokenizer evaluate`: how good a codec is, in figures and on a page."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavtokenizer_hf.audio.manifest import find_entries
from wavtokenizer_hf.checkpoints import DEFAULT
from wavtokenizer_hf.cli import options
from wavtokenizer_hf.cli.errors import reporting, say, wrong_use
from wavtokenizer_hf.cli.jobs import progress_bar, refuse_existing, warn_about

if TYPE_CHECKING:
    from wavtokenizer_hf.evaluation.evaluate import ClipResult, Evaluation
    from wavtokenizer_hf.evaluation.pair import Pair


def evaluate(
    operands: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] DATA",
            help=f"The codec, as in other commands ({DEFAULT} if left out); and recordings: a folder, a pattern, a "
            "file, or a manifest (TSV or JSONL), which may say of what kind each is. A folder with a manifest.tsv in "
            "it is taken as that says.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            *options.OUTPUT_NAMES,
            metavar="DIR",
            help="Folder for results.json, results.md and index.html.",
            show_default=False,
        ),
    ],
    are_pairs: Annotated[
        bool,
        typer.Option(
            "--pairs",
            help="Compare two folders, without a codec: REF_DIR DEG_DIR take the place of MODEL DATA. Files are "
            "matched by name without suffix.",
        ),
    ] = False,
    frame_rate: Annotated[
        float | None,
        typer.Option(
            metavar="HZ",
            help="With --pairs: frames a second of the codec that made DEG_DIR, for the tone at the frame rate.",
            show_default="unknown",
        ),
    ] = None,
    metric_names: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="NAMES",
            help="Names of metrics with commas between them, or all. An unknown name lists those that there are.",
            show_default="all that need no download",
        ),
    ] = None,
    asr: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|HUB_ID",
            help="Speech recognition model of transformers, for the word error rate. Naming one asks for the metric.",
            show_default=False,
        ),
    ] = None,
    speaker_model: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|HUB_ID",
            help="X-vector model of transformers, for the speaker similarity. Naming one asks for the metric.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Score so many clips at most, evenly spread over the data.", show_default="all of them"
        ),
    ] = None,
    num_pictures: Annotated[
        int, typer.Option(min=0, help="How many clips to show on the page, with players and spectrograms.")
    ] = 4,
    save_audio: Annotated[
        bool, typer.Option("--save-audio", help="Also write what the codec made of each clip, as DIR/audio/*.flac.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the resampling that gives the intervals.")] = 0,
    bandwidth_id: options.BandwidthId = None,
    device: options.Device = "auto",
    dtype: options.Precision = options.DType.float32,
    revision: options.Revision = "main",
    allow_incomplete: options.AllowIncomplete = False,
    overwrite: options.Overwrite = False,
    debug: options.Debug = False,
) -> None:
    """Measure what a codec keeps of recordings.

    Every metric reports how many clips it scored, and why it skipped the others.

    Example: wavtokenizer evaluate FOLDER recordings --out scores
    """
    with reporting(debug):
        first, second = _two_operands(operands, are_pairs)
        if are_pairs and (save_audio or bandwidth_id is not None):
            raise typer.BadParameter("--pairs runs no codec: --save-audio and --bandwidth-id do not go with it")
        if frame_rate is not None and not are_pairs:
            raise typer.BadParameter("--frame-rate goes with --pairs; a codec has its own")
        refuse_existing([output], overwrite)

        with wrong_use(FileNotFoundError, debug=debug):
            entries = [] if are_pairs else find_entries(second)

        from wavtokenizer_hf.cli.codec import decode_options, find_codec, find_device, open_codec

        if not are_pairs:
            first = find_codec(first)
        import wavtokenizer_hf
        from wavtokenizer_hf.evaluation.evaluate import evaluate as run_metrics
        from wavtokenizer_hf.evaluation.page import write_evaluation_page
        from wavtokenizer_hf.evaluation.pairs import CodecPairs, FolderPairs, Pairs, SpreadPairs
        from wavtokenizer_hf.evaluation.registry import choose_metrics
        from wavtokenizer_hf.evaluation.results import write_results
        from wavtokenizer_hf.evaluation.saved_audio import SavedAudio
        from wavtokenizer_hf.evaluation.setting import describe_machine, describe_model

        models = {name: model for name, model in (("wer", asr), ("speaker_similarity", speaker_model)) if model}
        with wrong_use(ValueError, debug=debug):
            metrics, left_out = choose_metrics(_split(metric_names), models)
        place = find_device(device)
        pairs: Pairs
        if are_pairs:
            pairs = FolderPairs(first, second, frame_rate, allow_incomplete=allow_incomplete)
            described = None
            title = f"{_name(second)} against {_name(first)}"
        else:
            codec = open_codec(first, "whole", revision=revision, device=device, dtype=dtype.value)
            told = decode_options(codec, bandwidth_id)
            pairs = CodecPairs(codec, entries, told, allow_incomplete=allow_incomplete)
            described = describe_model(codec)
            title = f"{codec.name} on {_name(second)}"
        if limit is not None:
            pairs = SpreadPairs(pairs, limit)
        save = SavedAudio(output / "audio", [entry.name for entry in pairs.entries]) if save_audio else None
        with progress_bar(len(pairs.entries)) as bar:
            task = bar.add_task("Evaluating", total=len(pairs.entries))

            def on_clip(clip: "ClipResult", pair: "Pair | None") -> None:
                if save:
                    save(clip, pair)
                bar.advance(task)

            evaluation = run_metrics(
                pairs,
                metrics,
                left_out=left_out,
                asked={*(_split(metric_names) or ()), *models},
                device=place,
                seed=seed,
                setting={"model": described, "data": _name(second), "machine": describe_machine(place)},
                on_clip=on_clip,
            )
        subtitle = f"Measured with wavtokenizer-hf {wavtokenizer_hf.__version__}"
        write_results(output, evaluation, title=title, subtitle=subtitle)
        page = write_evaluation_page(
            output, evaluation, pairs, title=title, subtitle=subtitle, num_pictures=num_pictures
        )
        _print(evaluation)
        say(f"{page}: the page, beside results.json and results.md")
        if not_measured := _not_measured(evaluation, left_out):
            say(f"not measured: {not_measured}", err=True)
        for line in evaluation.warnings():
            say(f"warning: {line}", err=True)
        warn_about(save.clipped if save else [], "went beyond full scale and was clipped")
        _end(evaluation)


def _two_operands(operands: Sequence[str], are_pairs: bool) -> Sequence[str]:
    """MODEL, which may be left out, and DATA; or the two folders of `--pairs`."""
    if len(operands) == 1 and not are_pairs:
        return [os.environ.get(options.MODEL_VARIABLE, DEFAULT), *operands]
    if len(operands) != 2:
        expected = "--pairs takes REF_DIR DEG_DIR" if are_pairs else "expected [MODEL] DATA"
        raise typer.BadParameter(f"{expected}, got {' '.join(operands)}")
    return operands


def _split(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",")]


def _name(path: str) -> str:
    """What to call a folder or file in results, which should not tell where it lies on this machine."""
    return Path(path).resolve().name


def _print(evaluation: "Evaluation") -> None:
    from wavtokenizer_hf.evaluation.tables import score_table

    rows = [(row[0], row[2]) for row in score_table(evaluation).rows]  # the measure, and its value over all clips
    width = max(len(measure) for measure, _ in rows)
    for measure, value in rows:
        say(f"{measure:<{width}}  {value}")


def _not_measured(evaluation: "Evaluation", left_out: Mapping[str, str]) -> str:
    """What could not be measured at all, and why; metrics that wait to be asked for are no part of it."""
    names: dict[str, list[str]] = {}
    for name, reason in evaluation.unavailable.items():
        if name not in left_out:
            names.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(those)} ({reason})" for reason, those in names.items())


def _end(evaluation: "Evaluation") -> None:
    """Names the clips that could not be measured at all, and exits with status 1 if there are any."""
    failed = [clip for clip in evaluation.clips if clip.failure]
    for clip in failed:
        say(f"error: {clip.name}: {clip.failure}", err=True)
    if failed:
        raise typer.Exit(1)
