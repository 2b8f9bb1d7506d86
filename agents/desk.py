"""The desk: lets requests in, one in flight a session, and is the only writer of terminal responses.

Invariant: every submission of a request id gets exactly one terminal response. What has been
answered is state (`desk_state.py`); the state is a fold of the records that the desk itself returns,
so a new owner of the partition that reads them to their end knows all that its predecessor had done.

One `Desk` holds the sessions of one partition. It changes only by `apply` and `forget`, and applies
what it returns at once: if those records cannot be written, the desk is thrown away and read anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ruvllm.agents.clock import Clock
from ruvllm.agents.desk_state import DeskState
from ruvllm.agents.ending import interaction_of, response_to, router_state_after, submission_of
from ruvllm.agents.outbox import Outbox
from ruvllm.errors import DeadlineExceeded, InvalidRequest, RuvllmError, SessionQueueFull
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import (
    Admitted,
    AnsweredState,
    Failed,
    Generated,
    InFlight,
    Origin,
    SessionState,
    Turn,
    interaction_id,
)
from ruvllm.schemas.request import Fault, Message

ORIGINS_KEPT = 16


@dataclass(frozen=True)
class DeskRules:
    """Bounds of one partition's state: turns waiting in a session, turns of history, sessions, answers kept."""

    waiting_turns: int = 32
    history_turns: int = 8
    history_chars: int = 8_000
    sessions_kept: int = 5_000
    answers_kept: int = 20_000


class Desk:
    """The sessions of one partition. See the module's invariant."""

    def __init__(self, rules: DeskRules, clock: Clock) -> None:
        self._rules = rules
        self._clock = clock
        self._state = DeskState()

    def apply(self, event: Event) -> None:
        """Fold one of the desk's own records into its state."""
        self._state.apply(event)

    def forget(self, record_key: str) -> None:
        """Fold a tombstone."""
        self._state.forget(record_key)

    # --- what happens -----------------------------------------------------------------------------

    async def handle(self, event: Event, _: Origin | None = None) -> Outbox:
        """The effects of one event: of a turn, an answer or a failure."""
        if isinstance(event, Turn):
            return self._turn(event)
        if isinstance(event, Generated):
            return self._generated(event)
        if isinstance(event, Failed):
            return self._failed(event)
        raise InvalidRequest(f"the desk has no use for {event.kind}")

    def tick(self) -> Outbox:
        """Answer all whose deadline has passed, whether or not anybody serves their tier."""
        now = self._clock.now()
        out = Outbox()
        for state in self._state.busy():
            flight = state.in_flight
            if flight is not None and flight.deadline <= now:
                error = DeadlineExceeded(f"no answer by {flight.deadline.isoformat()}")
                self._finish(out, state, flight, fault=_fault(error, "desk"))
            elif any(t.deadline <= now for t in state.waiting):
                self._expire_waiting(out, state, now)
        return out

    def _turn(self, turn: Turn) -> Outbox:
        out = Outbox()
        origin = turn.request.origin
        if (known := self._state.answer(turn)) is not None:
            self._repeat(out, known, origin, turn.request.reply_to)
            return out
        state = self._session(turn)
        if self._is_open(state, turn.request_id):
            self._join(out, state, turn.request_id, origin)
        elif state.in_flight is None:
            self._save(out, state, in_flight=self._admit(out, state, turn))
        elif len(state.waiting) >= self._rules.waiting_turns:
            error = SessionQueueFull(f"session {turn.session!r} has {len(state.waiting)} requests waiting")
            self._respond(out, state, turn, fault=_fault(error, "desk"))
        else:
            self._save(out, state, waiting=(*state.waiting, turn))
        return out

    def _generated(self, event: Generated) -> Outbox:
        out = Outbox()
        state = self._session(event)
        flight = state.in_flight
        if flight is None or flight.interaction_id != event.interaction_id:
            return out  # late or redelivered: its request is answered
        self._finish(out, state, flight, answer=event)
        return out

    def _failed(self, event: Failed) -> Outbox:
        out = Outbox()
        state = self._session(event)
        flight = state.in_flight
        refused = event.origin  # intake refused this submission; without one, a stage gave up
        if (known := self._state.answer(event)) is not None:
            if refused is not None:
                self._repeat(out, known, refused, event.reply_to)
        elif refused is None and flight is not None and flight.request_id == event.request_id:
            self._finish(out, state, flight, fault=event.fault)
        elif self._is_open(state, event.request_id):
            if refused is not None:
                self._join(out, state, event.request_id, refused)
        else:
            self._respond(out, state, event, fault=event.fault)
        return out

    # --- steps ------------------------------------------------------------------------------------

    def _session(self, event: Turn | InFlight | Failed) -> SessionState:
        return self._state.session(event) or SessionState(
            tenant=event.tenant, session=event.session, request_id=event.request_id, time=self._clock.now()
        )

    @staticmethod
    def _is_open(state: SessionState, request_id: str) -> bool:
        if state.in_flight is not None and state.in_flight.request_id == request_id:
            return True
        return any(t.request_id == request_id for t in state.waiting)

    def _admit(self, out: Outbox, state: SessionState, turn: Turn) -> Admitted:
        given = turn.request.messages[:-1]
        admitted = Admitted(
            tenant=turn.tenant,
            session=turn.session,
            request_id=turn.request_id,
            time=self._clock.now(),
            interaction_id=interaction_id(turn.tenant, turn.session, turn.request_id),
            request=turn.request,
            history=given or state.history,  # a client that brings its own conversation is taken at its word
            deadline=turn.deadline,
            router_state=state.router_state,
        )
        out.add(admitted)
        return admitted

    def _finish(
        self,
        out: Outbox,
        state: SessionState,
        flight: Admitted,
        *,
        answer: Generated | None = None,
        fault: Fault | None = None,
    ) -> None:
        """Answer what is in flight and admit the next turn of its session."""
        self._respond(out, state, flight, answer=answer, fault=fault)
        out.add(interaction_of(flight, answer, fault, self._clock.now()))
        changes: dict[str, object] = {"in_flight": None, "answered": state.answered + 1}
        if answer is not None:
            changes["history"] = self._longer_history(state.history, answer)
            changes["router_state"] = router_state_after(state.router_state, answer)
        state = state.model_copy(update=changes)
        now = self._clock.now()
        while state.waiting:
            turn, state = state.waiting[0], state.model_copy(update={"waiting": state.waiting[1:]})
            if turn.deadline > now:
                state = state.model_copy(update={"in_flight": self._admit(out, state, turn)})
                break
            self._respond(out, state, turn, fault=_fault(_expired(turn), "desk"))
        self._save(out, state)

    def _expire_waiting(self, out: Outbox, state: SessionState, now: datetime) -> None:
        for turn in state.waiting:
            if turn.deadline <= now:
                self._respond(out, state, turn, fault=_fault(_expired(turn), "desk"))
        self._save(out, state, waiting=tuple(t for t in state.waiting if t.deadline > now))

    def _respond(
        self,
        out: Outbox,
        state: SessionState,
        event: Turn | Admitted | Failed,
        *,
        answer: Generated | None = None,
        fault: Fault | None = None,
    ) -> None:
        """The terminal response, and the record that it was given."""
        origin, reply_to = submission_of(event)
        response = response_to(event, answer, fault, self._clock.now())
        out.add(response)
        if reply_to:
            out.add(response, topic=reply_to)
        further = state.repeats.get(event.request_id, ())
        self._remember(
            out,
            AnsweredState(
                tenant=event.tenant,
                session=event.session,
                request_id=event.request_id,
                time=response.time,
                origins=((origin,) if origin else ()) + further,
                response=response,
            ),
        )

    def _repeat(self, out: Outbox, known: AnsweredState, origin: Origin, reply_to: str | None) -> None:
        """The id is answered: a redelivery needs nothing, a further submission the stored answer."""
        if origin in known.origins:
            return
        response = known.response.model_copy(update={"repeated": True, "time": self._clock.now()})
        out.add(response)
        if reply_to:
            out.add(response, topic=reply_to)
        kept = (*known.origins, origin)[-ORIGINS_KEPT:]
        self._remember(out, known.model_copy(update={"origins": kept}))

    def _remember(self, out: Outbox, answered: AnsweredState) -> None:
        self._note(out, answered)

    def _join(self, out: Outbox, state: SessionState, request_id: str, origin: Origin) -> None:
        """The id is in flight or waiting: its one answer will serve this submission too."""
        known = state.repeats.get(request_id, ())
        first = [t.request.origin for t in state.waiting if t.request_id == request_id]
        if state.in_flight is not None and state.in_flight.request_id == request_id:
            first.append(state.in_flight.request.origin)
        if origin in known or origin in first:
            return
        self._save(out, state, repeats={**state.repeats, request_id: (*known, origin)[-ORIGINS_KEPT:]})

    def _save(self, out: Outbox, state: SessionState, **changes: object) -> None:
        state = state.model_copy(update={**changes, "time": self._clock.now()})
        if state.repeats:  # those of answered ids are kept with the answer
            open_ids = {k: v for k, v in state.repeats.items() if self._is_open(state, k)}
            state = state.model_copy(update={"repeats": open_ids})
        self._note(out, state)

    def _note(self, out: Outbox, state: SessionState | AnsweredState) -> None:
        """Make a record of what is known now, and tombstones of what it pushes out."""
        out.add(state)
        self.apply(state)
        for oldest in list(self._state.too_many(self._rules.sessions_kept, self._rules.answers_kept)):
            out.add(oldest, tombstone=True)
            self.forget(oldest.record_key)

    def _longer_history(self, history: tuple[Message, ...], answer: Generated) -> tuple[Message, ...]:
        grown = (
            *history,
            Message(role="user", content=answer.request.question),
            Message(role="assistant", content=answer.generation.text),
        )
        grown = grown[max(0, len(grown) - 2 * self._rules.history_turns) :]
        while len(grown) > 2 and sum(len(m.content) for m in grown) > self._rules.history_chars:
            grown = grown[2:]
        return grown


def _fault(error: RuvllmError, stage: str) -> Fault:
    return Fault(code=error.code, message=error.message, hint=error.hint, stage=stage)


def _expired(turn: Turn) -> DeadlineExceeded:
    return DeadlineExceeded(f"still waiting for earlier turns of its session at {turn.deadline.isoformat()}")
