"""The dataset card of a corpus, from the template beside this file; it also tells `datasets` which files to open."""

import math

import torch

from wavtokenizer_hf.audio.atomic import replacing
from wavtokenizer_hf.audio.codebook_use import codebook_use
from wavtokenizer_hf.audio.templates import find_template
from wavtokenizer_hf.corpus.plan import Plan
from wavtokenizer_hf.corpus.statistics import Statistics

CARD = "README.md"


def write_card(plan: Plan, statistics: Statistics | None = None) -> None:
    """Writes `README.md`.

    Args:
        statistics: Of the finished corpus; `None` while there is work to do.
    """
    card = find_template("dataset_card.md.j2", __package__).render(
        plan=plan,
        statistics=statistics,
        use=codebook_use(torch.from_numpy(statistics.counts)) if statistics and statistics.num_codes else None,
        bits=math.log2(plan.codec.num_entries),
        errors=sorted(statistics.num_errors.items()) if statistics else [],
    )
    with replacing(plan.folder / CARD) as unfinished:
        unfinished.write_text(card, encoding="utf-8")
