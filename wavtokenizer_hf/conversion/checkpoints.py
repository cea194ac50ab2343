"""The released checkpoints of WavTokenizer and SimVQ as a table, and how a SOURCE of a command finds its file."""

import difflib
import fnmatch
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wavtokenizer_hf.checkpoints import DEFAULT
from wavtokenizer_hf.conversion.errors import ConversionError, UsageError, listed

_BLOCK_BYTES = 2**22

# Strides of the encoder by codes per second; everything else is the same in all releases.
UPSAMPLING_RATIOS = {75: (8, 5, 4, 2), 40: (6, 5, 5, 4)}

_SPEECH_NOT_FOR = ("Music, singing and environmental sound: it was trained on speech alone.",)
_MUSIC_NOT_FOR = ("Speech: it was trained on music and other sound without speech.",)


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """One released file.

    Args:
        name: Its name on our command line: size, domain, rate and version.
        repo: The Hub repository.
        file: The file in it; or a pattern that this file alone matches, where its name is not known.
        codes_per_second: 40 or 75.
        domain: What it was trained on.
        sha256_prefix: First digits of the file's SHA-256, where they are known.
        revision: The commit to take it from; `None` means the newest.
        aliases: Further names that people know it by.
        not_for: What its training makes it unfit for.
        remark: What else is known of it.
        codebook_size: Entries of its codebook.
        is_simvq: Whether it is one of SimVQ's.
    """

    name: str
    repo: str
    file: str
    codes_per_second: int
    domain: str
    sha256_prefix: str | None = None
    revision: str | None = None
    aliases: tuple[str, ...] = ()
    not_for: tuple[str, ...] = ()
    remark: str | None = None
    codebook_size: int = 4096
    is_simvq: bool = False


def _simvq(name: str, file: str, codebook_size: int, pesq: str, stoi: str, usage: str) -> ReleasedCheckpoint:
    return ReleasedCheckpoint(
        name=name,
        repo="zyx123/SimVQ",
        file=f"vq_audio_log/{name.replace('-', '_')}/{file}",
        codes_per_second=75,
        domain="speech (LibriTTS)",
        not_for=_SPEECH_NOT_FOR,
        remark=(
            f"Its authors measured a PESQ of {pesq}, an STOI of {stoi} and a codebook usage of {usage} % on LibriTTS "
            "test-clean; they quote WavTokenizer at 2.01 and 0.89."
        ),
        codebook_size=codebook_size,
        is_simvq=True,
    )


RELEASED = (
    ReleasedCheckpoint(
        name="small-speech-40token",
        repo="novateur/WavTokenizer",
        file="WavTokenizer_small_600_24k_4096.ckpt",
        codes_per_second=40,
        domain="speech (LibriTTS)",
        sha256_prefix="d44c40fb",
        not_for=_SPEECH_NOT_FOR,
    ),
    ReleasedCheckpoint(
        name="small-speech-75token",
        repo="novateur/WavTokenizer",
        file="WavTokenizer_small_320_24k_4096.ckpt",
        codes_per_second=75,
        domain="speech (LibriTTS)",
        sha256_prefix="721a204f",
        not_for=_SPEECH_NOT_FOR,
    ),
    ReleasedCheckpoint(
        name="medium-speech-75token",
        repo="novateur/WavTokenizer-medium-speech-75token",
        file="wavtokenizer_medium_speech_320_24k.ckpt",
        codes_per_second=75,
        domain="speech",
        aliases=("medium-speech-75token-v1",),
        not_for=_SPEECH_NOT_FOR,
        remark="The `600` under which others list it is wrong: its hop is 320 samples.",
    ),
    ReleasedCheckpoint(
        name="medium-speech-75token-v2",
        repo="novateur/WavTokenizer-medium-speech-75token",
        file="wavtokenizer_medium_speech_320_24k_v2.ckpt",
        codes_per_second=75,
        domain="speech",
        not_for=_SPEECH_NOT_FOR,
        remark="The `600` under which others list it is wrong: its hop is 320 samples.",
    ),
    ReleasedCheckpoint(
        name="medium-music-audio-75token",
        repo="novateur/WavTokenizer-medium-music-audio-75token",
        file="wavtokenizer_medium_music_audio_320_24k.ckpt",
        codes_per_second=75,
        domain="music and other sound, no speech",
        aliases=("medium-music-audio-75token-v1",),
        not_for=_MUSIC_NOT_FOR,
    ),
    ReleasedCheckpoint(
        name="medium-music-audio-75token-v2",
        repo="novateur/WavTokenizer-medium-music-audio-75token",
        file="wavtokenizer_medium_music_audio_320_24k_v2.ckpt",
        codes_per_second=75,
        domain="music and other sound, no speech",
        not_for=_MUSIC_NOT_FOR,
    ),
    ReleasedCheckpoint(
        name="large-unify-40token",
        repo="novateur/WavTokenizer-large-unify-40token",
        file="wavtokenizer_large_unify_600_24k.ckpt",
        codes_per_second=40,
        domain="speech, sound and music",
        remark="It was released without a YAML file; the architecture is read off its tensors.",
    ),
    ReleasedCheckpoint(
        name="large-speech-75token",
        repo="novateur/WavTokenizer-large-speech-75token",
        file="wavtokenizer_large_speech_320_24k.ckpt",
        codes_per_second=75,
        domain="speech",
        revision="1cc9fae",
        aliases=("large-speech-75token-v1",),
        not_for=_SPEECH_NOT_FOR,
        remark=(
            "The first version, deleted from the repository's newest state and superseded by large-speech-75token-v2, "
            "whose codes differ. OuteTTS up to 0.3, the GGUF file of llama.cpp and YarnGPT2 were built on this one."
        ),
    ),
    ReleasedCheckpoint(
        name="large-speech-75token-v2",
        repo="novateur/WavTokenizer-large-speech-75token",
        file="wavtokenizer_large_speech_320_v2.ckpt",
        codes_per_second=75,
        domain="speech",
        not_for=_SPEECH_NOT_FOR,
        remark="It was released without a YAML file; the architecture is read off its tensors.",
    ),
    _simvq("simvq-4k", "*.ckpt", 4096, pesq="2.33", stoi="0.91", usage="100"),
    _simvq("simvq-8k", "*.ckpt", 8192, pesq="2.42", stoi="0.92", usage="99.4"),
    _simvq("simvq-65k", "*.ckpt", 65536, pesq="2.54", stoi="0.93", usage="99.4"),
    _simvq("simvq-262k", "epoch=49-step=138600.ckpt", 262144, pesq="2.61", stoi="0.93", usage="95.6"),
)

# Names under which there is nothing to convert, and why.
REFUSED = {
    "novateur/WavTokenizer-large-unify-75token": (
        "the repository holds a README and no checkpoint; large-unify-40token has the same domain, "
        "large-speech-75token-v2 the same rate"
    ),
}

_HUB_FILE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+):(?P<file>[^:]+)")


@dataclass(frozen=True)
class CheckpointSource:
    """What a SOURCE means, before anything is downloaded.

    Args:
        path: The file, if it is on this machine.
        repo: Else the Hub repository,
        file: the file in it,
        revision: and the commit.
        release: The table's row, if it is a released checkpoint.
    """

    path: Path | None = None
    repo: str = ""
    file: str = ""
    revision: str | None = None
    release: ReleasedCheckpoint | None = None

    def fetch(self) -> Path:
        """The file on this machine, downloaded into the Hub's cache if need be.

        Raises:
            ConversionError: If the download fails.
        """
        if self.path is not None:
            return self.path
        import huggingface_hub

        try:
            file = self._only_match() if "*" in self.file else self.file
            return Path(huggingface_hub.hf_hub_download(self.repo, file, revision=self.revision))
        except ConversionError:
            raise
        except Exception as error:  # Connection, authentication, no such file, full disk: many types, one outcome.
            raise ConversionError(f"cannot download {self.repo}:{self.file}: {error}") from error

    def _only_match(self) -> str:
        """The one file of the repository that matches the pattern."""
        import huggingface_hub

        files = fnmatch.filter(huggingface_hub.list_repo_files(self.repo, revision=self.revision), self.file)
        if len(files) != 1:
            raise ConversionError(
                f"{self.repo} holds {len(files)} files {self.file}, expected one; name one as REPO:FILE"
                + (f": {listed(files)}" if files else "")
            )
        return files[0]


def resolve(source: str) -> CheckpointSource:
    """Finds what SOURCE means: a file on this machine, else `REPO:FILE` on the Hub, else a name of the table.

    Names are compared without regard to case, `-` or `_`, and the ending `.ckpt`. A repository's name stands for its
    checkpoint if it holds one.

    Raises:
        UsageError: If it is none of these, or a release that is not there.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return CheckpointSource(path=path)
    if path.exists():
        raise UsageError(f"{source} is no file; name a .ckpt file, REPO:FILE or a released checkpoint")
    repo_and_file = _HUB_FILE.fullmatch(source)
    if repo_and_file:
        return _resolve_hub_file(repo_and_file["repo"], repo_and_file["file"])
    return _resolve_name(source, "no file here, no REPO:FILE")


def find_release(name: str) -> ReleasedCheckpoint:
    """The release that a model's name means, as `resolve` compares names.

    Raises:
        UsageError: If there is none; the message names the nearest.
    """
    release = _resolve_name(name, "no folder here, no owner/name on the Hub", [DEFAULT]).release
    assert release is not None
    return release


def is_released_repository(name: str) -> bool:
    """Whether a repository on the Hub holds released checkpoints, which transformers does not load as they are."""
    return name.casefold() in {repo.casefold() for repo in (*REFUSED, *(release.repo for release in RELEASED))}


def _resolve_hub_file(repo: str, file: str) -> CheckpointSource:
    _refuse_empty(repo)
    for release in RELEASED:
        if release.repo.casefold() == repo.casefold() and release.file == file:
            return _of(release)
    return CheckpointSource(repo=repo, file=file)


def _resolve_name(source: str, not_found: str, further_names: Sequence[str] = ()) -> CheckpointSource:
    _refuse_empty(source)
    wanted = _normalised(source)
    for release in RELEASED:
        if wanted in map(_normalised, (release.name, release.file, *release.aliases)):
            return _of(release)
    of_repo = [release for release in RELEASED if wanted in _repo_names(release.repo)]
    if len(of_repo) == 1:
        return _of(of_repo[0])
    if of_repo:
        raise UsageError(f"{source} holds several checkpoints; name one: {listed(row.name for row in of_repo)}")
    names = [release.name for release in RELEASED]
    close = difflib.get_close_matches(source.casefold(), [*further_names, *names], n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UsageError(f"{source} is {not_found} and no released checkpoint; {hint}Released: {', '.join(names)}")


def _refuse_empty(name: str) -> None:
    for repo, reason in REFUSED.items():
        if _normalised(name) in (
            *_repo_names(repo),
            _normalised(repo.partition("/")[2].removeprefix("WavTokenizer-")),
        ):
            raise UsageError(f"{name} cannot be converted: {reason}")


def _repo_names(repo: str) -> tuple[str, str]:
    return _normalised(repo), _normalised(repo.partition("/")[2])


def _normalised(name: str) -> str:
    return name.casefold().replace("_", "-").removesuffix(".ckpt")


def _of(release: ReleasedCheckpoint) -> CheckpointSource:
    return CheckpointSource(repo=release.repo, file=release.file, revision=release.revision, release=release)


def sha256_of(path: Path, on_read: Callable[[int], None] = lambda num_bytes: None) -> str:
    """Hexadecimal SHA-256 of a file; `on_read` is called with the size of each block."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
                on_read(len(block))
    except OSError as error:
        raise ConversionError(f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()


def identify(source: CheckpointSource, sha256: str) -> ReleasedCheckpoint | None:
    """The release that a file is; a file on this machine is recognised by its digest, whatever its name.

    Raises:
        ConversionError: If a release was asked for whose digest is known, and this file has another.
    """
    if source.release is None:
        return next((row for row in RELEASED if row.sha256_prefix and sha256.startswith(row.sha256_prefix)), None)
    expected = source.release.sha256_prefix
    if expected and not sha256.startswith(expected):
        raise ConversionError(
            f"{source.repo}:{source.file} has SHA-256 {sha256[:16]}…, but that of the release begins with {expected}: "
            "damaged on the way, or replaced. Delete it from the Hub's cache and try again"
        )
    return source.release
