"""A corpus as flat files of a language model's token ids, for pre-training."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc

from wavtokenizer_hf.audio.atomic import replacing
from wavtokenizer_hf.corpus.megatron import write_megatron
from wavtokenizer_hf.corpus.npy import write_npy
from wavtokenizer_hf.corpus.plan import Plan, load_plan
from wavtokenizer_hf.corpus.shards import DamagedShardError, read_batches, read_record, read_records
from wavtokenizer_hf.corpus.statistics import sum_up
from wavtokenizer_hf.corpus.token_ids import Documents, TokenIds

TokenFormat = Literal["megatron", "npy"]


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written."""

    paths: list[Path]
    num_documents: int
    num_tokens: int
    dtype: np.dtype


def token_files(prefix: Path, token_format: TokenFormat) -> list[Path]:
    """What `export_tokens` writes, `PREFIX.json` last."""
    suffixes = {"megatron": (".bin", ".idx"), "npy": (".npy", ".ends.npy")}[token_format]
    return [prefix.with_name(prefix.name + suffix) for suffix in (*suffixes, ".json")]


def export_tokens(corpus: Path, prefix: Path, token_format: TokenFormat, token_ids: TokenIds) -> Exported:
    """Writes all clips of a finished corpus one after the other, each a document, in the corpus' order.

    Args:
        prefix: Names of the files that are written begin with it. `PREFIX.json` says what the ids are.

    Raises:
        FileNotFoundError: If there is no corpus.
        ValueError: If it is not finished or damaged, or the ids do not go together; nothing is written then.
    """
    plan = load_plan(corpus)
    token_ids.check(plan.codec.num_entries)
    statistics = sum_up(plan, read_records(plan))
    if not statistics.is_complete:
        raise ValueError(
            f"{corpus} is not finished: {statistics.num_shards} of {plan.num_shards} shards are there. Run "
            "tokenize-corpus to its end first"
        )
    num_tokens = statistics.num_codes + token_ids.num_added * statistics.num_clips
    greatest_id = token_ids.greatest(plan.codec.num_entries)
    documents = _Counted(_documents(plan, token_ids), statistics.num_clips, num_tokens)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    paths = token_files(prefix, token_format)
    if token_format == "megatron":
        dtype = write_megatron(paths[0], paths[1], documents, greatest_id)
    else:
        dtype = write_npy(paths[0], paths[1], documents, greatest_id, num_tokens)
    about = {
        "format": token_format,
        "dtype": dtype.name,
        **dataclasses.asdict(token_ids),
        "codebook_size": plan.codec.num_entries,
        "num_documents": statistics.num_clips,
        "num_tokens": num_tokens,
        "fingerprint": plan.codec.fingerprint,
        "plan": plan.digest,
    }
    with replacing(paths[-1]) as unfinished:
        unfinished.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return Exported(paths, statistics.num_clips, num_tokens, dtype)


def _documents(plan: Plan, token_ids: TokenIds) -> Iterator[Documents]:
    """Those of all shards, as far as each is what its record says.

    Raises:
        DamagedShardError: See `shards.read_batches`.
    """
    for index in range(plan.num_shards):
        record = read_record(plan, index)
        if record is None:
            raise DamagedShardError(plan, index, "it was there a moment ago, and is not any more")
        for batch in read_batches(plan, record):
            codes = batch.column("codes")
            lengths = pc.list_value_length(codes).to_numpy().astype(np.int64)
            yield token_ids.documents(codes.flatten().to_numpy(), lengths)


class _Counted:
    """Documents on their way to a file, which are counted."""

    def __init__(self, documents: Iterable[Documents], num_documents: int, num_tokens: int):
        self._documents = documents
        self._expected = (num_documents, num_tokens)

    def __iter__(self) -> Iterator[Documents]:
        """As they come.

        Raises:
            ValueError: At the end, if there were more or fewer than expected.
        """
        num_documents = num_tokens = 0
        for some in self._documents:
            num_documents += len(some.lengths)
            num_tokens += len(some.token_ids)
            yield some
        if (num_documents, num_tokens) != self._expected:
            raise ValueError(
                f"expected {self._expected[0]:,} documents of {self._expected[1]:,} tokens, and the shards hold "
                f"{num_documents:,} of {num_tokens:,}: is another process at work in the corpus?"
            )
