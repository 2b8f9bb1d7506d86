"""Topics are made here, before anything consumes, and checked against the topology at every start.

Invariant: partition counts are fixed once; a topic that differs from the topology stops the start
with its name, because keys would no longer meet on one partition.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, KafkaError, for_code

from ruvllm.errors import BrokerUnavailable, TopicMismatch
from ruvllm.streams.topology import Keeping, Names

WEEK_MS = 7 * 24 * 3600 * 1000
MAX_RECORD_BYTES = 10_485_760
TOPIC_EXISTS = 36

CONFIG: dict[Keeping, dict[str, str]] = {
    Keeping.LOG: {"retention.ms": "-1", "retention.bytes": "-1"},
    Keeping.PASSING: {"retention.ms": str(WEEK_MS)},
    Keeping.STATE: {"cleanup.policy": "compact", "segment.ms": "3600000", "min.cleanable.dirty.ratio": "0.3"},
}


@dataclass(frozen=True)
class TopicState:
    """A topic as the topology wants it beside what the broker has (0 partitions: it is not there)."""

    name: str
    keeping: Keeping
    wanted: int
    present: int

    @property
    def fits(self) -> bool:
        return self.wanted == self.present


@asynccontextmanager
async def admin(bootstrap: str, *, wait_s: float = 0.0) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client; waits up to `wait_s` for the broker. Raises BrokerUnavailable."""
    give_up_at = time.monotonic() + wait_s
    while True:
        client = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=10_000)
        try:
            await client.start()
            break
        except (KafkaConnectionError, OSError) as error:
            await client.close()
            if time.monotonic() >= give_up_at:
                raise BrokerUnavailable(f"no Kafka broker answers at {bootstrap}") from error
            await asyncio.sleep(0.5)
    try:
        yield client
    finally:
        await client.close()


async def topic_states(client: AIOKafkaAdminClient, names: Names) -> list[TopicState]:
    """Every topic of the topology, dead letters included, beside the broker's."""
    wanted = [(name, row.keeping, names.partitions) for name, row in names.every()]
    wanted += [(name, Keeping.LOG, 1) for name in names.every_dead_letter()]
    described = await client.describe_topics([name for name, _, _ in wanted])
    present = {t["topic"]: len(t["partitions"]) for t in described if t["error_code"] == 0}
    return [TopicState(name, keeping, count, present.get(name, 0)) for name, keeping, count in wanted]


async def ensure_topics(bootstrap: str, names: Names, *, replication: int, wait_s: float = 30.0) -> list[TopicState]:
    """Make what is missing, check what is there. Returns what was made.

    Raises TopicMismatch if a topic has another number of partitions, BrokerUnavailable if nobody answers.
    """
    async with admin(bootstrap, wait_s=wait_s) as client:
        states = await topic_states(client, names)
        wrong = [s for s in states if s.present and not s.fits]
        if wrong:
            raise TopicMismatch(
                f"topic {wrong[0].name} has {wrong[0].present} partitions, the topology wants {wrong[0].wanted}",
                hint="Set kafka.partitions to what is there, or use another kafka.prefix.",
            )
        missing = [s for s in states if not s.present]
        if missing:
            response = await client.create_topics(
                [
                    NewTopic(
                        s.name,
                        s.wanted,
                        replication,
                        topic_configs={**CONFIG[s.keeping], "max.message.bytes": str(MAX_RECORD_BYTES)},
                    )
                    for s in missing
                ]
            )
            for name, code, *_ in response.topic_errors:
                if code not in (0, TOPIC_EXISTS):  # errors are returned, not raised
                    raise TopicMismatch(f"topic {name} could not be made: {for_code(code).__name__}")
            await _until_present(client, names)
        return missing


async def _until_present(client: AIOKafkaAdminClient, names: Names, *, limit_s: float = 30.0) -> None:
    give_up_at = time.monotonic() + limit_s
    while time.monotonic() < give_up_at:
        try:
            if all(s.fits for s in await topic_states(client, names)):
                return
        except KafkaError:
            continue
        await asyncio.sleep(0.05)
    raise BrokerUnavailable("the topics were made but the broker does not show them yet")
