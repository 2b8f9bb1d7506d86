"""The service's processes on one machine: start them in the background, see how they are, stop them.

Whether a process runs is told by a lock that it holds for as long as it lives, not by a process id
that another program may have by now. Each has a ready file (id and port) and a log in its folder.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ruvllm.errors import RuvllmError
from ruvllm.streams.settings import Settings
from ruvllm.streams.topology import Process

PROCESSES: tuple[Process, ...] = ("answer", "pool", "learn")
START_LIMIT_S = 180.0
STOP_LIMIT_S = 60.0


@dataclass(frozen=True)
class ProcessState:
    """One process as seen from outside; `report` is what it says of itself."""

    process: str
    running: bool
    pid: int | None = None
    port: int | None = None
    report: Mapping[str, Any] | None = None

    @property
    def ready(self) -> bool:
        return bool(self.running and self.report and self.report["ready"] and self.report["healthy"])


class Processes:
    """The processes of one installation: its folder is <home>/run/<prefix>."""

    def __init__(self, settings: Settings, flags: Mapping[str, str] | None = None, *, file: Path | None = None) -> None:
        """`flags` and `file`: what the settings came from; the processes read the same."""
        self._file = file.absolute() if file is not None else None
        self.folder = settings.home / "run" / settings.kafka.prefix
        self._flags = dict(flags or {})

    def ready_file(self, process: str) -> Path:
        return self.folder / f"{process}.json"

    def log_file(self, process: str) -> Path:
        return self.folder / f"{process}.log"

    # --- from inside a worker ---------------------------------------------------------------------

    @contextmanager
    def hold(self, process: str) -> Iterator[None]:
        """Be this process. Raises RuvllmError if another one is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{process}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RuvllmError(
                    f"process {process} of {self.folder} is running already",
                    hint="`ruvllm status` shows it, `ruvllm down` stops it.",
                ) from error
            self.ready_file(process).unlink(missing_ok=True)
            yield

    # --- from outside -----------------------------------------------------------------------------

    def start(self, processes: Sequence[Process] = PROCESSES) -> None:
        """Start those that do not run; returns when all are ready. Raises RuvllmError with the log's end."""
        started = {p: self.spawn(p) for p in processes if not self.state(p).running}
        give_up_at = time.monotonic() + START_LIMIT_S
        for process in processes:
            while not self.state(process).ready:
                child = started.get(process)
                if (child is not None and child.poll() is not None) or time.monotonic() > give_up_at:
                    raise RuvllmError(
                        f"process {process} did not become ready:\n{self.tail(process)}",
                        hint=f"The whole log is {self.log_file(process)}.",
                    )
                time.sleep(0.1)

    def stop(self, processes: Sequence[Process] = PROCESSES) -> list[str]:
        """SIGTERM, and SIGKILL to what has not ended in time. Returns which were running."""
        running = [s for s in map(self.state, processes) if s.running and s.pid]
        for state in running:
            os.kill(state.pid or 0, signal.SIGTERM)
        give_up_at = time.monotonic() + STOP_LIMIT_S
        for state in running:
            while self.state(state.process).running:
                if time.monotonic() > give_up_at:
                    os.kill(state.pid or 0, signal.SIGKILL)
                time.sleep(0.05)
        return [s.process for s in running]

    def state(self, process: str) -> ProcessState:
        if not self._locked(process):
            return ProcessState(process, running=False)
        try:
            facts = orjson.loads(self.ready_file(process).read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return ProcessState(process, running=True)
        return ProcessState(process, running=True, pid=facts["pid"], port=facts["port"], report=_health(facts["port"]))

    def states(self) -> list[ProcessState]:
        return [self.state(p) for p in PROCESSES]

    def tail(self, process: str, lines: int = 15) -> str:
        try:
            return "\n".join(self.log_file(process).read_text("utf-8", "replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    def spawn(
        self, process: Process, name: str | None = None, *, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start one process in the background and return at once; its log is appended to."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = name or process
        flags = [part for key, value in self._flags.items() for part in ("--set", f"{key}={value}")]
        config = ("--config", str(self._file)) if self._file is not None else ()
        command = [sys.executable, "-m", "ruvllm.streams.cli", *config, *flags, "worker", process, "--name", name]
        with self.log_file(name).open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )

    def _locked(self, process: str) -> bool:
        path = self.folder / f"{process}.lock"
        if not path.exists():
            return False
        with path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False


def _health(port: int) -> Mapping[str, Any] | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            body: Mapping[str, Any] = orjson.loads(response.read())
            return body
    except urllib.error.HTTPError as error:  # 503 carries the report too
        found: Mapping[str, Any] = orjson.loads(error.read())
        return found
    except (OSError, orjson.JSONDecodeError):
        return None
