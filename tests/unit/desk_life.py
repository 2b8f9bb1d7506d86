"""A desk with its clock, and the events that it meets, for tests of one desk and of its histories."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from ruvllm.agents.desk import Desk, DeskRules
from ruvllm.agents.outbox import Emit, Outbox
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import Admitted, AnsweredState, Failed, Generated, Origin, Request, SessionState, Turn
from ruvllm.schemas.request import Fault, Message, Response
from tests.manual_clock import ManualClock
from tests.unit.sample_events import GENERATION, RETRIEVAL, ROUTE

TOPIC = "ruvllm.request.submitted.v1"


def origin(offset: int) -> Origin:
    return Origin(topic=TOPIC, partition=0, offset=offset)


class DeskLife:
    """One desk; every record that it has had written, in order."""

    def __init__(self, rules: DeskRules | None = None) -> None:
        self.rules = rules or DeskRules()
        self.clock = ManualClock()
        self.desk = Desk(self.rules, self.clock)
        self.written: list[Emit] = []
        self._offsets = iter(range(10**9))

    # --- what comes in ----------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """How many sessions have a request in flight."""
        return len(self.desk._state.busy())

    def turn(self, request_id: str, session: str = "tour", *, within_s: float = 60, **request: object) -> Turn:
        """A new submission: each has an origin of its own."""
        question = Message(role="user", content=f"What of {request_id}?")
        return Turn(
            session=session,
            request_id=request_id,
            time=self.clock.now(),
            deadline=self.clock.now() + timedelta(seconds=within_s),
            request=Request.model_validate(
                {
                    "messages": (question,),
                    "submitted_at": self.clock.now(),
                    "origin": origin(next(self._offsets)),
                    **request,
                }
            ),
        )

    def refusal(self, request_id: str, session: str = "tour", *, reply_to: str | None = None) -> Failed:
        """Intake's refusal of a new submission."""
        return self.failure(request_id, session, origin=origin(next(self._offsets)), reply_to=reply_to)

    def failure(self, request_id: str, session: str = "tour", **facts: object) -> Failed:
        """A stage's failure: it has no origin."""
        fault = Fault(code="model_crashed", message="it died twice", hint="look", stage="generate")
        return Failed.model_validate(
            {"session": session, "request_id": request_id, "time": self.clock.now(), "fault": fault, **facts}
        )

    def answer(self, admitted: Admitted, text: str = "Osk.", **generation: object) -> Generated:
        """What the later stages made of an admitted request."""
        return admitted.followed_by(
            Generated,
            time=self.clock.now(),
            retrieval=RETRIEVAL,
            route=ROUTE,
            generation=GENERATION.model_copy(update={"text": text, **generation}),
        )

    # --- what happens -----------------------------------------------------------------------------

    def meet(self, event: Event) -> list[Event]:
        """Handle an event and write what comes of it."""
        return self._write(asyncio.run(self.desk.handle(event)))

    def tick(self) -> list[Event]:
        return self._write(self.desk.tick())

    def restart(self) -> None:
        """A new owner: a desk folded from what was written."""
        self.desk = self.refolded()

    def lose(self, event: Event) -> None:
        """The owner handles an event and dies before its records are written."""
        asyncio.run(self.desk.handle(event))
        self.restart()

    def refolded(self) -> Desk:
        desk = Desk(self.rules, self.clock)
        for emit in self.written:
            if emit.tombstone:
                desk.forget(emit.event.record_key)
            elif isinstance(emit.event, SessionState | AnsweredState):
                desk.apply(emit.event)
        return desk

    def _write(self, outbox: Outbox) -> list[Event]:
        self.written += outbox.emits
        return [emit.event for emit in outbox.emits]


def asked(life: DeskLife, *ids: str, session: str = "tour", **facts: Any) -> list[Admitted]:
    """Turns of a session, one after the other; what was admitted of them."""
    return [a for i in ids for a in admitted(life.meet(life.turn(i, session, **facts)))]


def admitted(events: Iterable[Event]) -> list[Admitted]:
    return [e for e in events if isinstance(e, Admitted)]


def responses(events: Iterable[Event]) -> list[Response]:
    return [e for e in events if isinstance(e, Response)]


def told(events: Iterable[Event]) -> list[tuple[str, str]]:
    """Request id and text or error code of each response."""
    return [(r.request_id, r.error.code if r.error else r.text) for r in responses(events)]


def state_of(desk: Desk) -> object:
    """All that a desk knows, to be compared."""
    known = desk._state
    return list(known._sessions.items()), list(known._answered.items()), known._busy
