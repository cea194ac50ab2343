"""Model cards: of a converted folder, and of each released checkpoint."""

from pathlib import Path

from wavtokenizer_hf import WavTokenizerConfig
from wavtokenizer_hf.audio.shown import folded
from wavtokenizer_hf.conversion.checkpoints import RELEASED, UPSAMPLING_RATIOS, CheckpointSource, ReleasedCheckpoint
from wavtokenizer_hf.hub.model_card import render_model_card


def converted_card(
    config: WavTokenizerConfig,
    source: CheckpointSource,
    release: ReleasedCheckpoint | None,
    file_name: str,
    sha256: str,
    has_discriminators: bool,
    is_simvq: bool,
) -> str:
    """The card of a folder that was converted from a file with this digest.

    Of a checkpoint that is not in the table, nothing is said but where it came from.
    """
    details: dict[str, object] = {"has_discriminators": has_discriminators, "is_simvq": is_simvq}
    if release is not None:
        details |= _of_release(release)
    else:
        details |= {"origin_repo": source.repo, "origin_file": source.file or folded(file_name)}
    details["origin_sha256"] = sha256
    kind = "SimVQ" if is_simvq else "WavTokenizer"
    name = _name(release) if release else f"{kind}, converted from {folded(file_name)}"
    return render_model_card(config, name=name, details=details, needs_package=True)


def released_card(release: ReleasedCheckpoint) -> str:
    """The card of a released checkpoint, from the table alone."""
    config = WavTokenizerConfig(
        upsampling_ratios=UPSAMPLING_RATIOS[release.codes_per_second],
        codebook_size=release.codebook_size,
        use_causal_conv=release.is_simvq,
    )
    return render_model_card(config, name=_name(release), details=_of_release(release), needs_package=True)


def write_released_cards(folder: Path) -> list[Path]:
    """Writes one card for each released checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for release in RELEASED:
        path = folder / f"{release.name}.md"
        path.write_text(released_card(release), encoding="utf-8")
        paths.append(path)
    return paths


def _name(release: ReleasedCheckpoint) -> str:
    return release.name if release.is_simvq else f"wavtokenizer-{release.name}"


def _of_release(release: ReleasedCheckpoint) -> dict[str, object]:
    return {
        "domain": release.domain,
        "licence": "mit",
        "origin_repo": release.repo,
        "origin_file": release.file,
        "origin_revision": release.revision,
        "origin_sha256": release.sha256_prefix,
        "not_for": release.not_for,
        "remark": release.remark,
        "is_simvq": release.is_simvq,
    }
