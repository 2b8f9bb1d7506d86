"""Who runs, told by a lock and not by a process id that another program may have got since.

The process inherits its pid file locked, and the lock ends with the process, however it ends. The id in
the file is trusted only while the lock is held. The file appears complete, by a rename.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Running:
    pid: int
    port: int
    started_at: float  # seconds since the epoch


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
            if _locks(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB):
                return None
            return Running(**json.load(file))

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Waits until no other process is starting the same."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            _locks(lock.fileno(), fcntl.LOCK_EX)
            yield

    def launch(self, spawn: Callable[[int], Running]) -> None:
        """Start a process by `spawn(descriptor)`, which must let it inherit that locked descriptor."""
        new = self._path.with_suffix(".new")
        with new.open("w", encoding="utf-8") as file:
            _locks(file.fileno(), fcntl.LOCK_EX)
            json.dump(vars(spawn(file.fileno())), file)
        new.rename(self._path)


def _locks(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        return False
    return True
