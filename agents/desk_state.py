"""What the desk of one partition knows: its sessions and what it has answered, a fold of its own records.

Invariant: it changes by `apply` and `forget` only, so reading the records again from the beginning gives
the same state. Both kinds are bounded: beyond it the one that was longest untouched is forgotten, by a
tombstone that the desk writes; never a session in which something is open.
"""

from __future__ import annotations

from collections.abc import Iterator

from ruvllm.agents.kept import Kept
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import AnsweredState, Failed, InFlight, SessionState, Turn


class DeskState:
    """Sessions and answers of one partition, the longest untouched first."""

    def __init__(self) -> None:
        self._sessions: Kept[SessionState] = Kept()
        self._answered: Kept[AnsweredState] = Kept()
        self._busy: set[str] = set()  # sessions with a request in flight: the only ones with deadlines

    def apply(self, event: Event) -> None:
        """Fold one record. Other events change nothing."""
        if isinstance(event, SessionState):
            self._sessions.apply(event)
            if event.in_flight is None:
                self._busy.discard(event.record_key)
            else:
                self._busy.add(event.record_key)
        elif isinstance(event, AnsweredState):
            self._answered.apply(event)

    def forget(self, record_key: str) -> None:
        """Fold a tombstone."""
        self._answered.forget(record_key)
        self._sessions.forget(record_key)
        self._busy.discard(record_key)

    def session(self, event: Turn | InFlight | Failed) -> SessionState | None:
        return self._sessions.get(event.partition_key)

    def answer(self, event: Turn | Failed) -> AnsweredState | None:
        """What the request of an event was answered with."""
        return self._answered.get(event.request_key)

    def busy(self) -> list[SessionState]:
        """The sessions with a request in flight."""
        return [state for key in self._busy if (state := self._sessions.get(key)) is not None]

    def too_many(self, sessions_kept: int, answers_kept: int) -> Iterator[SessionState | AnsweredState]:
        """What is to be forgotten, so that no more than this is kept."""
        answers = iter(self._answered.values())
        for _ in range(len(self._answered) - answers_kept):
            yield next(answers)
        surplus = len(self._sessions) - sessions_kept
        idle = (s for key, s in self._sessions.items() if key not in self._busy) if surplus > 0 else iter(())
        for _, state in zip(range(surplus), idle, strict=False):
            yield state
