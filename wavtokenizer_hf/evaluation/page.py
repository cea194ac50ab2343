"""The page of an evaluation: scores, what was skipped, and a few clips to hear and see."""

from itertools import zip_longest
from pathlib import Path

from wavtokenizer_hf.evaluation.evaluate import ClipResult, Evaluation
from wavtokenizer_hf.evaluation.pairs import Pairs
from wavtokenizer_hf.evaluation.report import Facts, Section, Table, clip_parts, write_page
from wavtokenizer_hf.evaluation.results import interval_note
from wavtokenizer_hf.evaluation.spectral import LogMelL1
from wavtokenizer_hf.evaluation.tables import (
    absent_table,
    better,
    facts,
    labelled,
    meaning_table,
    score_table,
    skipped_table,
)
from wavtokenizer_hf.evaluation.tone import tone_warning


def write_evaluation_page(
    directory: Path, evaluation: Evaluation, pairs: Pairs, *, title: str, subtitle: str, num_pictures: int = 4
) -> Path:
    """Writes `index.html` and returns its path.

    Args:
        pairs: Those that were evaluated; the clips that are shown are made again, so that no other need be kept.
        num_pictures: How many clips to show.
    """
    sections = [
        Section("Overview", [Facts(facts(evaluation))]),
        Section("Scores", [score_table(evaluation)], " ".join([*evaluation.warnings(), interval_note(evaluation)])),
    ]
    sections += [_clip_section(evaluation, clip, pairs) for clip in choose_clips(evaluation, num_pictures)]
    for heading, table in (
        ("Skipped", skipped_table(evaluation)),
        ("Left out", absent_table(evaluation)),
        ("What the measures say", meaning_table(evaluation)),
    ):
        if table.rows:
            sections.append(Section(heading, [table]))
    return write_page(directory, title=title, subtitle=subtitle, sections=sections)


def choose_clips(evaluation: Evaluation, num_clips: int) -> list[ClipResult]:
    """The worst and the median clip by log-mel L1, of one kind after the other, then those next to the worst.

    Kinds take turns, and every other one begins with its median, so that a handful of clips holds both. Clips without
    that score come last, in the order of the data.
    """
    queues = []
    for number, kind in enumerate([*evaluation.kinds, ""]):
        clips = [clip for clip in evaluation.of_kind(kind) if not clip.failure]
        ranked = sorted(clips, key=lambda clip: -float(clip.scores.get(LogMelL1.name, -1.0)))
        num_ranked = sum(LogMelL1.name in clip.scores for clip in ranked)
        if num_ranked > 2:
            median = ranked.pop(num_ranked // 2)
            ranked.insert(1 - number % 2, median)
        queues.append(ranked)
    turns = [clip for turn in zip_longest(*queues) for clip in turn if clip is not None]
    return turns[:num_clips]


def _clip_section(evaluation: Evaluation, clip: ClipResult, pairs: Pairs) -> Section:
    pair = pairs.load(clip.index)
    rows = []
    for metric in evaluation.metrics:
        value = evaluation.value(metric, clip)
        if value is not None:
            rows.append((labelled(metric), f"{value:.{metric.decimals}f}", better(metric)))
    sounds = {"Original": pair.reference.numpy(), "Reconstruction": pair.estimate.numpy()}
    introduction = f"{clip.kind}, {clip.duration_s:.2f} s" if clip.kind else f"{clip.duration_s:.2f} s"
    return Section(
        clip.name,
        [*clip_parts(sounds, pair.sampling_rate), Table(("Measure", "Value", "Better"), rows)],
        f"{introduction}. Both on the same scales; 0 dB is the loudest point of the two. {tone_warning(clip.tone_db)}",
    )
