"""The service's processes on one machine: start them in the background, see how they are, stop them.

Whether a process runs is told by its pid file (`pid_file.py`), from its first moment to its last. When
it works it writes a ready file, which has its port; both lie in one folder, with its log.
"""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ruvllm.errors import RuvllmError
from ruvllm.streams.pid_file import PidFile, end
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
        pid_file = self._pid_file(process)
        with ExitStack() as held:
            with pid_file.starting() as running:
                if running is None:
                    self.ready_file(process).unlink(missing_ok=True)
                    held.enter_context(pid_file.take())
                elif not pid_file.handed_down():
                    raise self._runs_already(process)
            yield

    # --- from outside -----------------------------------------------------------------------------

    def start(self, processes: Sequence[Process] = PROCESSES) -> None:
        """Start those that do not run; returns when all are ready. Raises RuvllmError with the log's end.

        If that fails or is interrupted, what was started here is stopped.
        """
        started: list[Process] = []
        try:
            for process in processes:
                if not self.state(process).running:
                    self.spawn(process)
                    started.append(process)
            give_up_at = time.monotonic() + START_LIMIT_S
            for process in processes:
                while not (state := self.state(process)).ready:
                    if not state.running or time.monotonic() > give_up_at:
                        raise RuvllmError(
                            f"process {process} did not become ready:\n{self.tail(process)}",
                            hint=f"The whole log is {self.log_file(process)}.",
                        )
                    time.sleep(0.1)
        except BaseException:
            self.stop(started)
            raise

    def stop(self, processes: Sequence[Process] = PROCESSES) -> list[str]:
        """SIGTERM, and SIGKILL to what has not ended in time. Returns which were running, or starting."""
        running = {p: file for p in processes if (file := self._pid_file(p)).read() is not None}
        end(running.values(), STOP_LIMIT_S)
        return list(running)

    def state(self, process: str) -> ProcessState:
        running = self._pid_file(process).read()
        if running is None:
            return ProcessState(process, running=False)
        try:
            port = orjson.loads(self.ready_file(process).read_bytes())["port"]
        except (FileNotFoundError, orjson.JSONDecodeError):
            return ProcessState(process, running=True, pid=running.pid)
        return ProcessState(process, running=True, pid=running.pid, port=port, report=_health(port))

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
        """Start one process in the background and return at once; its log is appended to.

        Raises RuvllmError if one of that name runs.
        """
        name = name or process
        pid_file = self._pid_file(name)
        with pid_file.starting() as running:
            if running is not None:
                raise self._runs_already(name)
            self.ready_file(name).unlink(missing_ok=True)
            command = [sys.executable, "-m", "ruvllm.streams.cli", *self.worker_arguments(process, name)]
            return pid_file.launch(command, self.log_file(name), environment=environment)

    def worker_arguments(self, process: Process, name: str) -> list[str]:
        """What the command line is told to run a process of this installation."""
        flags = [part for key, value in self._flags.items() for part in ("--set", f"{key}={value}")]
        config = ("--config", str(self._file)) if self._file is not None else ()
        return [*config, *flags, "worker", process, "--name", name]

    def _pid_file(self, process: str) -> PidFile:
        return PidFile(self.folder / f"{process}.pid")

    def _runs_already(self, process: str) -> RuvllmError:
        return RuvllmError(
            f"process {process} of {self.folder} is running already",
            hint="`ruvllm status` shows it, `ruvllm down` stops it.",
        )


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
