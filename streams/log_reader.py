"""Read a topic from its beginning to what is its end now, committed records only, disturbing nobody.

No consumer group: partitions are assigned by hand. The end is a position, not a record: transactions
leave markers that take offsets and are never delivered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from ruvllm.errors import BrokerUnavailable
from ruvllm.streams.connection import connected
from ruvllm.streams.records import Record


async def read_to_end(bootstrap: str, topic: str, partitions: Iterable[int] | None = None) -> AsyncIterator[Record]:
    """Every record of a topic (or of some partitions), in order within a partition."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    async with connected(bootstrap, consumer):
        numbers = partitions if partitions is not None else await partitions_of(consumer, topic)
        open_places = [TopicPartition(topic, p) for p in sorted(numbers)]
        consumer.assign(open_places)
        await consumer.seek_to_beginning(*open_places)
        ends = await consumer.end_offsets(open_places)
        while open_places:
            for messages in (await consumer.getmany(timeout_ms=100)).values():
                for message in messages:
                    yield record_of(message)
            open_places = [place for place in open_places if await consumer.position(place) < ends[place]]


async def listen_from_now(consumer: AIOKafkaConsumer, topic: str) -> None:
    """Place a started consumer at the end of every partition: what is written from here on is not missed."""
    places = [TopicPartition(topic, p) for p in sorted(await partitions_of(consumer, topic))]
    consumer.assign(places)
    for place, end in (await consumer.end_offsets(places)).items():
        consumer.seek(place, end)  # at once, not at the first fetch


async def partitions_of(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    """The partitions of a topic. Raises BrokerUnavailable if there is none of that name."""
    cluster = await consumer._client.fetch_all_metadata()  # the consumer's own copy knows assigned topics only
    found = cluster.partitions_for_topic(topic)
    if not found:
        raise BrokerUnavailable(
            f"the broker has no topic {topic}", hint="`ruvllm up` makes the topics; is kafka.prefix the service's?"
        )
    return set(found)


async def end_offsets(bootstrap: str, topic: str) -> dict[int, int]:
    """Partition -> offset of what will be written next. Raises BrokerUnavailable."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None)
    async with connected(bootstrap, consumer):
        places = [TopicPartition(topic, p) for p in sorted(await partitions_of(consumer, topic))]
        return {place.partition: end for place, end in (await consumer.end_offsets(places)).items()}


def record_of(message: Any) -> Record:
    """What a consumer delivers, Faust's or aiokafka's, as a record. A header without a value is empty."""
    headers: Mapping[str, bytes] = {name: value or b"" for name, value in message.headers or ()}
    at = message.timestamp
    time_ms = round(at * 1000) if isinstance(at, float) else at  # Faust has made seconds of it
    return Record(message.topic, message.partition, message.key, message.value, headers, message.offset, time_ms)
