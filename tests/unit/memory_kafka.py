"""A Kafka in memory, as far as owners and senders need one: it stands for aiokafka's producer and our log reader.

tests/kafka/test_memory_kafka.py runs one contract on it and on a broker.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerFenced
from aiokafka.structs import RecordMetadata, TopicPartition

from ruvllm.streams.records import Record
from ruvllm.streams.topics import MAX_RECORD_BYTES

RECORD_OVERHEAD = 100


@dataclass(eq=False)
class Transaction:
    state: str = "open"  # then "committed" or "aborted"


@dataclass
class Held:
    """What a producer meets on its way: set to wait, and to be failed."""

    before_commit: asyncio.Event | None = None
    failing: list[BaseException] = field(default_factory=list)  # the next commits


class MemoryKafka:
    """Topics with partitions; transactions; producers that fence each other by their transactional id."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.refusals: dict[str, list[KafkaError]] = defaultdict(list)  # topic -> errors of its next records
        self.limits: dict[str, int] = {}  # topic -> bytes of a record that it takes
        self.commits = Held()
        self.producers: list[MemoryProducer] = []
        self._log: dict[tuple[str, int], list[tuple[Record, Transaction | None]]] = defaultdict(list)
        self._epochs: dict[str, int] = defaultdict(int)
        self.open: dict[str, Transaction] = {}

    def producer(self, **options: object) -> MemoryProducer:
        self.producers.append(MemoryProducer(self, **options))  # type: ignore[arg-type]
        return self.producers[-1]

    async def read_to_end(self, _: str, topic: str, partitions: Iterable[int]) -> AsyncIterator[Record]:
        for partition in partitions:
            for record, transaction in list(self._log[topic, partition]):
                if transaction is None or transaction.state == "committed":
                    yield record

    def records(self, topic: str) -> list[Record]:
        """What a reader of committed records finds."""
        found = [row for (name, _), rows in sorted(self._log.items()) if name == topic for row in rows]
        return [record for record, transaction in found if transaction is None or transaction.state == "committed"]

    def take_name(self, name: str) -> int:
        """Fence whoever has the name, and end its transaction."""
        self._epochs[name] += 1
        if name in self.open:
            self.open.pop(name).state = "aborted"
        return self._epochs[name]

    def check(self, name: str | None, epoch: int) -> None:
        if name is not None and self._epochs[name] != epoch:
            raise ProducerFenced

    def begin(self, name: str) -> Transaction:
        self.open[name] = Transaction()
        return self.open[name]

    def append(self, record: Record, transaction: Transaction | None) -> RecordMetadata:
        if self.refusals[record.topic]:
            raise self.refusals[record.topic].pop(0)
        if len(record.value or b"") > self.limits.get(record.topic, MAX_RECORD_BYTES):
            raise MessageSizeTooLargeError
        rows = self._log[record.topic, record.partition or 0]
        place = Record(record.topic, record.partition, record.key, record.value, record.headers, len(rows))
        rows.append((place, transaction))
        at = TopicPartition(record.topic, record.partition)
        return RecordMetadata(record.topic, record.partition, at, place.offset, None, None, None)


class MemoryProducer:
    """aiokafka's producer, as much of it as is used."""

    def __init__(
        self,
        kafka: MemoryKafka,
        *,
        transactional_id: str | None = None,
        max_request_size: int = 1_048_576,
        **options: object,
    ) -> None:
        self._kafka = kafka
        self._name = transactional_id
        self._max_request_size = max_request_size
        self.options = options
        self._epoch = 0
        self._transaction: Transaction | None = None
        self.running = False

    async def start(self) -> None:
        if self._name is not None:
            self._epoch = self._kafka.take_name(self._name)
        self.running = True

    async def stop(self) -> None:
        self.running = False

    async def begin_transaction(self) -> None:
        assert self._name is not None
        self._transaction = self._kafka.begin(self._name)

    async def send(
        self,
        topic: str,
        *,
        value: bytes | None,
        key: bytes | None,
        partition: int | None,
        headers: list[tuple[str, bytes]],
    ) -> asyncio.Future[RecordMetadata]:
        assert not (value is None and key is None), "Need at least one: key or value"
        size = RECORD_OVERHEAD + len(value or b"") + len(key or b"") + sum(len(k) + len(v) for k, v in headers)
        if size > self._max_request_size:
            raise MessageSizeTooLargeError(f"The message is {size} bytes")
        if partition is None:
            partition = zlib.crc32(key or b"") % self._kafka.partitions
        future: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        try:
            self._kafka.check(self._name, self._epoch)
            future.set_result(
                self._kafka.append(Record(topic, partition, key, value, dict(headers)), self._transaction)
            )
        except KafkaError as error:
            future.set_exception(error)
        return future

    async def commit_transaction(self) -> None:
        held = self._kafka.commits
        if held.before_commit is not None:
            await held.before_commit.wait()
        self._kafka.check(self._name, self._epoch)
        if held.failing:
            raise held.failing.pop(0)
        assert self._transaction is not None
        assert self._name is not None
        self._transaction.state = "committed"
        del self._kafka.open[self._name]
