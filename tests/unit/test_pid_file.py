"""Who runs is told by a lock: from a process's first moment to its end, and to nobody's harm. Processes are real."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from ruvllm.streams.pid_file import PidFile, Running, end

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


@pytest.fixture
def launch(tmp_path):
    """Launches processes under `it.pid`; whatever is left of them is killed in the end."""
    children: list[subprocess.Popen[bytes]] = []

    def start(command=SLEEP, **options):
        children.append(PidFile(tmp_path / "it.pid").launch(command, tmp_path / "it.log", **options))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()


def test_a_process_is_known_from_its_first_moment_until_it_ends(tmp_path, launch):
    # given nobody; when a process is launched; then it is known at once, with its port, to whoever looks
    assert PidFile(tmp_path / "it.pid").read() is None
    child = launch(port=7)
    running = PidFile(tmp_path / "it.pid").read()
    assert running is not None
    assert (running.pid, running.port) == (child.pid, 7)
    # and when it is killed, then it is gone with its lock
    child.kill()
    child.wait()
    assert PidFile(tmp_path / "it.pid").read() is None


def test_a_pid_that_another_program_has_got_since_is_not_believed(tmp_path):
    # given a pid file left by a crash, and a live process that now has its id: ours; when read; then nobody runs
    (tmp_path / "it.pid").write_text(json.dumps({"pid": os.getpid(), "port": 1, "started_at": 0.0}))
    assert PidFile(tmp_path / "it.pid").read() is None


def test_whoever_looks_is_never_in_the_way_of_whoever_starts(tmp_path):
    # given somebody who looks without a pause
    over = threading.Event()

    def look():
        while not over.is_set():
            PidFile(tmp_path / "it.pid").read()

    looking = threading.Thread(target=look)
    looking.start()
    # when processes start and end, one after the other; then none of them finds the place taken
    try:
        for _ in range(300):
            file = PidFile(tmp_path / "it.pid")
            with file.starting() as running:
                assert running is None
                held = file.take()
            assert file.read() == Running(os.getpid(), pytest.approx(file.read().started_at))
            held.close()
    finally:
        over.set()
        looking.join()


def test_a_launched_process_knows_that_it_holds_its_file_and_no_child_of_its_own_does(tmp_path, launch):
    # given a launched process that asks for its file, and starts a child that outlives it
    program = (
        "import os, subprocess, sys; from pathlib import Path; from ruvllm.streams.pid_file import PidFile\n"
        "print(PidFile(Path(sys.argv[1])).handed_down(), PidFile(Path('other.pid')).handed_down(), flush=True)\n"
        "os.posix_spawn('/bin/sleep', ['sleep', '5'], os.environ)"
    )
    launch([sys.executable, "-c", program, str(tmp_path / "it.pid")]).wait()
    # when it has ended; then it has held its own file and no other, and nobody holds it
    assert (tmp_path / "it.log").read_text() == "True False\n"
    assert PidFile(tmp_path / "it.pid").read() is None
    # and this process was handed nothing down
    assert not PidFile(tmp_path / "it.pid").handed_down()


def test_a_start_that_was_interrupted_is_not_in_the_way_of_the_next(tmp_path, launch):
    # given a start that was interrupted between the lock and the name: somebody holds the unfinished file
    with PidFile(tmp_path / "it.pid")._locked():
        # when started again; then it starts
        child = launch()
    assert PidFile(tmp_path / "it.pid").read().pid == child.pid


@pytest.mark.parametrize(("command", "number"), [(SLEEP, signal.SIGTERM), (STUBBORN, signal.SIGKILL)])
def test_ending_asks_first_and_kills_what_does_not_end(tmp_path, launch, command, number):
    # given a process that ends when asked, and one that does not; when ended; then both are gone
    child = launch(command)
    while command is STUBBORN and not (tmp_path / "it.log").read_text():
        pass
    reaper = threading.Thread(target=child.wait)
    reaper.start()
    end([PidFile(tmp_path / "it.pid"), PidFile(tmp_path / "nobody.pid")], limit_s=0.1 if command is STUBBORN else 30)
    reaper.join()
    assert child.returncode == -number
