import hashlib
from pathlib import Path

import huggingface_hub
import pytest
from conversion.checkpoints import RELEASED, UPSAMPLING_RATIOS, CheckpointSource, identify, resolve, sha256_of
from conversion.errors import ConversionError, UsageError

LARGE = "novateur/WavTokenizer-large-speech-75token"


def test_the_table_holds_each_released_file_once():
    files = [(release.repo, release.file) for release in RELEASED]
    names = [name for release in RELEASED for name in (release.name, *release.aliases)]
    assert len(set(files)) == len(files) == 13
    assert len(set(names)) == len(names)
    assert {release.codes_per_second for release in RELEASED} == set(UPSAMPLING_RATIOS) == {40, 75}
    assert all(("_600_" in release.file) == (release.codes_per_second == 40) for release in RELEASED)


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("small-speech-75token", "WavTokenizer_small_320_24k_4096.ckpt"),
        ("WavTokenizer_small_600_24k_4096.ckpt", "WavTokenizer_small_600_24k_4096.ckpt"),
        ("WavTokenizer-small-600-24k-4096", "WavTokenizer_small_600_24k_4096.ckpt"),
        ("wavtokenizer_medium_music_audio_320_24k_v2", "wavtokenizer_medium_music_audio_320_24k_v2.ckpt"),
        ("Large-Unify-40token", "wavtokenizer_large_unify_600_24k.ckpt"),
        ("novateur/WavTokenizer-large-unify-40token", "wavtokenizer_large_unify_600_24k.ckpt"),
        ("WavTokenizer-large-unify-40token", "wavtokenizer_large_unify_600_24k.ckpt"),
        (f"{LARGE}:wavtokenizer_large_speech_320_v2.ckpt", "wavtokenizer_large_speech_320_v2.ckpt"),
    ],
)
def test_names_old_and_new_find_their_release(source, file):
    found = resolve(source)
    assert found.release.file == found.file == file
    assert found.revision is None


@pytest.mark.parametrize(
    "source",
    [
        "large-speech-75token",
        "large-speech-75token-v1",
        "wavtokenizer_large_speech_320_24k.ckpt",
        f"{LARGE}:wavtokenizer_large_speech_320_24k.ckpt",
    ],
)
def test_the_deleted_checkpoint_is_taken_from_the_revision_that_still_has_it(source):
    found = resolve(source)
    assert found.revision == "1cc9fae"
    assert "superseded by large-speech-75token-v2" in found.release.remark


@pytest.mark.parametrize(
    "source",
    [
        "novateur/WavTokenizer-large-unify-75token",
        "large-unify-75token",
        "novateur/WavTokenizer-large-unify-75token:wavtokenizer_large_unify_320_24k.ckpt",
    ],
)
def test_the_empty_repository_is_refused_with_the_reason(source):
    with pytest.raises(UsageError, match="a README and no checkpoint; large-unify-40token has the same domain"):
        resolve(source)


@pytest.mark.parametrize("source", [LARGE, "WavTokenizer-large-speech-75token"])
def test_a_repository_of_several_checkpoints_asks_which(source):
    with pytest.raises(UsageError, match="name one: large-speech-75token, large-speech-75token-v2"):
        resolve(source)


def test_an_unknown_name_lists_the_released_ones_and_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean large-unify-40token.*small-speech-40token"):
        resolve("large-unified-40token")


def test_a_folder_is_no_source(tmp_path):
    with pytest.raises(UsageError, match="is no file"):
        resolve(str(tmp_path))


def test_a_file_on_this_machine_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("small-speech-75token").touch()
    assert resolve("small-speech-75token") == CheckpointSource(path=Path("small-speech-75token"))


def test_any_file_on_the_hub_can_be_named():
    assert resolve("someone/fine-tune:step_10.ckpt") == CheckpointSource(repo="someone/fine-tune", file="step_10.ckpt")


def test_a_download_asks_for_repository_file_and_revision(monkeypatch):
    calls = []

    def download(repo_id, filename, *, revision):
        calls.append((repo_id, filename, revision))
        return "/cache/file.ckpt"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert resolve("large-speech-75token").fetch() == Path("/cache/file.ckpt")
    assert calls == [(LARGE, "wavtokenizer_large_speech_320_24k.ckpt", "1cc9fae")]


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("simvq-4k", "vq_audio_log/simvq_4k/epoch=49-step=7.ckpt"),
        ("SimVQ_262k", "vq_audio_log/simvq_262k/epoch=49-step=138600.ckpt"),
    ],
)
def test_a_release_of_simvq_is_the_only_checkpoint_of_its_folder(name, asked, monkeypatch):
    there = [asked, asked.replace("_audio", ""), "vq_audio_log/simvq_8k/a.ckpt", asked.replace(".ckpt", ".yaml")]
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo_id, *, revision: there)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo_id, filename, *, revision: filename)
    assert resolve(name).fetch() == Path(asked)


@pytest.mark.parametrize("there", [[], ["vq_audio_log/simvq_4k/a.ckpt", "vq_audio_log/simvq_4k/b.ckpt"]])
def test_a_folder_without_a_checkpoint_or_with_several_asks_for_one(there, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo_id, *, revision: there)
    with pytest.raises(ConversionError, match=f"holds {len(there)} files .* expected one; name one as REPO:FILE"):
        resolve("simvq-4k").fetch()


def test_a_repository_of_several_simvq_codecs_asks_which():
    with pytest.raises(UsageError, match="name one: simvq-4k, simvq-8k, simvq-65k, simvq-262k"):
        resolve("zyx123/SimVQ")


def test_a_failed_download_is_one_line(monkeypatch):
    def download(*args, **kwargs):
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(ConversionError, match="cannot download someone/x:y: no route to host"):
        resolve("someone/x:y").fetch()


def test_the_digest_of_a_file_is_its_sha256_and_is_reported_on_the_way(tmp_path):
    data = bytes(range(256)) * 20_000
    (tmp_path / "file").write_bytes(data)
    pieces = []
    assert sha256_of(tmp_path / "file", pieces.append) == hashlib.sha256(data).hexdigest()
    assert sum(pieces) == len(data)
    assert len(pieces) > 1


def test_a_release_with_another_digest_than_known_is_refused():
    source = resolve("small-speech-40token")
    assert identify(source, "d44c40fb" + "0" * 56) is source.release
    with pytest.raises(ConversionError, match="begins with d44c40fb: damaged on the way, or replaced"):
        identify(source, "d44c40fc" + "0" * 56)


def test_a_local_file_is_recognised_by_its_digest_and_by_nothing_else():
    known = identify(CheckpointSource(path=Path("renamed.ckpt")), "721a204f" + "0" * 56)
    assert known is not None
    assert known.name == "small-speech-75token"
    assert identify(CheckpointSource(path=Path("WavTokenizer_small_320_24k_4096.ckpt")), "0" * 64) is None


def test_a_release_without_a_known_digest_is_taken_as_it_comes():
    source = resolve("large-unify-40token")
    assert identify(source, "0" * 64) is source.release
