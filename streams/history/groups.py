"""How far the stages have come, and who is at work: what Kafka knows of an installation's consumer groups.

Invariant: a place is set only where nobody is a member; Kafka itself refuses it elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from ruvllm.errors import BrokerUnavailable, RuvllmError
from ruvllm.streams.connection import connected
from ruvllm.streams.history.exported import CARRIED, Committed
from ruvllm.streams.topics import admin
from ruvllm.streams.topology import STAGES, Names

COORDINATOR_WAIT_S = 30.0
"""A new broker makes its topic of groups when it is first asked for one."""


async def committed(bootstrap: str, names: Names) -> Committed:
    """Stage -> topic -> partition -> the next record that it will handle, of topics that are carried elsewhere."""
    found: dict[str, dict[str, dict[int, int]]] = {}
    kafka = {names.topic(name): name for name in CARRIED}
    async with _coordinating(bootstrap, [names.group(stage.name) for stage in STAGES]) as client:
        for stage in STAGES:
            offsets = await client.list_consumer_group_offsets(names.group(stage.name))
            for place, at in offsets.items():
                if place.topic in kafka and at.offset >= 0:
                    found.setdefault(stage.name, {}).setdefault(kafka[place.topic], {})[place.partition] = at.offset
    return found


async def at_work(bootstrap: str, names: Names) -> list[str]:
    """The stages whose groups have members now."""
    groups = {names.group(stage.name): stage.name for stage in STAGES}
    async with _coordinating(bootstrap, groups) as client:
        # one at a time: aiokafka 0.14 reads an answer on several as of an older version, and loses its place
        answers = [answer for group in groups for answer in await client.describe_consumer_groups([group])]
    described = [group for answer in answers for group in answer.groups]
    return sorted(groups[group[1]] for group in described if group[5])


async def refuse_at_work(bootstrap: str, names: Names, purpose: str) -> None:
    """Raises RuvllmError if a stage is at work."""
    busy = await at_work(bootstrap, names)
    if busy:
        raise RuvllmError(
            f"{', '.join(busy)} of {names.prefix} are at work: {purpose} needs them stopped",
            hint="`ruvllm down --keep-broker` on every machine; a worker that was killed is a member for 20 s.",
        )


async def commit(bootstrap: str, names: Names, stage: str, topics: Mapping[str, Mapping[int, int]]) -> None:
    """Have a stage go on from these places: topic -> partition -> offset."""
    places = {TopicPartition(names.topic(name), p): at for name, place in topics.items() for p, at in place.items()}
    if not places:
        return
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=names.group(stage), enable_auto_commit=False)
    async with connected(bootstrap, consumer):
        consumer.assign(list(places))
        await consumer.commit(places)


@asynccontextmanager
async def _coordinating(bootstrap: str, groups: Iterable[str]) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client of a broker that coordinates these groups. Raises BrokerUnavailable if it does not in time."""
    give_up_at = time.monotonic() + COORDINATOR_WAIT_S
    async with admin(bootstrap) as client:
        for group in groups:
            while True:
                try:
                    await client.find_coordinator(group)
                    break
                except KafkaError as error:
                    if time.monotonic() > give_up_at:
                        raise BrokerUnavailable(f"nobody coordinates the group {group}: {error!r}") from error
                    await asyncio.sleep(0.2)
        yield client
