"""Who runs, told by a lock and not by a process id that another program may have got since.

A process holds its pid file locked for as long as it lives, however it ends; the id in the file is
trusted only while it is locked. A file is locked first and appears then, by a rename: it is always
complete, and whoever looks is never in the way of whoever starts. `launch` hands a new process its
file locked, so that it can be stopped from its first moment.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

HANDED_DOWN = "RUVLLM_PID_FILE"
"""In a launched process's environment: the descriptor of its locked pid file."""
POLL_S = 0.02


@dataclass(frozen=True)
class Running:
    pid: int
    started_at: float  # seconds since the epoch
    port: int | None = None


class PidFile:
    """One at `path`; beside it `path`.lock lets one start at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Running | None:
        """Who holds the lock; None when nobody does."""
        try:
            file = self._path.open(encoding="utf-8")
        except FileNotFoundError:
            return None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return Running(**json.load(file))
            return None

    @contextmanager
    def starting(self) -> Iterator[Running | None]:
        """Wait until nobody else is starting the same; then who runs already. `launch` and `take` belong in here."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.read()

    def launch(
        self,
        command: Sequence[str],
        log: Path,
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process that outlives this one, and to which a Ctrl-C here is none; its log is appended to."""
        with self._locked() as file, log.open("ab") as output:
            handed_down = {HANDED_DOWN: str(file.fileno())}
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[file.fileno()],
                env={**os.environ, **(environment or {}), **handed_down},
            )
            self._publish(file, Running(process.pid, time.time(), port))
        return process

    def take(self) -> TextIO:
        """This process runs, until it ends or closes what is returned."""
        file = self._locked()
        self._publish(file, Running(os.getpid(), time.time()))
        return file

    def handed_down(self) -> bool:
        """Whether this very process was launched with this file, which it then holds."""
        try:
            descriptor = int(os.environ[HANDED_DOWN])
            mine = os.path.samestat(os.fstat(descriptor), self._path.stat())
            if mine:
                os.set_inheritable(descriptor, False)  # a child would keep the lock when we are gone
        except (KeyError, OSError):
            return False
        return mine

    def _locked(self) -> TextIO:
        new = self._path.with_suffix(".new")
        new.unlink(missing_ok=True)  # a start that was interrupted here may have left one that is locked
        file = new.open("w", encoding="utf-8")
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def _publish(self, file: TextIO, running: Running) -> None:
        json.dump(vars(running), file)
        file.flush()
        self._path.with_suffix(".new").rename(self._path)


def end(files: Iterable[PidFile], limit_s: float) -> None:
    """SIGTERM to all who run, and SIGKILL to those who have not ended in time; returns when all have."""
    running = [(file, found) for file in files if (found := file.read()) is not None]
    for _, found in running:
        _send(found, signal.SIGTERM)
    give_up_at = time.monotonic() + limit_s
    for file, found in running:
        while file.read() == found:  # and not a successor
            if time.monotonic() > give_up_at:
                _send(found, signal.SIGKILL)
            time.sleep(POLL_S)


def _send(running: Running, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it may end by itself between our look and our signal
        os.kill(running.pid, number)
