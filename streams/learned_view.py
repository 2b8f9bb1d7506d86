"""A process's view of what was learnt: the folds of `training.recorded` and, where it routes, of `outcome.judged`.

Topics are read without a group, from their beginning. What was learnt serves better, not at all costs: while it
cannot be read, the process serves with what it knows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from ruvllm.agents.past import Past
from ruvllm.agents.rankers import Rankers
from ruvllm.agents.routers import Routers
from ruvllm.errors import RuvllmError
from ruvllm.schemas.event import Event
from ruvllm.streams.guard import read
from ruvllm.streams.log_reader import partitions_of, record_of
from ruvllm.streams.records import Record
from ruvllm.streams.topology import Names, topic

log = structlog.get_logger(__name__)

RECONNECT_S = 1.0
SETTLE_S = 5.0


class LearnedView:
    """Follows the log of training, and of outcomes if there is a `past` to fold them into."""

    def __init__(self, bootstrap: str, names: Names, *, routers: Routers, past: Past | None = None) -> None:
        self.rankers = Rankers()
        self.routers = routers
        self.past = past
        training, outcomes = topic("training.recorded"), topic("outcome.judged")
        self._followers = [_Follower(bootstrap, names.topic(training.name), training.events, self._trained)]
        if past is not None:
            self._followers.append(
                _Follower(bootstrap, names.topic(outcomes.name), outcomes.events, past.apply, self._refresh)
            )

    async def start(self) -> None:
        for follower in self._followers:
            follower.start()

    async def stop(self) -> None:
        for follower in self._followers:
            await follower.stop()

    def offsets(self) -> dict[str, int]:
        """Partition -> offset of the next event of training: what serves is the fold of those below."""
        return self._followers[0].offsets()

    def _trained(self, event: Event) -> None:
        self.rankers.apply(event)
        self.routers.apply(event)

    async def _refresh(self) -> None:
        for tenant in list(self.past.due()) if self.past else ():
            assert self.past is not None
            await asyncio.to_thread(self.past.refresh, tenant)


class _Follower:
    """One topic, folded record by record; `settled` is awaited at its end, and now and then on the way there."""

    def __init__(
        self,
        bootstrap: str,
        kafka_topic: str,
        kinds: tuple[type[Event], ...],
        fold: Callable[[Event], None],
        settled: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._bootstrap = bootstrap
        self._topic = kafka_topic
        self._kinds = kinds
        self._fold = fold
        self._settled = settled
        self._positions: dict[TopicPartition, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow(), name=f"follow {self._topic}")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def offsets(self) -> dict[str, int]:
        return {str(place.partition): at for place, at in self._positions.items()}

    async def _follow(self) -> None:
        while True:
            try:
                await self._read_on()
            except Exception as error:
                log.warning("learned_view_reconnects", topic=self._topic, error=repr(error))
                await asyncio.sleep(RECONNECT_S)

    async def _read_on(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=None,
            isolation_level="read_committed",
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )
        await consumer.start()
        try:
            places = [TopicPartition(self._topic, p) for p in sorted(await partitions_of(consumer, self._topic))]
            consumer.assign(places)
            for place in places:
                consumer.seek(place, self._positions.get(place, 0))
            settled_at = time.monotonic()
            while True:
                batch = await consumer.getmany(timeout_ms=1000, max_records=200)
                for place, messages in batch.items():
                    for message in messages:
                        self._take(record_of(message))
                        self._positions[place] = message.offset + 1
                        await asyncio.sleep(0)  # other stages of this process go on
                if self._settled is not None and (not batch or time.monotonic() - settled_at > SETTLE_S):
                    await self._settled()
                    settled_at = time.monotonic()
        finally:
            await consumer.stop()

    def _take(self, record: Record) -> None:
        try:
            self._fold(read(record, self._kinds))
        except RuvllmError as error:
            log.error("learned_event_skipped", topic=self._topic, offset=record.offset, error=str(error))
