"""One Faust app a consumer group: a stage's topics, consumed in the shape that the topology says.

Settings are those that held under kills, rebalances and broker restarts (docs/decisions/0003).
Agents never raise and never ack by themselves: `noack()` streams, an explicit ack when the guard or
the owner has written all effects.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import faust
import structlog
from aiokafka import TopicPartition

from ruvllm.streams.guard import Guard
from ruvllm.streams.ledger import LedgerApp
from ruvllm.streams.log_reader import record_of
from ruvllm.streams.metrics import Metrics
from ruvllm.streams.owner import Delivery, PartitionOwner
from ruvllm.streams.settings import KafkaSettings
from ruvllm.streams.topology import Names, Shape, Stage

log = structlog.get_logger(__name__)

LONGEST_HANDLER_S = 150.0
JOBS_BUFFER = 32
OWNER_POLL_S = 0.02


def new_app(stage: Stage, names: Names, bootstrap: str, kafka: KafkaSettings) -> LedgerApp:
    """A Faust app for one stage, without agents yet."""
    return LedgerApp(
        names.group(stage.name),
        broker=[f"kafka://{server}" for server in bootstrap.split(",")],
        store="memory://",
        datadir=tempfile.gettempdir(),
        autodiscover=False,
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=names.partitions,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=True,  # a rebalance waits for what is under way
        stream_buffer_maxsize=JOBS_BUFFER if stage.shape is Shape.JOBS else 256,
        broker_max_poll_interval=86_400.0,
        broker_max_poll_records=50,
        broker_rebalance_timeout=LONGEST_HANDLER_S + 30,  # above the longest handler, else a livelock
        broker_session_timeout=kafka.session_timeout_s,
        broker_heartbeat_interval=kafka.heartbeat_s,
        broker_request_timeout=max(kafka.request_timeout_s, kafka.session_timeout_s),
        broker_commit_interval=kafka.commit_interval_s,
        producer_linger_ms=0,
        loghandlers=[],
    )


class StageApp:
    """A stage at work in this process."""

    def __init__(self, stage: Stage, names: Names, bootstrap: str, kafka: KafkaSettings, metrics: Metrics) -> None:
        self.stage = stage
        self.names = names
        self.metrics = metrics
        self.app = new_app(stage, names, bootstrap, kafka)

    def bind_each(self, guard: Guard, topics: tuple[str, ...]) -> None:
        """One record after the other within a partition; partitions side by side."""

        async def consume(stream: faust.Stream[bytes]) -> None:
            async for event in stream.noack().events():
                await self._guarded(guard, event)

        self._agents(consume, topics, isolated=True)

    def bind_jobs(self, guard: Guard, topics: tuple[str, ...], slots: int) -> None:
        """At most `slots` records at once, over all topics; each acknowledged when its own effects are written."""
        free = asyncio.Semaphore(slots)
        running: set[asyncio.Task[None]] = set()

        async def work(event: Any) -> None:
            try:
                await self._guarded(guard, event)
            finally:
                free.release()

        async def consume(stream: faust.Stream[bytes]) -> None:
            async for event in stream.noack().events():
                await free.acquire()
                task = asyncio.create_task(work(event))
                running.add(task)
                task.add_done_callback(running.discard)

        self._agents(consume, topics, isolated=False)

    def bind_owners(self, owners: Owners, topics: tuple[str, ...]) -> None:
        """Every record to the owner of its partition; the topics' partitions come together."""

        async def consume(stream: faust.Stream[bytes]) -> None:
            async for event in stream.noack().events():
                message = event.message
                abandon = partial(self.app.consumer.abandon, message)
                await owners.submit(message.partition, Delivery(record_of(message), event.ack, abandon))

        self._agents(consume, topics, isolated=True)

        @self.app.on_partitions_assigned.connect  # type: ignore[untyped-decorator]
        async def assigned_(app: Any, assigned: Any, **_: Any) -> None:
            owners.assign(co_partitions(assigned, topics))

        self.app.give_back = owners.revoke  # Faust's own signal comes when all that they hold has been waited for

    async def _guarded(self, guard: Guard, event: Any) -> None:
        """One record through its guard. What even the guard cannot put aside ends the process: it stays undone."""
        try:
            await guard.handle(record_of(event.message))
        except Exception as error:
            await self.app.crash(error)
            raise
        event.ack()

    def _agents(self, consume: Callable[[Any], Any], topics: tuple[str, ...], *, isolated: bool) -> None:
        for name in topics:
            channel = self.app.topic(
                name, value_type=bytes, value_serializer="raw", key_type=bytes, key_serializer="raw"
            )
            self.app.agent(channel, name=f"{self.stage.name}:{name}", isolated_partitions=isolated)(consume)

    async def start(self) -> None:
        self.app.finalize()
        await self.app.start()

    async def stop(self) -> None:
        await self.app.stop()

    # --- what it is doing -------------------------------------------------------------------------

    def partitions(self) -> set[tuple[str, int]]:
        """What the group's coordinator has assigned to this process."""
        return {(tp.topic, tp.partition) for tp in self.app.consumer.assignment()}

    def is_mine(self, topic: str, partition: int) -> bool:
        """Whether the coordinator's last word gives a partition to this process."""
        return TopicPartition(topic, partition) in self.app.consumer.assigned()

    def lag(self) -> int:
        """Offsets between what was committed and the partitions' ends; markers count, so it may rest above 0."""
        consumer = self.app.consumer
        total = 0
        for tp in consumer.assignment():
            end = consumer.highwater(tp)
            done = consumer._committed_offset.get(tp) or 0
            total += max(0, (end or 0) - done)
        return total

    def open_deliveries(self) -> int:
        return int(self.app.consumer.open_deliveries())

    @property
    def joined(self) -> bool:
        """Whether the group's coordinator has said what is ours, be it nothing."""
        return self.app._assignment is not None and not self.app.rebalancing

    @property
    def failed(self) -> bool:
        """Whether the app crashed: its process must end, so that another takes over."""
        return bool(self.app.crashed)


class Owners:
    """The owners of the partitions that are assigned to this process.

    Invariant: no owner outlives a rebalance, be its partition ours before and after: in between it may
    have been another's, who answered what this one believes to be open. A new owner begins when the
    old one of its partition has let go of the producer's name.
    """

    def __init__(
        self,
        stage: Stage,
        make: Callable[[int], PartitionOwner],
        is_mine: Callable[[int], bool],
        metrics: Metrics,
    ) -> None:
        self._make = make
        self._is_mine = is_mine
        self._gauge = metrics.owners.labels(stage.name)
        self._owners: dict[int, PartitionOwner] = {}
        self._leaving: dict[int, asyncio.Task[None]] = {}
        self._revoked = False

    def assign(self, partitions: set[int]) -> None:
        """Start an owner for each partition at once (deadlines do not wait for a record), each made anew."""
        self._dismiss()  # they are gone already, unless the revocation was missed
        self._revoked = False
        for partition in sorted(partitions):
            owner = self._owners[partition] = self._make(partition)
            owner.start(after=self._leaving.get(partition))
        self._gauge.set(len(self._owners))

    async def revoke(self) -> None:
        """Stop all owners; returns when they have let go. To cancel this does not cancel them."""
        self._revoked = True
        self._dismiss()
        self._gauge.set(0)
        if self._leaving:
            await asyncio.wait(self._leaving.values())

    def _dismiss(self) -> None:
        for partition, owner in self._owners.items():
            self._leaving[partition] = asyncio.create_task(owner.stop())
        self._owners.clear()

    async def submit(self, partition: int, delivery: Delivery) -> None:
        """Hand a record to its owner; records may come a moment before their owner does."""
        while partition not in self._owners:
            if self._revoked or not self._is_mine(partition):  # it is delivered again once partitions are assigned
                delivery.abandon()
                return
            await asyncio.sleep(OWNER_POLL_S)
        await self._owners[partition].submit(delivery)

    def ready(self) -> bool:
        return all(owner.ready for owner in self._owners.values())

    async def stop(self) -> None:
        await self.revoke()


def co_partitions(assigned: Any, topics: tuple[str, ...]) -> set[int]:
    """The partition numbers assigned, which must be the same for each topic of an owner.

    Raises RuntimeError otherwise: an owner with half of its inputs would never see the answers.
    """
    by_topic = {name: {tp.partition for tp in assigned if tp.topic == name} for name in topics}
    first = by_topic[topics[0]]
    if any(partitions != first for partitions in by_topic.values()):
        raise RuntimeError(f"the topics of an owner were assigned apart: {by_topic}")
    return first
