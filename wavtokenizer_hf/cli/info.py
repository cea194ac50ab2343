"""`wavtokenizer info`: what a model or a file of codes is."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from wavtokenizer_hf.audio.codes import CODE_SUFFIXES, CodeFile
from wavtokenizer_hf.checkpoints import DEFAULT
from wavtokenizer_hf.cli import options
from wavtokenizer_hf.cli.errors import reporting, say, unless_nobody_reads, wrong_use


def info(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|CODES",
            help="A model's folder or Hub id, or a file of codes (.npz, .json).",
        ),
    ] = DEFAULT,
    revision: options.Revision = "main",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")] = False,
    debug: options.Debug = False,
) -> None:
    """Describe a model or a file of codes.

    Example: wavtokenizer info speech.npz
    """
    with reporting(debug):
        is_codes = Path(subject).suffix.lower() in CODE_SUFFIXES and not Path(subject).is_dir()
        with wrong_use(FileNotFoundError, debug=debug):
            facts = _describe_codes(subject) if is_codes else _describe_model(subject, revision)
        if as_json:
            with unless_nobody_reads():
                typer.echo(json.dumps(facts, indent=2))
            return
        width = max(map(len, facts))
        for name, value in facts.items():
            say(f"{name:<{width}}  {_as_text(value)}")


def _describe_codes(path: str) -> dict[str, Any]:
    codes = CodeFile.load(path)
    return {
        "codes": codes.num_codes,
        "distinct_codes": len(set(codes.audio_codes.flat)),
        "duration_s": round(codes.duration_s, 6),
        "num_samples": codes.num_samples,
        "sampling_rate_hz": codes.sampling_rate,
        "hop_length": codes.hop_length,
        "codes_per_second": codes.frame_rate * codes.spec.num_codebooks,
        "bitrate_kbps": round(codes.bitrate_kbps, 4),
        "codebook_size": codes.spec.facts()["codebook_size"],
        "model": codes.model or None,
        "fingerprint": codes.fingerprint or None,
        "source": codes.source or None,
    }


def _describe_model(name: str, revision: str) -> dict[str, Any]:
    from wavtokenizer_hf.cli.codec import find_codec, open_codec

    name = find_codec(name)
    from wavtokenizer_hf.hub.stored_weights import read_stored_weights

    codec = open_codec(name, "stored", revision=revision)
    stored = read_stored_weights(name, revision)
    facts = codec.spec.facts()
    return {
        "class": type(codec.model).__name__,
        **{fact: value for fact, value in facts.items() if fact not in ("name", "fingerprint")},
        "parameters": sum(parameter.numel() for parameter in codec.model.parameters()),
        "fingerprint": codec.fingerprint,
        "dtype": stored.dtype,
        **codec.describe_keys(stored.keys),
        "auto_map": getattr(codec.config, "auto_map", None),
    }


def _as_text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, int) and value >= 1_000_000:
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
