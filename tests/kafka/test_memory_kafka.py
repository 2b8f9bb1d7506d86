"""The Kafka in memory that the tests of owners and senders stand on does what a broker does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from ruvllm.schemas.ids import new_id
from ruvllm.streams.log_reader import read_to_end
from ruvllm.streams.records import Record
from ruvllm.streams.sender import put
from ruvllm.streams.topics import admin
from tests.unit.memory_kafka import MemoryKafka

pytestmark = pytest.mark.kafka

SMALL = 2_000
"""Bytes of a record that the tight topic takes; producers offer more."""


@dataclass
class Subject:
    """One of the two: how to make its producers and to read it."""

    bootstrap: str
    roomy: str
    tight: str
    new_producer: Callable[..., Any]
    read: Callable[..., AsyncIterator[Record]]

    async def producer(self, name: str | None = None, most: int = 100_000) -> Any:
        made = self.new_producer(bootstrap_servers=self.bootstrap, transactional_id=name, max_request_size=most)
        await made.start()
        return made

    async def values(self) -> list[bytes | None]:
        return [record.value async for record in self.read(self.bootstrap, self.roomy, [0])]


@pytest.fixture(params=["memory", "broker"])
def bootstrap(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("kafka")) if request.param == "broker" else "memory"


@pytest.fixture
async def subject(bootstrap: str) -> Subject:
    roomy, tight = f"roomy-{new_id()}", f"tight-{new_id()}"
    if bootstrap == "memory":
        memory = MemoryKafka(partitions=1)
        memory.limits[tight] = SMALL
        return Subject(bootstrap, roomy, tight, memory.producer, memory.read_to_end)
    async with admin(bootstrap) as client:
        await client.create_topics(
            [
                NewTopic(roomy, 1, 1),
                NewTopic(tight, 1, 1, topic_configs={"max.message.bytes": str(SMALL)}),
            ]
        )
    return Subject(bootstrap, roomy, tight, AIOKafkaProducer, read_to_end)


def record(topic: str, value: bytes | None, key: bytes | None = b"k") -> Record:
    return Record(topic, 0, key, value, {"h": b"1"})


async def test_a_written_record_says_where_it_is(subject: Subject) -> None:
    producer = await subject.producer()
    places = [await (await put(producer, record(subject.roomy, value))) for value in (b"a", b"b")]
    await producer.stop()
    assert [(p.partition, p.offset) for p in places] == [(0, 0), (0, 1)]
    assert await subject.values() == [b"a", b"b"]


async def test_only_what_is_committed_is_read(subject: Subject) -> None:
    producer = await subject.producer(new_id())
    await producer.begin_transaction()
    await (await put(producer, record(subject.roomy, b"a")))
    assert await subject.values() == []
    await producer.commit_transaction()
    assert await subject.values() == [b"a"]
    await producer.stop()


async def test_a_name_has_one_holder_and_the_next_ends_what_is_open(subject: Subject) -> None:
    name = new_id()
    first = await subject.producer(name)
    await first.begin_transaction()
    await (await put(first, record(subject.roomy, b"of the first")))
    second = await subject.producer(name)
    with pytest.raises(KafkaError):
        await asyncio.wait_for(first.commit_transaction(), 20)
    await second.begin_transaction()
    await (await put(second, record(subject.roomy, b"of the second")))
    await second.commit_transaction()
    assert await subject.values() == [b"of the second"]
    await asyncio.gather(first.stop(), second.stop())


async def test_a_record_with_neither_key_nor_value_is_no_record(subject: Subject) -> None:
    producer = await subject.producer()
    with pytest.raises(AssertionError):
        await put(producer, record(subject.roomy, None, key=None))
    await producer.stop()


async def test_what_is_larger_than_the_producer_sends_is_refused_at_once(subject: Subject) -> None:
    producer = await subject.producer(most=1_000)
    with pytest.raises(MessageSizeTooLargeError):
        await put(producer, record(subject.roomy, b"x" * 1_000))
    await producer.stop()
    assert await subject.values() == []


async def test_what_the_broker_refuses_fails_its_own_future_and_no_commit(subject: Subject) -> None:
    producer = await subject.producer(new_id())
    await producer.begin_transaction()
    refused = await put(producer, record(subject.tight, b"x" * (SMALL + 1)))
    await put(producer, record(subject.roomy, b"taken"))
    with pytest.raises(MessageSizeTooLargeError):
        await refused
    await producer.commit_transaction()  # this is why every future is looked at before
    assert await subject.values() == [b"taken"]
    await producer.stop()
