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
        assert processes.state("pool").port == 1
    # then it does not run, nobody is signalled, and its successor starts without it
    assert not processes.state("pool").running
    assert processes.stop() == []
    with processes.hold("pool"):
        assert not processes.ready_file("pool").exists()


def test_a_process_that_does_not_answer_runs_and_is_not_ready(processes):
    # given a process that holds its lock, before it has said where it listens, and when nobody listens there
    with processes.hold("pool"):
        state = processes.state("pool")
        assert (state.running, state.ready, state.pid) == (True, False, os.getpid())
        processes.ready_file("pool").write_bytes(b'{"pid": 1, ')
        assert not processes.state("pool").ready
        processes.ready_file("pool").write_bytes(orjson.dumps({"pid": os.getpid(), "port": 1, "process": "pool"}))
        assert (processes.state("pool").running, processes.state("pool").report) == (True, None)


# --- starting and stopping: real processes, which wait for a broker that does not come ------------------


@pytest.fixture
def waiting(tmp_path):
    """An installation whose processes start and do not become ready, for nobody answers at its broker's address."""
    flags = {"home": str(tmp_path), "kafka.prefix": "mine", "kafka.bootstrap_servers": "127.0.0.1:1"}
    found = Processes(load_settings(flags, environ={}), flags)
    yield found
    found.stop()


def test_a_process_that_has_just_been_started_can_be_stopped(waiting):
    # given a process that was started a moment ago; when all are stopped; then it is, and another could have seen it
    child = waiting.spawn("pool")
    assert waiting.state("pool").pid == child.pid
    with pytest.raises(RuvllmError, match="is running already"):
        waiting.spawn("pool")
    assert waiting.stop() == ["pool"]
    assert child.wait(0.5) is not None
    assert not waiting.state("pool").running


def test_a_start_that_is_interrupted_leaves_nothing_running(waiting, monkeypatch):
    # given processes that are starting; when Ctrl-C is pressed in the wait for them; then none is left
    def pressed(_):
        monkeypatch.undo()
        assert [s.running for s in waiting.states()] == [True, True, True]
        raise KeyboardInterrupt

    monkeypatch.setattr("ruvllm.streams.processes.time.sleep", pressed)
    with pytest.raises(KeyboardInterrupt):
        waiting.start()
    assert [s.running for s in waiting.states()] == [False, False, False]


def test_a_start_that_fails_stops_what_it_started_and_nothing_else(waiting, tmp_path):
    # given a process that ran before, and a configuration with which no other can start
    before = waiting.spawn("pool")
    (tmp_path / "broken.toml").write_text("[kafka]\nport = 0\n")
    flags = {"home": str(tmp_path), "kafka.prefix": "mine"}
    broken = Processes(load_settings(flags, environ={}), flags, file=tmp_path / "broken.toml")
    # when started; then the end of the log is shown, and only the one from before is left
    with pytest.raises(RuvllmError, match=r"(?s)process answer did not become ready:.*kafka\.port = 0"):
        broken.start(("answer", "pool"))
    assert [s.process for s in waiting.states() if s.running] == ["pool"]
    assert before.poll() is None


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
