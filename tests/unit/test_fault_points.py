"""Fault points: a process dies or freezes where it was told to, the n-th time, and nowhere else."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ruvllm.streams.guard
from ruvllm.errors import InvalidConfiguration
from ruvllm.streams.fault_points import POINTS, VARIABLE, FaultPoint, fault_armed, reach


@pytest.fixture
def signals():
    """Receives SIGUSR1 in the place of a signal that cannot be survived."""
    received = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGUSR1, before)


def test_the_signal_comes_at_the_nth_time_and_once(signals):
    # given a point that is armed for its third time; when points are reached
    point = FaultPoint("sent:3:USR1")
    counts = []
    for name in ("sent", "handled", "sent", "passed", "sent", "sent", "sent"):
        point.reach(name)
        counts.append(len(signals))
    # then the signal comes at the third `sent`, and not again
    assert counts == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    "spec", ["", "sent", "sent:1", "sent:x:KILL", "sent:1:NOSUCH", "sent:1:KILL:9", "lunch:1:KILL"]
)
def test_what_is_no_fault_is_refused_with_its_form(spec):
    # given something else in the variable; when read; then the error shows it and what there is
    with pytest.raises(InvalidConfiguration, match=re.escape(f"{VARIABLE}={spec!r}")) as caught:
        FaultPoint(spec)
    assert "<point>:<n>:<signal>" in caught.value.message or all(p in caught.value.message for p in POINTS)


def test_nothing_happens_in_a_process_that_is_not_armed():
    # given this process; when it reaches every point; then it lives
    assert not fault_armed()
    for point in POINTS:
        reach(point)


def test_an_armed_process_is_killed_at_its_point():
    # given a process armed by its environment; when it reaches the point the second time
    program = (
        "import os\nfrom ruvllm.streams.fault_points import arm, reach\narm(os.environ)\n"
        "for n in range(9): print(n, flush=True); reach('passed')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, VARIABLE: "passed:2:KILL"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # then it is gone
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["0", "1"]


def test_every_point_is_reached_somewhere_and_every_place_is_a_point():
    # given the source of streams; when searched for points; then they are those that are documented
    streams = Path(ruvllm.streams.guard.__file__).parent
    used = {p for file in streams.glob("*.py") for p in re.findall(r'\breach\("(\w+)"\)', file.read_text("utf-8"))}
    assert used == set(POINTS)
