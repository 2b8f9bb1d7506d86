"""Where each record of a log stands in a copy of it, and events that name places, told in those of the copy.

Invariant: a copy keeps the order of each partition and leaves no gaps, so a place in it is where the partition
began plus the records before that place that came along. Events that name places keep their meaning by that: what
a training run read to (`offsets`), which commands a document's owner has carried out (`handled`), which memory an
answer was given from (`memory_offsets`), which record a request came in (an origin). What users wrote is not looked
into, and an event that names no place keeps its very bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ruvllm.streams.history.source import Place
from ruvllm.streams.records import Record
from ruvllm.streams.topology import Names

NAMING_PLACES = frozenset(
    {"interaction.recorded", "session.state", "document.state", "judgement.state", "training.recorded"}
)
ORIGIN = frozenset({"topic", "partition", "offset"})

Offsets = NDArray[np.int64]


class Moved:
    """Places of the old log in those of the new one."""

    def __init__(
        self,
        old: Names,
        new: Names,
        kept: Mapping[str, Mapping[int, Offsets]],
        base: Mapping[str, Mapping[int, int]],
        *,
        in_one_order: bool,
    ) -> None:
        """`kept`: topic -> partition -> the old offsets that came along, in order; `base`: where the new ones start."""
        self._topics = {old.topic(name): name for name in kept}
        self._new = new
        self._kept = kept
        self._base = base
        self._in_one_order = in_one_order

    def offset(self, name: str, partition: int, offset: int) -> int:
        """Of the record that is at `offset`, or of the next one that came along."""
        kept = self._kept.get(name, {}).get(partition)
        before = 0 if kept is None else int(np.searchsorted(kept, offset))
        return self._base.get(name, {}).get(partition, 0) + before

    def end(self, name: str, partition: int) -> int:
        """Behind the last record that came along."""
        kept = self._kept.get(name, {}).get(partition, ())
        return self._base.get(name, {}).get(partition, 0) + len(kept)

    def place(self, name: str, place: Mapping[str, int]) -> dict[str, int]:
        """Of what was read by partition."""
        return {p: self.offset(name, int(p), at) for p, at in place.items()}

    def moment(self, name: str, place: Place | Mapping[str, int]) -> dict[str, int]:
        """Of what there was at one moment. In a log that is in one order that is one offset for all partitions."""
        if self._in_one_order:
            at = max(place.values(), default=0)
            return {str(p): self.offset(name, p, at) for p in self._kept.get(name, {})}
        return self.place(name, {str(p): offset for p, offset in place.items()})

    @property
    def moves(self) -> dict[str, dict[int, int]]:
        """Topic -> partition -> by how much its last record moved, where one has."""
        found: dict[str, dict[int, int]] = {}
        for name, partitions in self._kept.items():
            for partition, kept in partitions.items():
                if len(kept) and (by := self.offset(name, partition, int(kept[-1])) - int(kept[-1])):
                    found.setdefault(name, {})[partition] = by
        return found

    def record(self, name: str, record: Record) -> Record:
        """A record as it is written into the new log."""
        moved = replace(record, topic=self._new.topic(name))
        if name not in NAMING_PLACES or not record.value:
            return moved
        try:
            body = orjson.loads(record.value)
        except orjson.JSONDecodeError:  # nobody could read it there, nobody can here
            return moved
        told = self._told(body)
        return moved if told == body else replace(moved, value=orjson.dumps(told))

    def _told(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._told(item) for item in value]
        if not isinstance(value, dict):
            return value
        if value.keys() == ORIGIN and value["topic"] in self._topics and isinstance(value["offset"], int):
            name = self._topics[value["topic"]]
            at = self.offset(name, value["partition"], value["offset"])
            return {"topic": self._new.topic(name), "partition": value["partition"], "offset": at}
        return {key: self._of_field(key, held) for key, held in value.items()}

    def _of_field(self, key: str, held: Any) -> Any:
        if not isinstance(held, dict):
            return self._told(held)
        if key == "memory_offsets":
            return self.moment("memory.changed", held)
        if key == "handled":
            return self.place("document.submitted", held)
        if key == "offsets":
            return {name: self.place(name, place) for name, place in held.items()}
        return self._told(held)
