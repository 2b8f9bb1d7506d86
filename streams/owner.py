"""The fenced owner of a partition: effects happen exactly once, whoever is killed when.

One transactional producer is named after group and partition. To start, an owner takes that name
(which fences its predecessor and ends its transaction), then reads the state records to their end,
then works. One transaction holds an event's outputs and the state record that says they were made.
So whatever a successor finds in the state has happened, and what it does not find has not.

Order within a step: handle first, then transact (a transaction that outlives its time-out would
kill the producer for good), then acknowledge. Any failure of a transaction, known or unknown, is
met in one way: drop producer and state, become owner anew, look at the state again. An owner whose
partition has gone to another process abandons its records; the other one gets them.

Outside of the transaction there are three things, each of which may happen again: what cannot be
handled is given up (dead letter and failure), an event that another partition's owner must see is
handed on to it, and copies for topics that are not ours (a user's `reply_to`) are offered to them.
The copy of a response goes out once the response is committed: it never tells what was not answered.
It is missing if the worker dies in that moment or if the foreign topic refuses it; the response in
our own topic is there in any case, and the same request id sent again brings its copy again.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

from ruvllm.agents.clock import Clock
from ruvllm.agents.outbox import Emit, Outbox
from ruvllm.errors import RuvllmError
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import Origin
from ruvllm.streams.fault_points import reach
from ruvllm.streams.fenced_producer import STEP_TIMEOUT_S, Effect, FencedProducer
from ruvllm.streams.guard import give_up, read, stage_events
from ruvllm.streams.log_reader import read_to_end
from ruvllm.streams.metrics import Metrics
from ruvllm.streams.records import Record
from ruvllm.streams.safeguards import is_off
from ruvllm.streams.sender import Sender
from ruvllm.streams.topology import Stage, topic

log = structlog.get_logger(__name__)

TICK_S = 0.2
QUEUE = 256
LONGEST_PAUSE_S = 5.0


class Keeper(Protocol):
    """An agent that keeps state: it returns effects, and is changed by its own records only."""

    async def handle(self, event: Event, origin: Origin) -> Outbox: ...

    def tick(self) -> Outbox: ...

    def apply(self, event: Event) -> None: ...

    def forget(self, record_key: str) -> None: ...


@dataclass(eq=False)
class Delivery:
    """A record with what to call when its effects are written, or when it is another's to handle."""

    record: Record
    acknowledge: Callable[[], Any]
    abandon: Callable[[], Any]


class Abandoned(Exception):
    """The partition belongs to another process now."""


class PartitionOwner:
    """The one writer of one partition's effects.

    `new_producer` and `read_records` are Kafka's; tests hand in those of a small Kafka in memory.
    """

    def __init__(
        self,
        stage: Stage,
        partition: int,
        make_keeper: Callable[[], Keeper],
        sender: Sender,
        bootstrap: str,
        clock: Clock,
        metrics: Metrics,
        *,
        is_mine: Callable[[], bool],
        new_producer: Callable[..., Any] = AIOKafkaProducer,
        read_records: Callable[..., AsyncIterator[Record]] = read_to_end,
    ) -> None:
        self.stage = stage
        self.partition = partition
        self._make_keeper = make_keeper
        self._sender = sender
        self._names = sender.names
        self._bootstrap = bootstrap
        self._clock = clock
        self._metrics = metrics
        self._seconds = metrics.seconds.labels(stage.name)
        self._done = metrics.handled.labels(stage.name, "done")
        self._is_mine = is_mine
        self._new_producer = new_producer
        self._read_records = read_records
        self._queue: asyncio.Queue[Delivery] = asyncio.Queue(QUEUE)
        self._kinds = stage_events(stage)
        self._keeper: Keeper | None = None
        self._producer: FencedProducer | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    # --- from outside -----------------------------------------------------------------------------

    def start(self, after: asyncio.Task[None] | None = None) -> None:
        """Begin to work, once `after` is done: a predecessor that still has to let go of the producer's name."""
        self._task = asyncio.create_task(self._run(after), name=f"{self.stage.name}-{self.partition}")

    async def submit(self, delivery: Delivery) -> None:
        """Queue a record; waits while the queue is full."""
        await self._queue.put(delivery)
        if self._stopping.is_set():  # it stopped while this one waited: nobody reads the queue any more
            self._abandon_queue()

    async def stop(self) -> None:
        """Finish the step under way, abandon the rest, leave the producer's name to the next owner."""
        self._stopping.set()
        if self._task is not None:
            _, late = await asyncio.wait({self._task}, timeout=STEP_TIMEOUT_S)
            for task in late:  # it handles or reads; a transaction is not cancelled by this
                task.cancel()
        self._abandon_queue()
        await self._drop()

    @property
    def ready(self) -> bool:
        """Whether the state has been read: this owner works."""
        return self._keeper is not None

    # --- the loop ---------------------------------------------------------------------------------

    async def _run(self, after: asyncio.Task[None] | None) -> None:
        batch: list[Delivery] = []
        failures = 0
        try:
            if after is not None:
                await asyncio.wait({after})
            while not self._stopping.is_set():
                try:
                    await self._become_owner()
                    batch = batch or await self._next_batch()
                    await self._step(batch, singly=failures > 0)
                    failures = 0
                except Abandoned:
                    self._abandon(batch)
                    batch = []
                    await self._pause(TICK_S)
                except Exception as error:  # fenced, timed out, outcome unknown: all alike
                    failures += 1
                    self._metrics.fenced.labels(self.stage.name).inc()
                    log.warning("owner_restarts", stage=self.stage.name, partition=self.partition, error=repr(error))
                    await self._drop()
                    await self._pause(min(0.1 * 2.0**failures, LONGEST_PAUSE_S) * random.uniform(0.5, 1.5))
        finally:
            self._abandon(batch)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _next_batch(self) -> list[Delivery]:
        """What has been queued: nothing after a quiet tick, so that deadlines are looked at."""
        try:
            batch = [await asyncio.wait_for(self._queue.get(), TICK_S)]
        except TimeoutError:
            return []
        while len(batch) < self.stage.batch and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    async def _step(self, batch: list[Delivery], *, singly: bool) -> None:
        """Handle a batch and the deadlines, transact once, acknowledge; one by one after a failure."""
        groups = [*([d] for d in batch), []] if singly else [list(batch)]
        for group in groups:
            await self._become_owner()  # a record that was given up may have cost the state
            await self._effect(group, with_deadlines=group is groups[-1])
            for delivery in group:
                batch.remove(delivery)
                delivery.acknowledge()

    async def _effect(self, group: list[Delivery], *, with_deadlines: bool) -> None:
        """Everything that a group causes, in one transaction, and what its handling made due."""
        assert self._keeper is not None
        effects: list[Effect] = []
        for delivery in group:
            started = time.perf_counter()
            try:
                effects.append((await self._handle(delivery.record), delivery.record))
            except RuvllmError as error:  # a verdict on this record
                await self._give_up(delivery.record, error)
            except Exception as error:
                if len(group) > 1:
                    raise  # the state may be half changed: read it anew, then go one by one
                await self._drop()
                await self._give_up(delivery.record, error)
                return
            self._seconds.observe(time.perf_counter() - started)
        handled = len(effects)
        if with_deadlines:
            effects.append((self._keeper.tick(), None))
        try:
            await self._commit(effects)
        except MessageSizeTooLargeError as error:
            if with_deadlines:
                raise  # whose effects are too large shows when each record stands alone
            await self._drop()
            await self._give_up(group[0].record, error)
            return
        self._done.inc(handled)

    async def _handle(self, record: Record) -> Outbox:
        """The effects of one record. One that another partitioner put here goes to where its state is."""
        assert self._keeper is not None
        event = read(record, self._kinds)
        if self._names.partition(event) == self.partition:
            return await self._keeper.handle(event, record.origin)
        await self._sender.send([Emit(event)], parent=record.headers)  # with its id: to see it twice is harmless
        return Outbox()

    async def _give_up(self, record: Record, error: BaseException) -> None:
        await give_up(record, error, self.stage, self._sender, self._clock, self._metrics)

    async def _commit(self, effects: Sequence[Effect]) -> None:
        if not any(outbox for outbox, _ in effects):
            return
        if not self._is_mine():
            await self._drop()
            raise Abandoned
        producer = self._producer
        assert producer is not None
        reach("handled")
        await producer.write(effects)
        reach("committed")
        copies = [(emit, cause) for outbox, cause in effects for emit in outbox.emits if emit.topic is not None]
        self._sender.offer(producer.record(emit, cause) for emit, cause in copies)

    # --- becoming and ceasing ---------------------------------------------------------------------

    async def _become_owner(self) -> None:
        if self._keeper is not None:
            return
        if not self._is_mine():
            raise Abandoned
        group = self._names.group(self.stage.name)
        name = f"{group}-{self.partition}" + (f"-{os.getpid()}" if is_off("fence") else "")
        self._producer = FencedProducer(name, self._bootstrap, self._names, self._sender.source, self._new_producer)
        await self._producer.start()
        keeper = self._make_keeper()
        state = self._names.topic(self.stage.state or "")
        async for record in self._read_records(self._bootstrap, state, [self.partition]):
            fold_state(keeper, self.stage, record)
        self._keeper = keeper

    async def _drop(self) -> None:
        producer, self._producer, self._keeper = self._producer, None, None
        if producer is not None:
            await producer.stop()

    def _abandon(self, batch: list[Delivery]) -> None:
        for delivery in batch:
            delivery.abandon()

    def _abandon_queue(self) -> None:
        while not self._queue.empty():
            self._queue.get_nowait().abandon()


def fold_state(keeper: Keeper, stage: Stage, record: Record) -> None:
    """Fold one state record, or the tombstone of one, into a keeper."""
    if record.value is None:
        keeper.forget((record.key or b"").decode("utf-8", "surrogatepass"))
    else:
        keeper.apply(read(record, topic(stage.state or "").events))
