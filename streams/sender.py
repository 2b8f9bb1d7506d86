"""The idempotent producer of a process: a send counts when all replicas have it.

Invariant: `send` returns only when every record is written. While the broker is away it waits and
tries again, for as long as it takes: nothing is dropped because Kafka is slow. What no time will mend
(a record that is too large, a topic that is closed to us) is raised at once.

A producer that gave up a numbered batch can write to its partition no more: the broker waits for the number that
will not come. aiokafka gives up after 40 s without a leader, so after each longer outage. Such a producer is replaced.

Copies for topics that are not ours are another matter: they are offered, not sent, and nobody waits.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    UnknownError,
    UnknownProducerId,
)

from ruvllm.agents.outbox import Emit
from ruvllm.streams.broker_away import pace_metadata
from ruvllm.streams.records import Record, outgoing
from ruvllm.streams.topics import MAX_RECORD_BYTES
from ruvllm.streams.topology import Names

log = structlog.get_logger(__name__)

pace_metadata()  # every process that meets Kafka sends

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
OFFER_TIMEOUT_S = 10.0
BROKEN = (OutOfOrderSequenceNumber, UnknownProducerId)
"""The producer's numbers are not those that the broker expects; nothing was written."""
PASSING = (KafkaTimeoutError, UnknownError, *BROKEN)
MOST_OFFERS = 1_000


class Sender:
    """Sends events of one process, named `source`, in the order given."""

    def __init__(
        self, bootstrap: str, names: Names, *, source: str, new_producer: Callable[..., Any] = AIOKafkaProducer
    ) -> None:
        self.names = names
        self.source = source
        self._new_producer: Callable[[], Any] = lambda: new_producer(
            bootstrap_servers=bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_request_size=MAX_RECORD_BYTES,
        )
        self._producer = self._new_producer()
        self._replacing = asyncio.Lock()
        self._replaced: set[asyncio.Task[None]] = set()
        self._copies = Copies(bootstrap, new_producer)

    async def start(self) -> None:
        await self._producer.start()

    async def stop(self) -> None:
        await self._copies.stop()
        await self._producer.stop()
        if self._replaced:
            await asyncio.wait(self._replaced)

    def offer(self, records: Iterable[Record]) -> None:
        """Offer copies to topics that are not ours; see `Copies`."""
        self._copies.offer(records)

    async def send(self, emits: Iterable[Emit], *, parent: Mapping[str, bytes] | None = None) -> None:
        """Send events; returns when all are written. Raises as `write`."""
        await self.write([outgoing(e, self.names, source=self.source, parent=parent) for e in emits])

    async def write(self, records: Iterable[Record]) -> None:
        """Write records; returns when all are written, however often that takes a new try.

        Raises KafkaError if one of them can never be written; those before it may have been.
        """
        waiting = list(records)
        pause = FIRST_PAUSE_S
        while waiting:
            producer = self._producer
            try:
                futures = [await put(producer, record) for record in waiting]
            except KafkaError as error:
                results: list[Any] = [error] * len(waiting)
            else:
                results = await asyncio.gather(*futures, return_exceptions=True)
            failed = [r for r, result in zip(waiting, results, strict=True) if isinstance(result, BaseException)]
            if failed:
                reason = next(r for r in results if isinstance(r, BaseException))
                errors = (result for result in results if isinstance(result, BaseException))
                if lasting := next((error for error in errors if not self._passes(error, producer)), None):
                    raise lasting
                log.warning("send_again", records=len(failed), topic=failed[0].topic, error=repr(reason))
                if any(isinstance(result, BROKEN) for result in results):
                    await self._replace(producer)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, LONGEST_PAUSE_S)
            waiting = failed

    def _passes(self, error: BaseException, producer: Any) -> bool:
        """Whether to try again: Kafka may take it later, or that producer was closed because it was replaced."""
        return may_pass(error) or (isinstance(error, ProducerClosed) and producer is not self._producer)

    async def _replace(self, broken: Any) -> None:
        """Go on with another producer, unless somebody has seen to it. While no broker answers, the next try will."""
        async with self._replacing:
            if self._producer is not broken:
                return
            new = self._new_producer()
            try:
                await new.start()
            except KafkaError as error:
                log.warning("producer_not_replaced", error=repr(error))
                await new.stop()
                return
            self._producer = new
        stopping = asyncio.create_task(_stop(broken))
        self._replaced.add(stopping)
        stopping.add_done_callback(self._replaced.discard)


async def _stop(broken: Any) -> None:
    """Let what it can still write be written, for a while."""
    with suppress(Exception):  # it is broken
        await asyncio.wait_for(broken.stop(), OFFER_TIMEOUT_S)


class Copies:
    """Copies for topics that are not ours, each offered once, in the background, for a bounded time.

    They have a producer of their own, started by the first of them, so that whatever such a topic does
    (it is gone, it refuses us, it is slow) holds up nothing else. What is not taken in time is given up
    with a line in the log. A copy that is taken may be there twice, if its first write was taken for lost.
    """

    def __init__(self, bootstrap: str, new_producer: Callable[..., Any]) -> None:
        self._bootstrap = bootstrap
        self._new_producer = new_producer
        self._producer: asyncio.Task[Any] | None = None
        self._offers: set[asyncio.Task[None]] = set()

    def offer(self, records: Iterable[Record]) -> None:
        for record in records:
            if len(self._offers) >= MOST_OFFERS:
                _given_up(record, f"{MOST_OFFERS} others wait")
                continue
            task = asyncio.create_task(self._offer(record))
            self._offers.add(task)
            task.add_done_callback(self._offers.discard)

    async def stop(self) -> None:
        if self._offers:
            await asyncio.wait(self._offers, timeout=OFFER_TIMEOUT_S)
        if self._producer is not None:
            with suppress(Exception):  # it has never come up
                producer = await asyncio.wait_for(self._producer, OFFER_TIMEOUT_S)
                await producer.stop()

    async def _offer(self, record: Record) -> None:
        if self._producer is None:
            self._producer = asyncio.create_task(self._started())
        try:
            async with asyncio.timeout(OFFER_TIMEOUT_S):
                await (await put(await asyncio.shield(self._producer), record))
        except Exception as error:  # of a stranger's topic: whatever it is, the copy is all that is lost
            _given_up(record, repr(error))

    async def _started(self) -> Any:
        producer = self._new_producer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            linger_ms=0,
            request_timeout_ms=int(OFFER_TIMEOUT_S * 1000),
            max_request_size=MAX_RECORD_BYTES,
        )
        try:
            await producer.start()
        except BaseException:
            self._producer = None  # the next copy tries again
            await producer.stop()
            raise
        return producer


def _given_up(record: Record, reason: str) -> None:
    request_id = record.headers.get("request-id", b"").decode()
    log.warning("copy_given_up", topic=record.topic, request_id=request_id, reason=reason)


def may_pass(error: BaseException) -> bool:
    """Whether Kafka may take the same record later."""
    return isinstance(error, KafkaError) and (error.retriable or isinstance(error, PASSING))


async def put(producer: Any, record: Record) -> Any:
    """Hand one record to a producer; the future it returns resolves to the record's metadata."""
    return await producer.send(
        record.topic,
        value=record.value,
        key=record.key,
        partition=record.partition,
        headers=list(record.headers.items()),
    )
