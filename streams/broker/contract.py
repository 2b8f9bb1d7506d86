"""What every broker can do, wherever it runs: install, start, stop, say how it is, show its log.

All calls block until done: a program with an event loop calls them in a thread. `start` and `stop` are
idempotent, and `start` returns only when the broker answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class BrokerStatus:
    """How a broker is; what its kind cannot know is None."""

    kind: str
    bootstrap: str
    running: bool
    pid: int | None = None
    uptime_s: float | None = None
    data_bytes: int | None = None


class Broker(Protocol):
    """One Kafka broker that this machine uses."""

    @property
    def kind(self) -> str:
        """`external`, `docker` or `local`."""
        ...

    @property
    def bootstrap(self) -> str:
        """Where clients connect, `host:port` or several with commas."""
        ...

    def install(self) -> None:
        """Bring what `start` needs to this machine; nothing to do when it is here."""
        ...

    def start(self) -> BrokerStatus:
        """Run it and wait until it answers. Raises BrokerUnavailable, MissingRequirement."""
        ...

    def stop(self) -> None:
        """End it in order; its data stays. Nothing to do when it does not run."""
        ...

    def status(self) -> BrokerStatus: ...

    def logs(self, lines: int) -> list[str]:
        """The last lines of its log, oldest first; empty when there is none."""
        ...
