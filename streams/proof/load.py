"""The load of a run of faults: sessions of requests, with feedback, documents, and what real senders do wrong.

What was sent is kept here, so that the aftermath knows what to look for. Poison carries a header of its own name:
which places of the log it took is read from the log, for a send that was tried again may have taken two.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from aiokafka import AIOKafkaConsumer

from ruvllm.agents.outbox import Emit
from ruvllm.schemas.event import Event, session_key
from ruvllm.schemas.memory import PutDocument
from ruvllm.schemas.request import Ask, Constraints, Rate
from ruvllm.schemas.wire import encode
from ruvllm.streams.connection import connected
from ruvllm.streams.log_reader import listen_from_now
from ruvllm.streams.proof.schedule import Plan, Step, step
from ruvllm.streams.records import Record
from ruvllm.streams.sender import Sender
from ruvllm.streams.topology import Names, partition_of

Submission = tuple[str, str]
"""Session and request id."""

POISON_HEADER = "poison"
HUGE_BYTES = 10_485_760 - 400
"""Of a value that Kafka just takes, and whose dead letter it does not."""
LONGEST_GAP_S = 0.4
"""Between two requests while the schedule lags behind: what is armed fires only under load."""


@dataclass
class Sent:
    """What was sent: submissions in order, how often each, and which are poison that names a request."""

    order: list[Submission] = field(default_factory=list)
    times: defaultdict[Submission, int] = field(default_factory=lambda: defaultdict(int))
    refused: set[Submission] = field(default_factory=set)

    @property
    def every(self) -> set[Submission]:
        """All that are to have one terminal response."""
        return {*self.order, *self.refused}


def sessions_apart(count: int, partitions: int) -> list[str]:
    """Session names on as many partitions as there are, in turn."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < min(count, partitions):
        name = f"session-{number}"
        found.setdefault(partition_of(session_key("default", name), partitions), name)
        number += 1
    return list(found.values()) + [f"extra-{n}" for n in range(count - len(found))]


class Answers:
    """When each submission was answered first, by the monotonic clock."""

    def __init__(self, bootstrap: str, names: Names) -> None:
        self._bootstrap = bootstrap
        self._topic = names.topic("response.completed")
        self.at: dict[Submission, float] = {}

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """What is answered from here on is noted."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, group_id=None, isolation_level="read_committed")
        async with connected(self._bootstrap, consumer):
            await listen_from_now(consumer, self._topic)
            task = asyncio.create_task(self._listen(consumer))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait({task})

    async def wait_for(self, wanted: Set[Submission], limit_s: float) -> Set[Submission]:
        """Until all of them are answered, or nothing was for so long. Returns those that were not."""
        started = time.monotonic()
        while open_ := wanted - self.at.keys():
            if time.monotonic() > max((started, *self.at.values())) + limit_s:
                break
            await asyncio.sleep(0.1)
        return open_

    async def _listen(self, consumer: AIOKafkaConsumer) -> None:
        async for message in consumer:
            headers = dict(message.headers)
            session, request_id = (headers.get(n, b"").decode() for n in ("session", "request-id"))
            self.at.setdefault((session, request_id), time.monotonic())


class Load:
    """Sends as the plan says, in step with `share` (0 to 1), and listens for what is answered."""

    def __init__(self, bootstrap: str, names: Names, plan: Plan, documents: list[PutDocument]) -> None:
        self._bootstrap = bootstrap
        self._names = names
        self._plan = plan
        self._documents = list(documents)
        self._sessions = sessions_apart(plan.sessions, names.partitions)
        self._sender = Sender(bootstrap, names, source="faults")
        self._again: defaultdict[int, list[Step]] = defaultdict(list)
        self._at: dict[int, datetime] = {}
        self.sent = Sent()
        self.answers = Answers(bootstrap, names)

    async def run(self, share: Callable[[], float]) -> int:
        """Send and wait for the answers. Returns how many were not answered in time."""
        async with connected(self._bootstrap, self._sender), self.answers.listening():
            await self._send_all(share)
            return len(await self.answers.wait_for(self.sent.every, self._plan.limit_s))

    async def _send_all(self, share: Callable[[], float]) -> None:
        plan, number = self._plan, 0
        every = max(1, plan.requests // max(1, len(self._documents)))
        give_up_at = time.monotonic() + plan.limit_s
        while number < plan.requests or (share() < 1.0 and time.monotonic() < give_up_at):
            slack_until = time.monotonic() + LONGEST_GAP_S
            while number / plan.requests > share() + 0.02 and time.monotonic() < slack_until:
                await asyncio.sleep(0.05)
            await self._one(step(plan, number))
            if self._documents and number % every == 0:
                await self._send(self._documents.pop())
            number += 1
        for late in [s for steps in self._again.values() for s in steps]:
            await self._ask(late, skew_s=late.again_skew_s)
        await self._send(*self._documents)

    async def _one(self, now: Step) -> None:
        self._at[now.number] = datetime.now(UTC)
        if now.early:
            await self._rate(now)
        await self._ask(now, skew_s=now.skew_s)
        if now.rating is not None and not now.early:
            await self._rate(now)
        if now.poison is not None:
            await self._poison(now, "request.submitted", now.poison)
        if now.poison_feedback is not None:
            await self._poison(now, "feedback.submitted", now.poison_feedback)
        if now.again_after is not None:
            self._again[now.number + now.again_after].append(now)
        for again in self._again.pop(now.number, ()):
            await self._ask(again, skew_s=again.again_skew_s)

    def _submission(self, of: Step) -> Submission:
        return self._sessions[of.session], f"r{of.number:05d}"

    async def _ask(self, of: Step, *, skew_s: float) -> None:
        session, request_id = self._submission(of)
        if not self.sent.times[session, request_id]:
            self.sent.order.append((session, request_id))
        self.sent.times[session, request_id] += 1
        await self._send(
            Ask(
                time=self._at[of.number] + timedelta(seconds=skew_s),
                request_id=request_id,
                session=session,
                prompt=f"question {of.number} of {session}",
                constraints=Constraints(grounding="open"),
            )
        )

    async def _rate(self, of: Step) -> None:
        session, request_id = self._submission(of)
        at = self._at[of.number] + timedelta(seconds=-of.skew_s)
        rating = of.rating or 3
        await self._send(Rate(time=at, request_id=request_id, session=session, rating=rating))

    async def _poison(self, of: Step, topic: str, kind: str) -> None:
        name = f"{topic.partition('.')[0]}-{of.number:05d}"
        headers = {POISON_HEADER: name.encode()}
        value = poison(kind, name)
        if kind == "named":
            session = f"poison-{of.session}"
            headers |= {"session": session.encode(), "request-id": name.encode()}
            self.sent.refused.add((session, name))
        if kind == "too-long":
            self.sent.refused.add((f"poison-{name}", name))
        await self._sender.write([Record(self._names.topic(topic), None, name.encode(), value, headers)])

    async def _send(self, *events: Event) -> None:
        await self._sender.send([Emit(event) for event in events])


def poison(kind: str, name: str) -> bytes:
    """The value of a record that nobody can handle; `name` makes it the only one of its bytes."""
    now = datetime.now(UTC)
    if kind == "wrong-kind":
        return encode(PutDocument(time=now, document_id=name, title=name, content="in the wrong place"))
    if kind == "no-fields":
        return b'{"nothing": "' + name.encode() + b'"}'
    if kind == "too-long":
        return encode(Ask(time=now, request_id=name, session=f"poison-{name}", prompt="x" * 40_000))
    if kind == "huge":
        return name.encode() + b"\xff" * (HUGE_BYTES - len(name))
    return b"\xff\xfe\x00 " + name.encode()
