"""Topics are made here, before anything consumes, and checked against the topology at every start.

Invariant: partition counts are fixed once; a topic that differs from the topology stops the start
with its name, because keys would no longer meet on one partition. So does one whose records would be
compacted away, or would not be: the log is no longer what learned state is folded from. A topic that
keeps or takes less than the topology wants is told in the log: that may be meant.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, KafkaError, for_code

from ruvllm.errors import BrokerUnavailable, InvalidConfiguration, TopicMismatch
from ruvllm.streams.topology import Keeping, Names

log = structlog.get_logger(__name__)

WEEK_MS = 7 * 24 * 3600 * 1000
MAX_RECORD_BYTES = 10_485_760
TOPIC_EXISTS = 36

POLICY = "cleanup.policy"
BOUNDS = ("retention.ms", "retention.bytes", "max.message.bytes")
"""Settings of which a topic may have more than the topology wants; -1 is without bound."""

CONFIG: dict[Keeping, dict[str, str]] = {
    Keeping.LOG: {POLICY: "delete", "retention.ms": "-1", "retention.bytes": "-1"},
    Keeping.PASSING: {POLICY: "delete", "retention.ms": str(WEEK_MS)},
    Keeping.STATE: {POLICY: "compact", "segment.ms": "3600000", "min.cleanable.dirty.ratio": "0.3"},
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

    @property
    def config(self) -> dict[str, str]:
        """The settings it is made with."""
        return {**CONFIG[self.keeping], "max.message.bytes": str(MAX_RECORD_BYTES)}


@dataclass(frozen=True)
class Difference:
    """A setting of a topic that is not as the topology wants it."""

    topic: str
    setting: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"topic {self.topic} has {self.setting} = {self.found}, the topology wants {self.wanted}"

    @property
    def remedy(self) -> str:
        return (
            f"kafka-configs.sh --bootstrap-server ... --alter --entity-type topics "
            f"--entity-name {self.topic} --add-config {self.setting}={self.wanted}"
        )


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


async def log_id_of(bootstrap: str, topic: str) -> str:
    """Which log this is, as snapshots name it: a cluster's id is drawn when its storage is formatted.

    Raises BrokerUnavailable.
    """
    async with admin(bootstrap) as client:
        cluster = await client.describe_cluster()
    return f"{cluster.get('cluster_id')}/{topic}"


async def ensure_topics(bootstrap: str, names: Names, *, replication: int, wait_s: float = 30.0) -> list[TopicState]:
    """Make what is missing, check what is there. Returns what was made.

    Raises TopicMismatch if a topic has another number of partitions or another clean-up policy,
    BrokerUnavailable if nobody answers.
    """
    async with admin(bootstrap, wait_s=wait_s) as client:
        states = await topic_states(client, names)
        wrong = [s for s in states if s.present and not s.fits]
        if wrong:
            raise TopicMismatch(
                f"topic {wrong[0].name} has {wrong[0].present} partitions, the topology wants {wrong[0].wanted}",
                hint="Set kafka.partitions to what is there, or use another kafka.prefix.",
            )
        for difference in await differences(client, states):
            if difference.setting == POLICY:
                raise TopicMismatch(str(difference), hint=f"Use another kafka.prefix, or: {difference.remedy}")
            log.warning("topic_differs", problem=str(difference), remedy=difference.remedy)
        missing = [s for s in states if not s.present]
        if missing:
            response = await client.create_topics(
                [NewTopic(s.name, s.wanted, replication, topic_configs=s.config) for s in missing]
            )
            for name, code, *_ in response.topic_errors:
                if code not in (0, TOPIC_EXISTS):  # errors are returned, not raised
                    raise TopicMismatch(f"topic {name} could not be made: {for_code(code).__name__}")
            await _until_present(client, names)
        return missing


async def differences(client: AIOKafkaAdminClient, states: Iterable[TopicState]) -> list[Difference]:
    """Where the settings of topics that are there keep other things, or less, than the topology wants."""
    present = {s.name: s for s in states if s.present}
    if not present:
        return []
    checked = dict.fromkeys((POLICY, *BOUNDS), "")
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, checked) for name in present]
    found: list[Difference] = []
    for response in await client.describe_configs(asked):
        for code, _, _, name, entries in response.resources:
            if code:  # to describe settings takes a right of its own
                log.warning("topic_not_checked", topic=name, error=for_code(code).__name__)
                continue
            wanted = present[name].config
            for setting, value, *_ in entries:
                if setting in wanted and not _suffices(setting, value, wanted[setting]):
                    found.append(Difference(name, setting, value, wanted[setting]))
    return found


def _suffices(setting: str, found: str, wanted: str) -> bool:
    if setting == POLICY or found == wanted:
        return found == wanted
    return found == "-1" or (wanted != "-1" and int(found) >= int(wanted))


async def check_reply_topics(bootstrap: str, topics: Iterable[str]) -> None:
    """Whether the topics that requests may name as `reply_to` are there.

    Raises InvalidConfiguration with the name of one that is not, or that we may not see.
    """
    wanted = list(topics)
    if not wanted:
        return
    async with admin(bootstrap) as client:
        described = await client.describe_topics(wanted)
    for row in described:
        if row["error_code"]:
            raise InvalidConfiguration(
                f"limits.reply_to names the topic {row['topic']}: {for_code(row['error_code']).__name__}",
                hint="Create it and let this service write to it, or take it off limits.reply_to.",
            )


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
