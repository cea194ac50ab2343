"""`wavtokenizer export-tokens`: a corpus as token files for pre-training."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from wavtokenizer_hf.cli import options
from wavtokenizer_hf.cli.errors import reporting, say, wrong_use
from wavtokenizer_hf.cli.jobs import refuse_existing


class TokenFormat(str, enum.Enum):
    megatron = "megatron"
    npy = "npy"


def export_tokens(
    corpus: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="Folder of a corpus that tokenize-corpus has finished.", show_default=False
        ),
    ],
    prefix: Annotated[
        Path | None,
        typer.Argument(
            metavar="PREFIX",
            help="What the names of the files begin with: PREFIX.bin and PREFIX.idx for Megatron-LM, PREFIX.npy and "
            "PREFIX.ends.npy for NumPy; and PREFIX.json, which says what is in them.",
            show_default=False,
        ),
    ] = None,
    output: options.Output = None,
    token_format: Annotated[
        TokenFormat, typer.Option("--format", help="Whose files to write.")
    ] = TokenFormat.megatron,
    offset: Annotated[int, typer.Option(min=0, help="Token id of code 0.")] = 0,
    begin: Annotated[
        int | None, typer.Option(min=0, help="Token id in front of each clip.", show_default="none")
    ] = None,
    end: Annotated[int | None, typer.Option(min=0, help="Token id after each clip.", show_default="none")] = None,
    overwrite: options.Overwrite = False,
    debug: options.Debug = False,
) -> None:
    """Write a corpus as flat files of token ids, each clip a document.

    Example: wavtokenizer export-tokens codes tokens/speech --offset 32000 --begin 36096 --end 36097
    """
    with reporting(debug):
        prefix = Path(options.one_output(prefix, output))
        from wavtokenizer_hf.corpus import export
        from wavtokenizer_hf.corpus.token_ids import TokenIds

        refuse_existing(export.token_files(prefix, token_format.value), overwrite)
        with wrong_use(FileNotFoundError, debug=debug):
            exported = export.export_tokens(corpus, prefix, token_format.value, TokenIds(offset, begin, end))
        for path in exported.paths:
            say(path)
        say(
            f"{exported.num_documents:,} documents, {exported.num_tokens:,} tokens of the type {exported.dtype}",
            err=True,
        )
