"""Where history is read from: a broker, a serial log's file, an exported log. One port, so that no reader cares.

Invariant: a read gives the records of a topic of the flow from `start` up to `end`, in order within each partition,
committed ones only. A place is partition -> offset of the next record. A log that is in one order (a serial one) has
offsets that count through all partitions: a place in it is the greatest that it names.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition

from ruvllm.errors import InvalidConfiguration, InvalidRequest
from ruvllm.streams.connection import connected
from ruvllm.streams.log_reader import partitions_of, record_of
from ruvllm.streams.records import Record
from ruvllm.streams.serial import SerialLog
from ruvllm.streams.topics import log_id_of
from ruvllm.streams.topology import Names

Place = Mapping[int, int]
"""Partition -> offset of the next record."""
Spans = dict[int, tuple[int, int]]
"""Partition -> first and next offset that there are."""

RECORDS_AT_ONCE = 2_000


class Source(Protocol):
    """A log that can be read back. Topics are named as in the topology."""

    @property
    def names(self) -> Names: ...

    @property
    def in_one_order(self) -> bool:
        """Whether offsets count through all partitions of a topic."""

    async def log_id(self, name: str) -> str:
        """Which log of a topic this is: places of one mean nothing in another."""

    async def spans(self, name: str) -> Spans:
        """What there is of a topic now."""

    async def place_at(self, name: str, time: datetime) -> dict[int, int]:
        """The first records of a topic that were written at `time` or later; its end where there is none."""

    def read(
        self, name: str, start: Place | None = None, end: Place | None = None, only: Collection[int] | None = None
    ) -> AsyncIterator[list[Record]]:
        """Batches of records from `start` (default: the first) up to `end` (default: what is the end now).

        A partition that a place leaves out is read from its beginning, or to its end. `only`: of these partitions.
        """


def in_one_order(place: Place | None, default: int) -> int:
    """The offset that a place means in a log that is in one order."""
    return max(place.values(), default=0) if place is not None else default


class KafkaSource:
    """A broker's log, read without a group."""

    in_one_order = False

    def __init__(self, bootstrap: str, names: Names) -> None:
        self._bootstrap = bootstrap
        self.names = names

    async def log_id(self, name: str) -> str:
        return await log_id_of(self._bootstrap, self.names.topic(name))

    async def spans(self, name: str) -> Spans:
        consumer = self._consumer()
        async with connected(self._bootstrap, consumer):
            return await _spans(consumer, await self._places(consumer, name))

    async def place_at(self, name: str, time: datetime) -> dict[int, int]:
        consumer = self._consumer()
        async with connected(self._bootstrap, consumer):
            places = await self._places(consumer, name)
            found = await consumer.offsets_for_times(dict.fromkeys(places, int(time.timestamp() * 1000)))
            ends = await consumer.end_offsets(places)
            return {p.partition: at.offset if (at := found.get(p)) else ends[p] for p in places}

    async def read(
        self, name: str, start: Place | None = None, end: Place | None = None, only: Collection[int] | None = None
    ) -> AsyncIterator[list[Record]]:
        consumer = self._consumer()
        async with connected(self._bootstrap, consumer):
            places = [p for p in await self._places(consumer, name) if only is None or p.partition in only]
            spans = await _spans(consumer, places)
            until = {p: min((end or {}).get(p.partition, spans[p.partition][1]), spans[p.partition][1]) for p in places}
            consumer.assign(places)
            for place in places:
                consumer.seek(place, max((start or {}).get(place.partition, 0), spans[place.partition][0]))
            while unread := [p for p in places if await consumer.position(p) < until[p]]:
                consumer.pause(*(p for p in places if p not in unread))
                for place, messages in (await consumer.getmany(timeout_ms=200, max_records=RECORDS_AT_ONCE)).items():
                    yield [record_of(message) for message in messages if message.offset < until[place]]

    def _consumer(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=None,
            isolation_level="read_committed",
            auto_offset_reset="none",
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )

    async def _places(self, consumer: AIOKafkaConsumer, name: str) -> list[TopicPartition]:
        topic = self.names.topic(name)
        return [TopicPartition(topic, p) for p in sorted(await partitions_of(consumer, topic))]


async def _spans(consumer: AIOKafkaConsumer, places: list[TopicPartition]) -> Spans:
    first, end = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    return {place.partition: (first[place], end[place]) for place in places}


class SerialSource:
    """A serial log's file: one partition a topic as far as places go, whatever partitions its records name."""

    in_one_order = True

    def __init__(self, file: Path, names: Names) -> None:
        """Raises InvalidConfiguration if there is no such file or it cannot be read."""
        if not file.is_file():
            raise InvalidConfiguration(
                f"{file} does not exist", hint="`ruvllm ingest --serial-log FILE` makes such a log."
            )
        self._file = file
        self.names = names
        log = SerialLog(file)
        log.close()
        self._topics = log.topics
        self.positions = log.positions
        """`<stage> <topic>` -> next offset: how far each stage had come."""

    async def log_id(self, name: str) -> str:
        return f"file/{self._file.absolute()}/{self.names.topic(name)}"

    async def spans(self, name: str) -> Spans:
        return {0: (0, len(self._records(name)))}

    async def place_at(self, name: str, time: datetime) -> dict[int, int]:
        raise InvalidRequest("the records of a serial log have no times", hint="Give an offset, such as 0:120.")

    async def read(
        self, name: str, start: Place | None = None, end: Place | None = None, only: Collection[int] | None = None
    ) -> AsyncIterator[list[Record]]:
        records = self._records(name)
        first, until = in_one_order(start, 0), min(in_one_order(end, len(records)), len(records))
        for at in range(first, until, RECORDS_AT_ONCE):
            batch = records[at : min(at + RECORDS_AT_ONCE, until)]
            yield batch if only is None else [record for record in batch if (record.partition or 0) in only]
            await asyncio.sleep(0)

    def _records(self, name: str) -> list[Record]:
        return self._topics.get(self.names.topic(name), [])
