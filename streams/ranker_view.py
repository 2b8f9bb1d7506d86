"""A process's view of what training has published: the fold of `training.recorded`, read without a group."""

from __future__ import annotations

import asyncio

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from ruvllm.agents.rankers import Rankers
from ruvllm.errors import RuvllmError
from ruvllm.streams.guard import read
from ruvllm.streams.log_reader import partitions_of, record_of
from ruvllm.streams.topology import Names, topic

log = structlog.get_logger(__name__)

RECONNECT_S = 1.0


class RankerView:
    """Follows the log of training from its beginning; `rankers` is what it says."""

    def __init__(self, bootstrap: str, names: Names) -> None:
        self._bootstrap = bootstrap
        self._topic = names.topic("training.recorded")
        self._positions: dict[TopicPartition, int] = {}
        self._task: asyncio.Task[None] | None = None
        self.rankers = Rankers()

    async def start(self) -> None:
        self._task = asyncio.create_task(self._follow(), name="ranker-view")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _follow(self) -> None:
        while True:
            try:
                await self._read_on()
            except Exception as error:  # rankers serve better, not at all costs
                log.warning("ranker_view_reconnects", error=repr(error))
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
            while True:
                for place, messages in (await consumer.getmany(timeout_ms=1000)).items():
                    for message in messages:
                        self._fold(record_of(message))
                        self._positions[place] = message.offset + 1
        finally:
            await consumer.stop()

    def _fold(self, record: object) -> None:
        try:
            self.rankers.apply(read(record, topic("training.recorded").events))  # type: ignore[arg-type]
        except RuvllmError as error:
            log.error("training_event_skipped", error=str(error))
