"""Processes that work on one corpus together."""

import multiprocessing
import os
import socket
import sys

import pytest

from wavtokenizer_hf.corpus.cluster import RayRunner, _default_actors
from wavtokenizer_hf.corpus.launch import Processes, joined_processes


def test_a_process_that_was_not_launched_with_others_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_processes() as processes:
        assert processes == Processes(0, 1)
        assert processes.is_main
        assert processes.from_main(lambda: "planned") == "planned"
        processes.wait()


def test_an_error_of_the_only_process_keeps_its_traceback():
    def fail():
        raise ValueError("no such folder")

    with pytest.raises(ValueError, match="no such folder") as raised:
        Processes().from_main(fail)
    assert raised.traceback[-1].name == "fail"


def work_together(index: int, port: int, outcomes) -> None:
    """One of two processes: what the main one found, what it failed with, and that both were there."""
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(index), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined_processes() as processes:
        found = processes.from_main(lambda: f"found by {processes.index}")
        try:
            processes.from_main(lambda: [][0])
        except IndexError as error:
            failure = str(error)
        processes.wait()
        outcomes.put((processes.index, processes.number, processes.is_main, found, failure))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_all_processes_go_by_what_the_main_one_finds_and_fail_where_it_fails():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    context = multiprocessing.get_context("fork")
    outcomes = context.Queue()
    started = [context.Process(target=work_together, args=(index, port, outcomes)) for index in range(2)]
    for process in started:
        process.start()
    seen = sorted(outcomes.get(timeout=60) for _ in started)
    for process in started:
        process.join(60)
    failure = "list index out of range"
    assert seen == [(0, 2, True, "found by 0", failure), (1, 2, False, "found by 0", failure)]


@pytest.mark.parametrize(
    ("resources", "num_workers", "expected"),
    [
        ({"CPU": 64.0, "GPU": 8.0}, 4, 8),
        ({"CPU": 16.0}, 0, 16),
        ({"CPU": 16.0}, 3, 4),
        ({"CPU": 2.0}, 8, 1),
        ({}, 0, 1),
    ],
)
def test_a_cluster_gets_an_actor_for_each_gpu_or_as_many_as_its_cpus_allow(resources, num_workers, expected):
    assert _default_actors(resources, num_workers) == expected


def test_a_cluster_without_its_package_is_an_error_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(ImportError, match=r"wavtokenizer-hf\[cluster\]"):
        RayRunner()(None, [0], None, None)


def test_a_cluster_is_not_started_for_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    RayRunner()(None, [], None, None)
