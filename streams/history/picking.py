"""Events picked out of a topic: by their bytes first, decoded only if they may be wanted.

Invariant: what is picked is a function of the records read. A record that no reader of the log could decode is
left out here as it is there.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass

import orjson

from ruvllm.errors import RuvllmError
from ruvllm.schemas.event import Event
from ruvllm.streams.guard import read
from ruvllm.streams.history.source import Place, Source
from ruvllm.streams.records import Record
from ruvllm.streams.topology import topic

Wanted = Callable[[Record], bool]

_INTERACTION = re.compile(rb'"interaction_id":"([^"\\]+)"')  # within a text the quotes would be escaped


@dataclass(frozen=True)
class Placed:
    """Where an event stands in the log."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic} {self.partition}:{self.offset}"


async def picked(
    source: Source, name: str, wanted: Wanted, start: Place | None = None, end: Place | None = None
) -> AsyncIterator[tuple[Placed, Event]]:
    """The wanted events of a topic between two places, in order within each partition."""
    kinds = topic(name).events
    async for records in source.read(name, start, end):
        for record in records:
            if record.value is None or not wanted(record):
                continue
            try:
                event = read(record, kinds)
            except RuvllmError:
                continue
            yield Placed(name, record.partition or 0, record.offset), event


def anything(_: Record) -> bool:
    return True


def holding(texts: Collection[str]) -> Wanted:
    """Records whose body holds one of these texts as a whole JSON string."""
    needles = [orjson.dumps(text) for text in texts]
    return lambda record: record.value is not None and any(needle in record.value for needle in needles)


def of_interactions(ids: Collection[str]) -> Wanted:
    """Records about one of these interactions. One look a record, however many ids there are."""
    among = {interaction_id.encode() for interaction_id in ids}

    def wanted(record: Record) -> bool:
        found = _INTERACTION.search(record.value or b"")
        return found is not None and found[1] in among

    return wanted


def keyed(keys: Collection[str]) -> Wanted:
    """Records of one of these keys."""
    among = {key.encode("utf-8", "surrogatepass") for key in keys}
    return lambda record: record.key in among
