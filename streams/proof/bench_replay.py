"""`ruvllm bench replay`: how quickly memory is folded from the log, beside what only reads it, in the same run.

*getmany* takes the log from the broker and looks at nothing; *json* parses the records' bytes in a plain loop;
*decode* makes events of them, *fold* makes memory, both of records that lie in this process; *replay* is all of it,
from the broker to memory. They take turns, in rounds, so that the machine's moods meet all alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from ruvllm.agents.memory_fold import CHANGES
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.wire import kind_of
from ruvllm.streams.connection import connected
from ruvllm.streams.folding import READ_AT_ONCE, fold_records
from ruvllm.streams.garbage import uncollected
from ruvllm.streams.guard import read_all
from ruvllm.streams.history.source import RECORDS_AT_ONCE, KafkaSource
from ruvllm.streams.proof.bench_memory import DIMENSION
from ruvllm.streams.proof.memory_log import EMBEDDER, PARTITIONS, written
from ruvllm.streams.proof.report import report
from ruvllm.streams.records import Record
from ruvllm.streams.topology import Names

ROUNDS = 3
LOG = "memory.changed"


async def bench_replay(bootstrap: str, *, events: int = 60_000, seed: int = 1) -> dict[str, Any]:
    """Events a second of each step, the median of three rounds. Returns the report."""
    async with written(bootstrap, events, seed) as names:
        source = KafkaSource(bootstrap, names)
        records = [record async for batch in source.read(LOG) for record in batch]
        kinds: dict[str, list[Record]] = {}
        for record in records:
            kinds.setdefault(str(kind_of(record.headers)).removeprefix("memory."), []).append(record)
        steps: dict[str, Callable[[], Awaitable[int]]] = {
            "getmany": lambda: _getmany(bootstrap, names),
            "json": lambda: _json(records),
            "decode": lambda: _decode(records),
            "fold": lambda: _fold(records),
            "replay": lambda: _replay(source),
            **{f"fold {kind}": lambda some=some: _fold(some) for kind, some in kinds.items()},  # type: ignore[misc]
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
        for _ in range(ROUNDS):
            for name, step in steps.items():
                found[name].append(await _rates(step))
    wall = {name: round(statistics.median(rate for rate, _ in rates)) for name, rates in found.items()}
    cpu = {name: round(statistics.median(rate for _, rate in rates)) for name, rates in found.items()}
    return report(
        "ruvllm bench replay",
        seed=seed,
        sizes={
            "events": len(records),
            "kinds": {kind: len(some) for kind, some in kinds.items()},
            "bytes": sum(len(record.value or b"") for record in records),
            "partitions": PARTITIONS,
            "dimension": DIMENSION,
            "rounds": ROUNDS,
        },
        results={
            "events_per_s": wall,
            "events_per_cpu_s": cpu,
            "fold_over_getmany": round(wall["fold"] / wall["getmany"], 2),
            "fold_over_json": round(wall["fold"] / wall["json"], 2),
            "replay_over_getmany": round(wall["replay"] / wall["getmany"], 2),
        },
    )


async def _rates(step: Callable[[], Awaitable[int]]) -> tuple[float, float]:
    """Events a second of the clock, and a second of this process on a processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    events = await step()
    return events / (time.perf_counter() - wall), events / (time.process_time() - cpu)


async def _getmany(bootstrap: str, names: Names) -> int:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    async with connected(bootstrap, consumer):
        places = [TopicPartition(names.topic(LOG), p) for p in range(names.partitions)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        count = 0
        while any([await consumer.position(place) < ends[place] for place in places]):
            found = await consumer.getmany(timeout_ms=200, max_records=RECORDS_AT_ONCE)
            count += sum(map(len, found.values()))
    return count


async def _json(records: Sequence[Record]) -> int:
    return sum(1 for record in records if orjson.loads(record.value or b"")["kind"])


async def _decode(records: Sequence[Record]) -> int:
    for at in range(0, len(records), READ_AT_ONCE):
        read_all(records[at : at + READ_AT_ONCE], CHANGES)
    return len(records)


async def _fold(records: Sequence[Record]) -> int:
    with uncollected():
        fold_records(Memory(EMBEDDER, DIMENSION), records)
    return len(records)


async def _replay(source: KafkaSource) -> int:
    memory, count = Memory(EMBEDDER, DIMENSION), 0
    with uncollected():  # as the commands do
        async for batch in source.read(LOG):
            fold_records(memory, batch)
            count += len(batch)
    return count
