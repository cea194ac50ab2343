"""`wavtokenizer status`: how far a corpus is."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavtokenizer_hf.cli import options
from wavtokenizer_hf.cli.errors import reporting, say, unless_nobody_reads, wrong_use
from wavtokenizer_hf.cli.jobs import describe_counts

if TYPE_CHECKING:
    from wavtokenizer_hf.corpus.status import Status


def status(
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Folder of a corpus, which may be in the making.", show_default=False),
    ],
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Read every shard, and compare it with its checksums; status 1 if one is damaged."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: options.Debug = False,
) -> None:
    """Show how far a corpus is, and what is in it.

    Example: wavtokenizer status codes
    """
    with reporting(debug):
        from wavtokenizer_hf.corpus.status import read_status

        with wrong_use(FileNotFoundError, debug=debug):
            read = read_status(out, verify)
        if as_json:
            with unless_nobody_reads():
                typer.echo(json.dumps(read.as_json(), indent=2))
        else:
            _print(read)
        if read.damaged:
            raise typer.Exit(1)


def _print(read: "Status") -> None:
    values = read.as_json()
    num_errors = sum(values["errors"].values())
    done = values["num_clips"] + num_errors
    rows = [
        ("source", values["source"]),
        ("model", f"{values['model']} ({values['fingerprint'][:16]})"),
        ("shards", f"{values['num_shards']:,} of {values['num_shards_planned']:,}"),
        ("clips", f"{done:,} of {values['num_clips_planned']:,}, {num_errors:,} without codes"),
        *((f"  {kind}", f"{number:,}") for kind, number in values["errors"].items()),
        ("hours", f"{values['hours']:,.2f}"),
        ("codes", f"{values['num_codes']:,}"),
    ]
    if use := values["codebook"]:
        rows.append(("codebook", f"{100 * use['usage']:.2f} % in use, {use['entropy_bits']:.3f} bits a code"))
    if values["passed_over"]:
        rows.append(("passed over", describe_counts(values["passed_over"])))
    if read.damaged is not None:
        rows.append(("damaged", f"{len(read.damaged):,} shards"))
        rows += [(f"  shard {index}", why) for index, why in read.damaged.items()]
    if values["real_time_factor"]:
        rows.append(("speed", f"{values['real_time_factor']:,.0f} times real time since the last start"))
    if values["s_since_last_event"] is not None:
        rows.append(("last sign", f"{values['s_since_last_event']:,.0f} s ago"))
    for name, value in rows:
        say(f"{name:<12}  {value}")
