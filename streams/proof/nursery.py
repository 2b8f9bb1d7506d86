"""Workers forked from a process that has imported everything: started in a second, not in four.

A fault harness starts a worker for each one that it kills. What runs in the fork is the command line's own
`worker`, with a session, an environment and a log file of its own, so nothing but the imports is shared.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ruvllm.streams.cli import main

LOADED = ("ruvllm.streams.cli", "ruvllm.streams.worker", "uvloop")


class Forked:
    """A forked worker, with the verbs of `subprocess.Popen` that a cluster uses."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(LOADED))
        log.parent.mkdir(parents=True, exist_ok=True)
        self._process = context.Process(target=_live, args=(list(arguments), str(log), dict(environment)))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, the negative signal that ended it, None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        return code

    def kill(self) -> None:
        self._process.kill()


def _live(arguments: list[str], log: str, environment: dict[str, str]) -> None:
    """Be a worker from here on."""
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.environ.update(environment)
    sys.argv = ["ruvllm", *arguments]
    main()
