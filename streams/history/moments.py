"""Memory as it was: folded to a place of `memory.changed`, from the nearest snapshot that is not beyond it.

Invariant: what is folded to a place holds exactly the changes below it, whichever snapshot it started from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ruvllm.models.memory.store import Memory
from ruvllm.schemas.memory import MemoryChange
from ruvllm.streams.folding import fold_records
from ruvllm.streams.history.picking import anything, picked
from ruvllm.streams.history.ranges import Range, point_of
from ruvllm.streams.history.source import Source
from ruvllm.streams.memory_tools.reading import start_from

MEMORY = "memory.changed"
LAST = 20
"""Places before a moment in which its last change is looked for: transactions leave markers between."""


@dataclass(frozen=True)
class Moment:
    """A place of `memory.changed`, partition -> next offset, and the time that it is looked from."""

    name: str
    at: datetime
    place: dict[int, int]


async def moment_of(source: Source, text: str, option: str, now: datetime) -> Moment:
    """What a word of a command line means: `beginning`, `end` (`now`), a time, or places.

    Places are looked from when the last change before them happened. Raises InvalidRequest.
    """
    point = point_of(text, option)
    place = (await Range(point, "end").places(source, MEMORY))[0]
    if isinstance(point, datetime):
        return Moment(text, point, place)
    return Moment(text, now if point == "end" else await _last_change(source, place) or now, place)


async def place_of(source: Source, offsets: Mapping[str, int]) -> dict[int, int]:
    """An event's `memory_offsets`, every partition named."""
    return {partition: int(offsets.get(str(partition), 0)) for partition in await source.spans(MEMORY)}


async def _last_change(source: Source, place: Mapping[int, int]) -> datetime | None:
    before = {partition: max(0, offset - LAST) for partition, offset in place.items()}
    found = picked(source, MEMORY, anything, before, place)
    return max([change.time async for _, change in found if isinstance(change, MemoryChange)], default=None)


@dataclass
class MemoryThen:
    """A memory that is folded from place to place. `snapshot`: the folder that it started from, if any."""

    source: Source
    memory: Memory
    place: dict[int, int] = field(default_factory=dict)
    snapshot: Path | None = None

    @classmethod
    async def at(
        cls, source: Source, place: Mapping[int, int], new_memory: Callable[[], Memory], state_folder: Path | None
    ) -> MemoryThen:
        """Memory below `place`. `state_folder`: where workers keep snapshots; None: from the log's beginning."""
        then = cls(source, new_memory())
        if state_folder is not None:
            spans = {str(p): span for p, span in (await source.spans(MEMORY)).items()}
            most = {str(partition): offset for partition, offset in place.items()}
            log_id = await source.log_id(MEMORY)
            found = await asyncio.to_thread(start_from, state_folder, log_id, spans, new_memory, most)
            then.memory, then.snapshot = found[0], found[2]
            then.place = {int(partition): offset for partition, offset in found[1].items()}
        await then.fold_on(place)
        return then

    def is_before(self, place: Mapping[int, int]) -> bool:
        """Whether folding on leads there."""
        return all(offset <= place.get(partition, 0) for partition, offset in self.place.items())

    async def fold_on(self, place: Mapping[int, int]) -> None:
        """Fold what lies between, and take in the words of all passages, as a serving process has."""
        async for records in self.source.read(MEMORY, self.place, place):
            fold_records(self.memory, records)
        self.place = dict(place)
        await asyncio.to_thread(self._take_in_words)

    def _take_in_words(self) -> None:
        while self.memory.catch_up(10_000):
            pass
