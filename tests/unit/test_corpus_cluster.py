"""What an actor of a cluster tells of its work; a whole cluster is in tests/integration."""

import errno
import pickle
import types

import pytest

from tests.tiny import tiny_model
from tests.tiny_corpus import codes_alone, plan_for, tiny_codec, write_recordings
from wavtokenizer_hf.corpus import cluster
from wavtokenizer_hf.corpus.cluster import RayRunner, ShardActor
from wavtokenizer_hf.corpus.run import ShardJob
from wavtokenizer_hf.corpus.source import find_source
from wavtokenizer_hf.corpus.worker import Resources


@pytest.fixture
def job(tmp_path):
    write_recordings(tmp_path / "in", 1)
    plan = plan_for(tmp_path / "out", find_source(tmp_path / "in"))

    def encode(shards):
        raise OSError(errno.ENOSPC, "the disk of the corpus is full")

    codec = types.SimpleNamespace(model=types.SimpleNamespace(to=lambda place: None))
    return types.SimpleNamespace(plan=plan, codec=codec, worker=lambda: types.SimpleNamespace(encode=encode))


def test_the_model_that_travels_is_a_copy_which_can_be_pickled(tmp_path):
    write_recordings(tmp_path / "in", 1)
    source, model = find_source(tmp_path / "in"), tiny_model()
    job = ShardJob(plan_for(tmp_path / "out", source, model), source, tiny_codec(model), Resources())
    there = pickle.loads(pickle.dumps(cluster._portable(job)))
    assert (there.codec.model.is_fused, model.is_fused) == (True, False)
    (shard,) = there.worker().encode([there.plan.shard(0)])
    assert shard.outcomes[0].codes.tolist() == codes_alone(tmp_path / "in" / "first" / "00.wav")


def test_an_actor_that_cannot_write_says_so_in_its_answer(job, monkeypatch):
    monkeypatch.setattr(cluster, "_import_ray", lambda: types.SimpleNamespace(get=lambda reference: reference))
    answer = ShardActor(job, has_gpu=False)({"shard": 0})
    assert answer["problem"] == f"[Errno {errno.ENOSPC}] the disk of the corpus is full"


def test_what_an_actor_could_not_do_ends_the_run_in_one_sentence(job, monkeypatch):
    answer = {"shard": 0, "problem": "the disk is full", "host": "node-7"}
    rows = types.SimpleNamespace(map=lambda *_, **__: types.SimpleNamespace(iter_rows=lambda: [answer]))
    data = types.SimpleNamespace(
        DataContext=types.SimpleNamespace(get_current=types.SimpleNamespace),
        from_items=lambda *_, **__: rows,
        ActorPoolStrategy=lambda size: None,
    )
    ray = types.SimpleNamespace(data=data, is_initialized=lambda: True, cluster_resources=dict, put=lambda job: job)
    monkeypatch.setattr(cluster, "_import_ray", lambda: ray)
    monkeypatch.setattr(cluster, "_portable", lambda job: job)
    job.resources = types.SimpleNamespace(num_workers=0)
    with pytest.raises(OSError, match=r"^the disk is full \(on node-7\)$"):
        RayRunner(1)(job, [0], None, None)
