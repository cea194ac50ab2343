import os

import pytest

from wavtokenizer_hf.hub.folder import check_target, replacing_model

OLD = {
    "config.json": "old",
    "model.safetensors": "old",
    "model-00001-of-00002.safetensors": "old",
    "notes.txt": "mine",
}
NEW = {"config.json": "new", "model.safetensors": "new", "README.md": "new"}


def fill(folder, content):
    folder.mkdir(exist_ok=True)
    for name, text in content.items():
        (folder / name).write_text(text)


def write_and_raise(out, error):
    with replacing_model(out) as folder:
        fill(folder, NEW)
        raise error("stop")


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_a_new_folder_appears_whole_with_its_parents_and_usual_rights(tmp_path):
    with replacing_model(tmp_path / "a" / "b") as folder:
        fill(folder, NEW)
        assert not (tmp_path / "a" / "b").exists()
    assert content(tmp_path / "a" / "b") == NEW
    assert os.listdir(tmp_path / "a") == ["b"]
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "a" / "b").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_model_is_replaced_whole_and_other_files_stay(tmp_path):
    fill(tmp_path / "out", OLD)
    with replacing_model(tmp_path / "out") as folder:
        fill(folder, NEW)
        assert content(tmp_path / "out") == OLD
    assert content(tmp_path / "out") == {**NEW, "notes.txt": "mine"}
    assert set(os.listdir(tmp_path / "out")) == {*NEW, "notes.txt"}
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError, ValueError])
@pytest.mark.parametrize("existed", [True, False])
def test_an_interrupt_leaves_what_was_there(tmp_path, error, existed):
    out = tmp_path / "out" if existed else tmp_path / "deep" / "er"
    if existed:
        fill(out, OLD)
    with pytest.raises(error):
        write_and_raise(out, error)
    assert os.listdir(tmp_path) == (["out"] if existed else [])
    assert not existed or (content(out) == OLD and set(os.listdir(out)) == set(OLD))


def test_through_a_link_the_folder_behind_it_is_written(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with replacing_model(tmp_path / "link") as folder:
        fill(folder, NEW)
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real") == NEW


def test_further_files_of_a_model_are_replaced_too(tmp_path):
    fill(tmp_path / "out", {**OLD, "discriminators.safetensors": "old"})
    with replacing_model(tmp_path / "out") as folder:
        fill(folder, NEW)
    assert (tmp_path / "out" / "discriminators.safetensors").read_text() == "old"
    with replacing_model(tmp_path / "out", ["discriminators.safetensors"]) as folder:
        fill(folder, NEW)
    assert content(tmp_path / "out") == {**NEW, "notes.txt": "mine"}


def test_a_target_that_a_killed_process_left_half_moved_is_put_right_before_it_is_judged(tmp_path):
    fill(tmp_path / "out", {"config.json": "old"})
    (tmp_path / "out" / ".ready").mkdir()
    fill(tmp_path / "out" / ".ready", NEW)
    check_target(tmp_path / "out", overwrite=True)
    assert content(tmp_path / "out") == NEW


def test_only_a_new_or_empty_folder_is_taken_without_asking(tmp_path):
    check_target(tmp_path / "new", overwrite=False)
    check_target(tmp_path, overwrite=False)
    fill(tmp_path / "full", OLD)
    check_target(tmp_path / "full", overwrite=True)
    with pytest.raises(FileExistsError, match="not empty"):
        check_target(tmp_path / "full", overwrite=False)


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_or_a_broken_link_is_never_a_target(tmp_path, overwrite):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(FileExistsError, match="is a file"):
        check_target(tmp_path / "file", overwrite)
    with pytest.raises(FileExistsError, match="link to nothing"):
        check_target(tmp_path / "link", overwrite)
