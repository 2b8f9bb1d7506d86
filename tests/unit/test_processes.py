"""Processes on one machine: a lock says who runs, not a number that another program may have by now."""

import os

import orjson
import pytest

from ruvllm.errors import RuvllmError
from ruvllm.streams.processes import Processes
from ruvllm.streams.settings import load_settings


@pytest.fixture
def processes(tmp_path):
    return Processes(load_settings({"home": str(tmp_path), "kafka.prefix": "mine"}, environ={}))


def test_nothing_runs_where_nothing_was_started(processes):
    # given a fresh installation; when asked; then no process runs, and stopping them stops none
    assert [(s.process, s.running, s.ready) for s in processes.states()] == [
        ("answer", False, False),
        ("pool", False, False),
        ("learn", False, False),
    ]
    assert processes.stop() == []
    assert processes.tail("answer") == "(no log)"


def test_a_process_runs_while_it_holds_its_lock(processes):
    # given a process that holds its lock; when asked; then it runs, and it alone; afterwards it does not
    with processes.hold("pool"):
        assert [s.process for s in processes.states() if s.running] == ["pool"]
    assert not processes.state("pool").running


def test_a_second_process_of_a_name_is_refused(processes):
    # given a process that runs; when another would be the same; then it is told what runs where
    with (
        processes.hold("pool"),
        pytest.raises(RuvllmError, match=r"process pool of .*mine is running already"),
        processes.hold("pool"),
    ):
        pass
    with processes.hold("pool"):
        assert processes.state("pool").running


def test_what_a_dead_process_left_behind_does_not_count(processes):
    # given the ready file of a process that was killed (its number may be anybody's now); when asked
    with processes.hold("pool"):
        processes.ready_file("pool").write_bytes(orjson.dumps({"pid": os.getpid(), "port": 1, "process": "pool"}))
        assert processes.state("pool").pid == os.getpid()
    # then it does not run, nobody is signalled, and its successor starts without it
    assert not processes.state("pool").running
    assert processes.stop() == []
    with processes.hold("pool"):
        assert not processes.ready_file("pool").exists()


def test_a_process_that_does_not_answer_runs_and_is_not_ready(processes):
    # given a process that holds its lock, before it has said where it listens, and when nobody listens there
    with processes.hold("pool"):
        assert (processes.state("pool").running, processes.state("pool").ready) == (True, False)
        processes.ready_file("pool").write_bytes(b'{"pid": 1, ')
        assert not processes.state("pool").ready
        processes.ready_file("pool").write_bytes(orjson.dumps({"pid": os.getpid(), "port": 1, "process": "pool"}))
        assert (processes.state("pool").running, processes.state("pool").report) == (True, None)


def test_two_installations_do_not_meet(processes, tmp_path):
    # given another prefix in the same home; when one of its processes runs; then the first does not see it
    other = Processes(load_settings({"home": str(tmp_path), "kafka.prefix": "theirs"}, environ={}))
    with other.hold("pool"):
        assert not processes.state("pool").running


def test_the_end_of_a_log_is_shown(processes):
    # given a log; when its end is asked for; then the last lines come, whatever bytes are in them
    processes.folder.mkdir(parents=True)
    processes.log_file("pool").write_bytes(b"\xff\n" + b"".join(b"line %d\n" % n for n in range(30)))
    assert processes.tail("pool", lines=2) == "line 28\nline 29"
