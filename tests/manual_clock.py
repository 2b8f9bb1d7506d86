"""A clock that moves when it is told to, in the place of the system's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

START = datetime(2031, 5, 17, 9, 0, tzinfo=UTC)


class ManualClock:
    """Stands still at `START` until `advance` is called."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> datetime:
        self._now += timedelta(seconds=seconds)
        return self._now
