"""The dataset card of a corpus, from the template beside this file; it also tells `datasets` which files to open."""

import math
from importlib.resources import files

import jinja2
import torch

from wavtokenizer_hf.audio.atomic import replacing
from wavtokenizer_hf.audio.codebook_use import codebook_use
from wavtokenizer_hf.audio.shown import markdown
from wavtokenizer_hf.corpus.plan import Plan
from wavtokenizer_hf.corpus.statistics import Statistics

CARD = "README.md"


def write_card(plan: Plan, statistics: Statistics | None = None) -> None:
    """Writes `README.md`.

    Args:
        statistics: Of the finished corpus; `None` while there is work to do.
    """
    text = files(__package__).joinpath("dataset_card.md.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: markdown(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    card = environment.from_string(text).render(
        plan=plan,
        statistics=statistics,
        use=codebook_use(torch.from_numpy(statistics.counts)) if statistics and statistics.num_codes else None,
        bits=math.log2(plan.codec.num_entries),
        errors=sorted(statistics.num_errors.items()) if statistics else [],
    )
    with replacing(plan.folder / CARD) as unfinished:
        unfinished.write_text(card, encoding="utf-8")
