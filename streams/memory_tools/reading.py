"""Memory as a command sees it: folded once, to what is the log's end now.

Invariant: nobody is disturbed. There is no consumer group, nothing is reported to `memory.folded`, and of
the workers' snapshots files are read only. What comes out is what a worker's view would hold at the same
offsets: the same snapshot's loader, the same fold, and what a worker leaves out is left out here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from ruvllm.errors import InvalidConfiguration
from ruvllm.models.memory.snapshot import load_latest
from ruvllm.models.memory.store import Memory
from ruvllm.streams.connection import connected
from ruvllm.streams.folding import fold_records
from ruvllm.streams.log_reader import partitions_of, record_of
from ruvllm.streams.serial import SerialLog
from ruvllm.streams.topics import log_id_of
from ruvllm.streams.topology import Names

log = structlog.get_logger(__name__)

NewMemory = Callable[[], Memory]
Spans = dict[str, tuple[int, int]]
"""Partition -> first and next offset."""


@dataclass(frozen=True)
class Folded:
    """A memory and the records that it is the fold of: those below `offsets` of the log `log_id`.

    `snapshot` is the folder that it started from, if any; `folded` counts the changes read after that and
    `left_out` those of them that no fold takes.
    """

    memory: Memory
    log_id: str
    spans: Spans
    offsets: dict[str, int]
    snapshot: Path | None = None
    folded: int = 0
    left_out: int = 0


async def fold_to_end(bootstrap: str, names: Names, new_memory: NewMemory, state_folder: Path) -> Folded:
    """Fold `memory.changed` from the newest sound snapshot below `state_folder` (one folder a worker) and the tail.

    Raises BrokerUnavailable if there is no broker or no such topic.
    """
    topic = names.topic("memory.changed")
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        isolation_level="read_committed",
        auto_offset_reset="none",
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    async with connected(bootstrap, consumer):
        places = [TopicPartition(topic, p) for p in sorted(await partitions_of(consumer, topic))]
        beginnings = await consumer.beginning_offsets(places)
        ends = await consumer.end_offsets(places)
        spans = {str(t.partition): (beginnings[t], ends[t]) for t in places}
        log_id = await log_id_of(bootstrap, topic)
        memory, positions, snapshot = await asyncio.to_thread(start_from, state_folder, log_id, spans, new_memory)
        consumer.assign(places)
        for place in places:
            consumer.seek(place, positions.get(str(place.partition), beginnings[place]))
        folded = 0
        left_out: list[str] = []
        while any([await consumer.position(place) < ends[place] for place in places]):
            for messages in (await consumer.getmany(timeout_ms=100, max_records=500)).values():
                folded += len(messages)
                left_out += fold_records(memory, map(record_of, messages))
        reached = {str(place.partition): await consumer.position(place) for place in places}
    _complain(left_out)
    offsets = {partition: offset for partition, offset in reached.items() if offset}
    return Folded(memory, log_id, spans, offsets, snapshot, folded, len(left_out))


def fold_file(file: Path, names: Names, new_memory: NewMemory) -> Folded:
    """Fold the memory of a serial log's file. Raises InvalidConfiguration if there is none or it cannot be read."""
    if not file.is_file():
        raise InvalidConfiguration(f"{file} does not exist", hint="`ruvllm ingest --serial-log FILE` makes such a log.")
    serial = SerialLog(file)
    serial.close()
    records = serial.topics.get(names.topic("memory.changed"), [])
    memory = new_memory()
    left_out = fold_records(memory, records)
    _complain(left_out)
    end = len(records)
    offsets = {"0": end} if end else {}
    return Folded(memory, f"file/{file.absolute()}", {"0": (0, end)}, offsets, None, end, len(left_out))


async def log_now(bootstrap: str, names: Names) -> tuple[str, Spans]:
    """The log of memory's id and what it spans now. Raises BrokerUnavailable."""
    topic = names.topic("memory.changed")
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None)
    async with connected(bootstrap, consumer):
        places = [TopicPartition(topic, p) for p in sorted(await partitions_of(consumer, topic))]
        beginnings, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    return await log_id_of(bootstrap, topic), {str(t.partition): (beginnings[t], ends[t]) for t in places}


def _complain(left_out: list[str]) -> None:
    """Once, however many there are: with another embedder than the log's it is all of them."""
    if left_out:
        log.warning("memory_changes_left_out", changes=len(left_out), first=left_out[0])


def start_from(
    state_folder: Path,
    log_id: str,
    spans: Mapping[str, tuple[int, int]],
    new_memory: NewMemory,
    at_most: Mapping[str, int] | None = None,
) -> tuple[Memory, dict[str, int], Path | None]:
    """The memory and offsets to go on from, and the worker's folder they were found in.

    `at_most`: a place, partition -> offset, that the snapshot is not to be beyond.
    """
    empty = new_memory()
    for folder in _latest_first(state_folder):
        found = load_latest(
            folder, log_id=log_id, spans=spans, embedder=empty.embedder, dimension=empty.dimension, at_most=at_most
        )
        if found is not None:
            return *found, folder
    return empty, {}, None


def _latest_first(state_folder: Path) -> list[Path]:
    """Workers' folders that hold a snapshot, the one written last first. A worker may change them meanwhile."""
    ages: dict[Path, float] = {}
    for folder in state_folder.glob("*/"):
        for manifest in folder.glob("*/manifest.json"):
            with suppress(FileNotFoundError):
                ages[folder] = max(ages.get(folder, 0.0), manifest.stat().st_mtime)
    return sorted(ages, key=lambda folder: -ages[folder])
