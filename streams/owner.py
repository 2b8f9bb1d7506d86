"""The fenced owner of a partition: effects happen exactly once, whoever is killed when.

One transactional producer is named after group and partition. To start, an owner takes that name
(which fences its predecessor and ends its transaction), then reads the state records to their end,
then works. One transaction holds an event's outputs and the state record that says they were made.
So whatever a successor finds in the state has happened, and what it does not find has not.

Order within a step: handle first, then transact (a transaction that outlives its time-out would
kill the producer for good), then acknowledge. Any failure of a transaction, known or unknown, is
met in one way: drop producer and state, become owner anew, look at the state again. An owner whose
partition has gone to another process abandons its records; the other one gets them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.producer import sender as aiokafka_sender

from ruvllm.agents.clock import Clock
from ruvllm.agents.outbox import Emit, Outbox
from ruvllm.errors import RuvllmError
from ruvllm.schemas.event import Event
from ruvllm.streams.fault_points import fault_armed, reach
from ruvllm.streams.guard import give_up, read, stage_events
from ruvllm.streams.log_reader import read_to_end
from ruvllm.streams.metrics import Metrics
from ruvllm.streams.records import Record, outgoing
from ruvllm.streams.sender import Sender, put
from ruvllm.streams.topics import MAX_RECORD_BYTES
from ruvllm.streams.topology import Stage, topic

log = structlog.get_logger(__name__)

# aiokafka waits this long when a transaction starts while the last one's end is still being written;
# its 20 ms make back-to-back transactions take 24 ms instead of 4.
aiokafka_sender.BACKOFF_OVERRIDE = 0.002

TICK_S = 0.2
BATCH = 64
QUEUE = 256
TRANSACTION_TIMEOUT_S = 60.0
STEP_TIMEOUT_S = 30.0
LONGEST_PAUSE_S = 5.0


class Keeper(Protocol):
    """An agent that keeps state: it returns effects, and is changed by its own records only."""

    async def handle(self, event: Event) -> Outbox: ...

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
    """The one writer of one partition's effects."""

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
        self._queue: asyncio.Queue[Delivery] = asyncio.Queue(QUEUE)
        self._kinds = stage_events(stage)
        self._keeper: Keeper | None = None
        self._producer: AIOKafkaProducer | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    # --- from outside -----------------------------------------------------------------------------

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"{self.stage.name}-{self.partition}")

    async def submit(self, delivery: Delivery) -> None:
        """Queue a record; waits while the queue is full."""
        await self._queue.put(delivery)

    async def stop(self) -> None:
        """Finish the step under way, abandon the rest, leave the producer's name to the next owner."""
        self._stopping = True  # never cancel: a producer must not be stopped under a transaction
        if self._task is not None:
            _, late = await asyncio.wait({self._task}, timeout=STEP_TIMEOUT_S)
            for task in late:
                task.cancel()
        self._abandon_queue()
        await self._drop()

    @property
    def ready(self) -> bool:
        """Whether the state has been read: this owner works."""
        return self._keeper is not None

    # --- the loop ---------------------------------------------------------------------------------

    async def _run(self) -> None:
        batch: list[Delivery] = []
        failures = 0
        try:
            while not self._stopping:
                try:
                    await self._become_owner()
                    batch = batch or await self._next_batch()
                    await self._step(batch, singly=failures > 0)
                    failures = 0
                    batch = []
                except Abandoned:
                    self._abandon(batch)
                    batch = []
                    await asyncio.sleep(TICK_S)
                except Exception as error:  # fenced, timed out, outcome unknown: all alike
                    failures += 1
                    self._metrics.fenced.labels(self.stage.name).inc()
                    log.warning("owner_restarts", stage=self.stage.name, partition=self.partition, error=repr(error))
                    await self._drop()
                    await asyncio.sleep(min(0.1 * 2.0**failures, LONGEST_PAUSE_S) * random.uniform(0.5, 1.5))
        finally:
            self._abandon(batch)

    async def _next_batch(self) -> list[Delivery]:
        """What has been queued: nothing after a quiet tick, so that deadlines are looked at."""
        try:
            batch = [await asyncio.wait_for(self._queue.get(), TICK_S)]
        except TimeoutError:
            return []
        while len(batch) < BATCH and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    async def _step(self, batch: list[Delivery], *, singly: bool) -> None:
        """Handle a batch and the deadlines, transact once, acknowledge; one by one after a failure."""
        for group in [[d] for d in batch] if singly else [list(batch)]:
            await self._effect(group)
            for delivery in group:
                batch.remove(delivery)
                delivery.acknowledge()

    async def _effect(self, group: list[Delivery]) -> None:
        """Everything that a group causes, in one transaction, and what its handling made due."""
        assert self._keeper is not None
        effects: list[tuple[Outbox, Record | None]] = []
        for delivery in group:
            started = time.perf_counter()
            try:
                event = read(delivery.record, self._kinds)
                effects.append((await self._keeper.handle(event), delivery.record))
            except RuvllmError as error:  # a verdict on this record
                await self._give_up(delivery.record, error)
            except Exception as error:
                if len(group) > 1:
                    raise  # the state may be half changed: read it anew, then go one by one
                await self._drop()
                await self._give_up(delivery.record, error)
                return
            self._seconds.observe(time.perf_counter() - started)
        effects.append((self._keeper.tick(), None))
        await self._commit(effects)
        self._done.inc(len(group))

    async def _give_up(self, record: Record, error: BaseException) -> None:
        await give_up(record, error, self.stage, self._sender, self._clock, self._metrics)

    async def _commit(self, effects: Sequence[tuple[Outbox, Record | None]]) -> None:
        if any(outbox for outbox, _ in effects):
            if not self._is_mine():
                await self._drop()
                raise Abandoned
            reach("handled")
            step = asyncio.create_task(self._transaction(effects))
            done, _ = await asyncio.wait({step}, timeout=STEP_TIMEOUT_S)
            if not done:
                step.cancel()
                raise TimeoutError(f"a transaction took longer than {STEP_TIMEOUT_S} s")
            step.result()
            reach("committed")

    async def _transaction(self, effects: Sequence[tuple[Outbox, Record | None]]) -> None:
        producer = self._producer
        assert producer is not None
        await producer.begin_transaction()
        for outbox, cause in effects:
            parent = cause.headers if cause else None
            sent = [(emit, await put(producer, self._record(emit, parent))) for emit in outbox.emits]
            if outbox.receipt is not None:
                offsets: dict[str, int] = {}
                for emit, future in sent:
                    if emit.event.topic == "memory.changed":
                        written = await future
                        offsets[str(written.partition)] = written.offset + 1
                await put(producer, self._record(Emit(outbox.receipt(offsets)), parent))
        if fault_armed():
            await producer.flush()  # so that the records are really there when the process dies
            reach("sent")
        await producer.commit_transaction()

    def _record(self, emit: Emit, parent: Mapping[str, bytes] | None) -> Record:
        return outgoing(emit, self._names, source=self._sender.source, parent=parent)

    # --- becoming and ceasing ---------------------------------------------------------------------

    async def _become_owner(self) -> None:
        if self._keeper is not None:
            return
        if not self._is_mine():
            raise Abandoned
        group = self._names.group(self.stage.name)
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            transactional_id=f"{group}-{self.partition}",
            transaction_timeout_ms=int(TRANSACTION_TIMEOUT_S * 1000),
            acks="all",
            linger_ms=0,
            max_request_size=MAX_RECORD_BYTES,
        )
        await asyncio.wait_for(self._producer.start(), STEP_TIMEOUT_S)  # fences, and ends the old transaction
        keeper = self._make_keeper()
        await read_state(keeper, self.stage, self._names.topic(self.stage.state or ""), self.partition, self._bootstrap)
        self._keeper = keeper

    async def _drop(self) -> None:
        producer, self._producer, self._keeper = self._producer, None, None
        if producer is not None:
            try:
                await asyncio.wait_for(producer.stop(), 3)
            except Exception as error:  # it was broken already; its name is fenced by the next owner
                log.info("producer_stop_failed", stage=self.stage.name, partition=self.partition, error=repr(error))

    def _abandon(self, batch: list[Delivery]) -> None:
        for delivery in batch:
            delivery.abandon()

    def _abandon_queue(self) -> None:
        while not self._queue.empty():
            self._queue.get_nowait().abandon()


async def read_state(keeper: Keeper, stage: Stage, kafka_topic: str, partition: int, bootstrap: str) -> None:
    """Fold a partition of state records into a keeper, up to its end now."""
    async for record in read_to_end(bootstrap, kafka_topic, [partition]):
        fold_state(keeper, stage, record)


def fold_state(keeper: Keeper, stage: Stage, record: Record) -> None:
    """Fold one state record, or the tombstone of one, into a keeper."""
    if record.value is None:
        keeper.forget((record.key or b"").decode("utf-8", "surrogatepass"))
    else:
        keeper.apply(read(record, topic(stage.state or "").events))
