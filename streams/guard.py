"""The one wrapper of every stage: decode, handle, try again, send; else the dead letter and a failure.

Invariant: `handle` returns only when the record's effects are written: its outputs, or its bytes in
the dead-letter topic and, if its request can be named, the failure that becomes its terminal error.
It raises only if not even the dead letter can ever be written; the process must end then, with the
record undone, so no record is skipped and none is lost.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import stamina
import structlog
from aiokafka.errors import MessageSizeTooLargeError

from ruvllm.agents.clock import Clock
from ruvllm.agents.outbox import Emit
from ruvllm.errors import InvalidRequest, RuvllmError
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import InFlight, Origin
from ruvllm.schemas.memory import DocumentCommand
from ruvllm.schemas.wire import E, decode, decode_all, kind_of
from ruvllm.streams.fault_points import reach
from ruvllm.streams.metrics import Metrics
from ruvllm.streams.records import Record, cut_short, dead_letter, failure_of
from ruvllm.streams.topology import Names, Stage, topic

log = structlog.get_logger(__name__)

TOO_LARGE = "Send less at once: fewer or shorter messages, tags and stop words."

Handler = Callable[[Event, Origin], Awaitable[Event | Sequence[Event]]]
"""A stage's function, its models bound: one event and where it came in, to the next event or events."""


class Sending(Protocol):
    """What writes: the producer of a process, or a serial log."""

    @property
    def names(self) -> Names: ...

    async def send(self, emits: Iterable[Emit], *, parent: Mapping[str, bytes] | None = None) -> None:
        """Send events; returns when all are written."""
        ...

    async def write(self, records: Iterable[Record]) -> None: ...


@dataclass(frozen=True)
class Retry:
    """Attempts of a handler whose error may pass; waits grow from `first_s` to `longest_s`, with jitter."""

    attempts: int = 3
    first_s: float = 0.2
    longest_s: float = 5.0


def kinds_by_topic(stage: Stage, names: Names) -> dict[str, tuple[type[Event], ...]]:
    """Kafka topic -> what travels in it: where that is one kind, a body need not name it."""
    return {kafka: topic(name).events for name in stage.consumes for kafka in names.topics(name)}


def stage_events(stage: Stage) -> tuple[type[Event], ...]:
    """Every kind of event that a stage consumes."""
    return tuple(event for name in stage.consumes for event in topic(name).events)


def read(record: Record, kinds: tuple[type[Event], ...]) -> Event:
    """The event in a record; raises InvalidRequest's kinds only."""
    event = decode(kinds, record.value, kind_of(record.headers))
    return event.found_at(record.origin) if isinstance(event, DocumentCommand) else event


def read_all(records: Sequence[Record], kinds: tuple[type[E], ...]) -> list[E | InvalidRequest]:
    """What `read` makes of each record, an error in the place of its event; quicker. Not for commands on documents."""
    return decode_all(kinds, [(record.value, kind_of(record.headers)) for record in records])


class Guard:
    """The wrapper of one stage that keeps no state of its own."""

    def __init__(
        self, stage: Stage, handler: Handler, sender: Sending, clock: Clock, metrics: Metrics, retry: Retry
    ) -> None:
        self.stage = stage
        self._handler = handler
        self._sender = sender
        self._clock = clock
        self._metrics = metrics
        self._seconds = metrics.seconds.labels(stage.name)
        self._done = metrics.handled.labels(stage.name, "done")
        self._retry = retry
        self._kinds = kinds_by_topic(stage, sender.names)

    async def handle(self, record: Record) -> None:
        """Everything that one record causes. See the module's invariant."""
        tries = 0
        try:
            event = read(record, self._kinds[record.topic])
            async for attempt in self._attempts():
                with attempt:
                    tries = attempt.num
                    outputs = await self._once(event, record, tries)
            reach("worked")
            await self._sender.send([Emit(e) for e in outputs], parent=record.headers)
        except Exception as error:  # the last place where any failure of a stage can be met
            await give_up(record, error, self.stage, self._sender, self._clock, self._metrics, attempt=max(1, tries))
            return
        reach("passed")
        self._done.inc()

    def _attempts(self) -> AsyncIterator[stamina.Attempt]:
        return aiter(
            stamina.retry_context(
                on=may_pass,
                attempts=self._retry.attempts,
                timeout=None,
                wait_initial=self._retry.first_s,
                wait_max=self._retry.longest_s,
                wait_jitter=self._retry.first_s,
            )
        )

    async def _once(self, event: Event, record: Record, attempt: int) -> Sequence[Event]:
        if attempt > 1:
            self._metrics.retries.labels(self.stage.name).inc()
        started = time.perf_counter()
        result = await self._handler(event, record.origin)
        elapsed_s = time.perf_counter() - started
        self._seconds.observe(elapsed_s)
        outputs = [result] if isinstance(result, Event) else list(result)
        return [timed(e, self.stage.name, elapsed_s) for e in outputs]


def may_pass(error: Exception) -> bool:
    """Whether trying again makes sense: our own errors are verdicts, others may be weather."""
    return not isinstance(error, RuvllmError)


def timed(event: Event, stage: str, elapsed_s: float) -> Event:
    """The event with its stage's own time in milliseconds."""
    if not isinstance(event, InFlight):
        return event
    return event.model_copy(update={"latency_ms": {**event.latency_ms, stage: round(elapsed_s * 1000, 3)}})


async def give_up(
    record: Record,
    error: BaseException,
    stage: Stage,
    sender: Sending,
    clock: Clock,
    metrics: Metrics,
    *,
    attempt: int = 1,
) -> None:
    """Keep the bytes of what could not be handled, and tell the desk if a request waits for it.

    `attempt`: how many were made.
    """
    if isinstance(error, MessageSizeTooLargeError):
        error = InvalidRequest(f"what follows from it is too large for one record: {error}", hint=TOO_LARGE)
    if not isinstance(error, RuvllmError):
        log.error("stage_failed", stage=stage.name, topic=record.topic, offset=record.offset, exc_info=error)
    kept = not isinstance(error, RuvllmError) or error.dead_letter
    code = error.code if isinstance(error, RuvllmError) else "internal_error"
    if kept:
        letter = dead_letter(record, error, stage=stage.name, attempt=attempt, names=sender.names)
        try:
            await sender.write([letter])
        except MessageSizeTooLargeError:  # a letter is larger than its record by what happened to it
            await sender.write([cut_short(letter, record)])
        metrics.dead_letters.labels(stage.name, code).inc()
    failure = failure_of(record, error, stage=stage.name, time=clock.now(), names=sender.names)
    if failure is not None:
        await sender.send([Emit(failure)], parent=record.headers)
    log.info(
        "gave_up", stage=stage.name, code=code, request_id=failure.request_id if failure else None, error=str(error)
    )
    metrics.handled.labels(stage.name, "failed").inc()
