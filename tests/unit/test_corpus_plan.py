"""Plans: which clips, cut into which shards, by which model."""

import json
import os
import pickle
import shutil
from collections import Counter

import pytest

from tests.tiny import tiny_model
from tests.tiny_corpus import plan_for, tiny_codec, write_recordings
from wavtokenizer_hf.corpus.clip import PlannedClip
from wavtokenizer_hf.corpus.plan import Settings, load_plan, make_plan
from wavtokenizer_hf.corpus.source import find_source


class Listed:
    """A source of made-up clips."""

    def __init__(self, *clips: PlannedClip, identity: str = ""):
        self.name, self.identity, self._clips, self.passed_over = "listed", identity, clips, Counter()

    def clips(self):
        return iter(self._clips)

    def open(self, clip):
        raise NotImplementedError


def clips(*sizes: int | None) -> list[PlannedClip]:
    return [PlannedClip(f"{index}", f"{index}", size=size) for index, size in enumerate(sizes)]


def shards(plan) -> list[list[str]]:
    return [[clip.id for clip in plan.shard(index).clips] for index in range(plan.num_shards)]


def test_shards_end_at_a_number_of_clips(tmp_path):
    plan = plan_for(tmp_path, Listed(*clips(*[None] * 7)), shard_clips=3)
    assert shards(plan) == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert (plan.num_clips, plan.num_shards) == (7, 3)


def test_shards_end_at_a_number_of_megabytes_and_hold_a_clip_at_least(tmp_path):
    plan = plan_for(tmp_path, Listed(*clips(600_000, 300_000, 200_000, 5_000_000, None, 1)), shard_mb=1)
    assert shards(plan) == [["0", "1"], ["2"], ["3"], ["4", "5"]]


def test_a_planned_clip_comes_back_as_it_went_in_also_in_another_process(tmp_path):
    clip = PlannedClip(
        id="é",
        source="a/b.tar/x.flac",
        path=os.fsdecode(b"/data/caf\xe9.tar"),
        offset=512,
        size=77,
        mtime_ns=1_700_000_000_123_456_789,
        row=3,
        start_s=0.1,
        end_s=2.5,
        problem="broken",
        columns={"text": "ü\tb", "empty": ""},
    )
    plan = plan_for(tmp_path, Listed(clip, *clips(None)))
    assert plan.shard(0).clips[0] == clip
    assert plan.shard(0).clips[1] == clips(None)[0]
    assert pickle.loads(pickle.dumps(plan)).shard(0) == plan.shard(0)
    assert load_plan(tmp_path) == plan


def test_the_same_recordings_elsewhere_or_named_otherwise_make_the_same_plan(tmp_path, monkeypatch):
    write_recordings(tmp_path / "here", 4)
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copy2)
    digests = {plan_for(tmp_path / "a", find_source(tmp_path / "here")).digest}
    digests.add(plan_for(tmp_path / "b", find_source(tmp_path / "there")).digest)
    monkeypatch.chdir(tmp_path / "here")
    digests.add(plan_for(tmp_path / "c", find_source(".")).digest)
    assert len(digests) == 1


def test_a_plan_that_is_there_already_is_taken_up_with_where_its_recordings_are_now(tmp_path):
    write_recordings(tmp_path / "here", 2)
    plan_for(tmp_path / "out", find_source(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    plan = plan_for(tmp_path / "out", find_source(tmp_path / "there"))
    assert plan.shard(0).clips[0].path == str(tmp_path / "there" / "first" / "00.wav")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: os.utime(folder / "first" / "00.wav"),
            r"have changed \(4 clips then, 4 now; first first/00.wav, in its time of change\)",
        ),
        (
            lambda folder: (folder / "first" / "00.wav").unlink(),
            r"4 clips then, 3 now; first first/02.ogg, where first/00.wav was\)",
        ),
        (lambda folder: (folder / "second" / "03.wav").unlink(), "first second/03.wav, which is gone"),
        (lambda folder: (folder / "second" / "9.wav").touch(), "first second/9.wav, which is new"),
        (lambda folder: (folder / "first" / "00.wav").rename(folder / "first" / "x.wav"), "have changed"),
    ],
)
def test_other_recordings_make_another_plan_which_is_refused_and_changes_nothing(tmp_path, change, message):
    write_recordings(tmp_path / "here", 4)
    before = plan_for(tmp_path / "out", find_source(tmp_path / "here"))
    kept = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    change(tmp_path / "here")
    with pytest.raises(FileExistsError, match=message):
        plan_for(tmp_path / "out", find_source(tmp_path / "here"))
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == kept
    assert load_plan(tmp_path / "out") == before


def test_what_is_said_of_a_clip_is_part_of_the_plan(tmp_path):
    clip = PlannedClip("a", "a", columns={"text": "one"})
    plan_for(tmp_path, Listed(clip))
    with pytest.raises(FileExistsError, match=r"what is said of them.*first a, in its columns"):
        plan_for(tmp_path, Listed(PlannedClip("a", "a", columns={"text": "two"})))
    with pytest.raises(FileExistsError, match="recordings"):
        plan_for(tmp_path, Listed(clip, identity="another dataset"))


def test_another_model_or_other_settings_are_refused_and_named(tmp_path):
    source = Listed(*clips(1, 2))
    plan_for(tmp_path, source)
    with pytest.raises(FileExistsError, match=r"the model was tiny \(\w{12}\) and is tiny \(\w{12}\)\. Give"):
        plan_for(tmp_path, source, tiny_model(seed=1))
    with pytest.raises(FileExistsError, match="shard-clips was 2000 and is 7; keep-silent was False and is True"):
        plan_for(tmp_path, source, shard_clips=7, keep_silent=True)


def test_two_clips_of_one_id_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"two clips are called 0: .* column `id`"):
        plan_for(tmp_path, Listed(*clips(1), *clips(1)))
    assert not (tmp_path / "manifest.json").exists()


def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds something else than a corpus"):
        plan_for(tmp_path, Listed(*clips(1)))


def test_a_plan_that_was_cut_short_is_made_anew(tmp_path):
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "clips.parquet").write_bytes(b"half")
    assert plan_for(tmp_path, Listed(*clips(1))).shard(0).clips == clips(1)


def test_a_source_without_a_clip_is_refused(tmp_path):
    with pytest.raises(ValueError, match="listed holds no recording"):
        plan_for(tmp_path, Listed())


def test_kept_columns_get_another_name_where_the_corpus_has_one_like_it(tmp_path):
    clip = PlannedClip("a", "a", columns=dict.fromkeys(("text", "duration", "codes", "input_codes", ""), "x"))
    plan = plan_for(tmp_path, Listed(clip, PlannedClip("b", "b", columns={"later": "y"})))
    assert plan.columns == {
        "text": "text",
        "input_duration": "duration",
        "input_codes": "codes",
        "input_input_codes": "input_codes",
        "later": "later",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "something"}, "its format is 'something'"),
        ({"format_version": 2}, "its format version is 2"),
        ({"settings": {"colour": 1}}, "colour"),
        ({"codec": None}, "not the manifest of a corpus"),
    ],
)
def test_a_manifest_that_cannot_be_read_says_why(tmp_path, change, message):
    plan_for(tmp_path, Listed(*clips(1)))
    content = json.loads((tmp_path / "manifest.json").read_text()) | change
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_plan(tmp_path)


def test_a_folder_whose_recordings_are_being_listed_says_so(tmp_path):
    def look(number):
        with pytest.raises(FileNotFoundError, match="no corpus yet: its recordings are being listed"):
            load_plan(tmp_path)
        told.append(number)

    told = []
    make_plan(tmp_path, Listed(*clips(*[1] * 2500)), tiny_codec().spec, Settings(), look)
    assert told == [1000, 2000]


def test_a_folder_without_a_manifest_is_no_corpus(tmp_path):
    with pytest.raises(FileNotFoundError, match="no corpus"):
        load_plan(tmp_path)
