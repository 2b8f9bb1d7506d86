"""A log written into the topics of an installation: keys, values, headers and times as they were, in order.

Invariant: it is written into empty topics only, while no worker is there, by one producer that writes nothing twice;
that each record is where it was to be is checked as it is written, and that nothing else is there in the end. Places
are told in those of the copy (`moving.py`). The stages go on behind what they had handled: their groups' places are
set, and owners know the rest by their state, which comes along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from ruvllm.errors import RuvllmError, TopicMismatch
from ruvllm.streams.connection import connected
from ruvllm.streams.history.exported import CARRIED, Advance, Committed
from ruvllm.streams.history.groups import commit, refuse_at_work
from ruvllm.streams.history.moving import Moved, Offsets
from ruvllm.streams.history.source import KafkaSource, Place, Source
from ruvllm.streams.records import Record
from ruvllm.streams.topics import MAX_RECORD_BYTES, ensure_topics
from ruvllm.streams.topology import STAGES, Names, Stage

Edit = Callable[[str, Record], Record | None]
"""Of a topic's record: what is to be copied, none: it is left out. The same each time that it is asked."""


def whole(_: str, record: Record) -> Record:
    """Leaves nothing out."""
    return record


@dataclass(frozen=True)
class Copied:
    """By topic: how many records were written, and how many left out."""

    written: dict[str, int]
    left_out: dict[str, int]
    moved: Moved


async def copy(
    source: Source,
    bootstrap: str,
    names: Names,
    *,
    replication: int,
    committed: Committed,
    edit: Edit = whole,
    advance: Advance = lambda _: None,
) -> Copied:
    """Write what `edit` makes of a source's log into these topics; they are made if they are not there.

    Raises TopicMismatch if a topic holds records or partitions differ, RuvllmError if workers run there or another
    writes meanwhile, BrokerUnavailable.
    """
    if source.names.partitions != names.partitions:
        raise TopicMismatch(
            f"the log has {source.names.partitions} partitions a topic, kafka.partitions is {names.partitions}",
            hint=f"--set kafka.partitions={source.names.partitions}, with a prefix of its own.",
        )
    await refuse_at_work(bootstrap, names, "writing into this log")
    await ensure_topics(bootstrap, names, replication=replication)
    target = KafkaSource(bootstrap, names)
    base = await _empty(target)
    ends = {name: {p: end for p, (_, end) in (await source.spans(name)).items()} for name in CARRIED}
    kept, left_out = await _kept(source, ends, edit, advance)
    moved = Moved(source.names, names, kept, base, in_one_order=source.in_one_order)
    written = dict.fromkeys(CARRIED, 0)
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        linger_ms=5,
        max_batch_size=1024 * 1024,
        max_request_size=MAX_RECORD_BYTES,
    )
    async with connected(bootstrap, producer):
        for name in CARRIED:
            async for batch in source.read(name, end=ends[name]):
                edited = [(r, made) for r in batch if (made := edit(name, r)) is not None]
                await _write(producer, name, edited, moved)
                written[name] += len(edited)
                advance(len(batch))
    await _check(target, base, written)
    for row in STAGES:
        await commit(bootstrap, names, row.name, _handled(row, committed, moved, names.partitions))
    return Copied(written, left_out, moved)


async def _empty(target: KafkaSource) -> dict[str, dict[int, int]]:
    """Topic -> partition -> where the copy starts. Raises TopicMismatch if there is something already."""
    base: dict[str, dict[int, int]] = {}
    for name in CARRIED:
        spans = await target.spans(name)
        held = sum(end - first for first, end in spans.values())
        if held:
            raise TopicMismatch(
                f"topic {target.names.topic(name)} is not empty: it spans {held} offsets",
                hint="A log is written into empty topics: use another kafka.prefix.",
            )
        base[name] = {p: end for p, (_, end) in spans.items()}
    return base


async def _kept(
    source: Source, ends: Mapping[str, Place], edit: Edit, advance: Advance
) -> tuple[dict[str, dict[int, Offsets]], dict[str, int]]:
    """Topic -> partition -> offsets of what is copied; and how many records are not."""
    kept: dict[str, dict[int, list[int]]] = {name: {} for name in CARRIED}
    left_out = dict.fromkeys(CARRIED, 0)
    for name in CARRIED:
        async for batch in source.read(name, end=ends[name]):
            for record in batch:
                if edit(name, record) is None:
                    left_out[name] += 1
                else:
                    kept[name].setdefault(record.partition or 0, []).append(record.offset)
            advance(len(batch))
    arrays = {n: {p: np.array(o, np.int64) for p, o in partitions.items()} for n, partitions in kept.items()}
    return arrays, left_out


async def _write(producer: AIOKafkaProducer, name: str, edited: list[tuple[Record, Record]], moved: Moved) -> None:
    sent = []
    for _, made in edited:
        record = moved.record(name, made)
        sent.append(
            await producer.send(
                record.topic,
                value=record.value,
                key=record.key,
                partition=record.partition or 0,
                timestamp_ms=record.time_ms if record.time_ms >= 0 else None,
                headers=list(record.headers.items()),
            )
        )
    for (old, _), future in zip(edited, sent, strict=True):
        try:
            place = await future
        except KafkaError as error:
            raise RuvllmError(
                f"writing {name} broke off: {error!r}", hint="Delete the topics of this prefix and do it again."
            ) from error
        wanted = moved.offset(name, old.partition or 0, old.offset)
        if place.offset != wanted:
            raise RuvllmError(
                f"a record of {name} stands at {place.partition}:{place.offset}, not at {wanted}: another writes too",
                hint="Delete the topics of this prefix, see that nobody produces there, and do it again.",
            )


async def _check(target: KafkaSource, base: dict[str, dict[int, int]], written: dict[str, int]) -> None:
    for name, count in written.items():
        held = sum(end - base[name][p] for p, (_, end) in (await target.spans(name)).items())
        if held != count:
            raise RuvllmError(
                f"topic {target.names.topic(name)} spans {held} offsets after {count} records were written",
                hint="Delete the topics of this prefix, see that nobody produces there, and do it again.",
            )


def _handled(row: Stage, committed: Committed, moved: Moved, partitions: int) -> dict[str, dict[int, int]]:
    """Where a stage goes on: behind what it had handled; at the end if nobody knows how far it had come.

    Of a stage that is known, a partition without a place is one of which nothing was handled.
    """
    found = {}
    for name in row.consumes:
        if name not in CARRIED:
            continue
        if row.name not in committed:
            found[name] = {p: moved.end(name, p) for p in range(partitions)}
        else:
            known = moved.moment(name, committed[row.name].get(name, {}))
            found[name] = {p: known.get(str(p), moved.offset(name, p, 0)) for p in range(partitions)}
    return found
