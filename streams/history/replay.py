"""A stretch of the log folded into fresh state, in a folder of its own beside the live one.

Invariant: what the folder holds is the fold of exactly the records from the range's start to its positions; broken
off at any moment it goes on from its last save and ends as if nothing had been. It reads without a group and writes
nothing but its folder: `memory/` (a snapshot with its offsets), `checkpoints/` (what new runs have learnt) and
`replay.json` (everything else). The fold of training runs is short and is folded again each time.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from ruvllm.errors import InvalidRequest
from ruvllm.models.memory.snapshot import load_latest, save
from ruvllm.models.memory.store import Memory
from ruvllm.streams.folding import fold_records
from ruvllm.streams.garbage import uncollected
from ruvllm.streams.history.exported import Advance
from ruvllm.streams.history.ranges import Range
from ruvllm.streams.history.source import Place, Source

MEMORY = "memory.changed"
FORMAT = 1
SAVE_EVERY = 200_000
"""Events folded between two saves."""

Loop = Literal["memory", "attention", "router"]


@dataclass
class Progress:
    """What `replay.json` says. `start` and `positions` are places of `memory.changed`; times are of folding, in s."""

    log: str
    range: tuple[str, str]
    start: dict[int, int]
    positions: dict[int, int]
    events: int = 0
    left_out: int = 0
    seconds: float = 0.0
    runs: list[dict[str, Any]] = field(default_factory=list)


class Interrupted(Exception):
    """It was told to stop; what was folded is saved."""


class Replay:
    """A memory on its way from the start of a range towards its end.

    `advance` is told how many events more are folded; once `stop` is set, the fold ends with Interrupted.
    """

    def __init__(self, source: Source, folder: Path, memory: Memory, progress: Progress, *, every: int) -> None:
        self.stop = asyncio.Event()
        self.advance: Advance = lambda _: None
        self.memory = memory
        self.progress = progress
        self.folder = folder
        self._source = source
        self._every = every
        self._unsaved = 0

    async def fold_to(self, end: Place) -> None:
        """Fold on to a place, with a save now and then."""
        with uncollected():
            await self._fold_to(end)

    async def _fold_to(self, end: Place) -> None:
        progress = self.progress
        started, before = time.perf_counter(), progress.seconds
        async for batch in self._source.read(MEMORY, progress.positions, end):
            progress.left_out += len(fold_records(self.memory, batch))
            for record in batch:
                progress.positions[0 if self._source.in_one_order else record.partition or 0] = record.offset + 1
            progress.events += len(batch)
            progress.seconds = before + time.perf_counter() - started
            self._unsaved += len(batch)
            self.advance(len(batch))
            if self._unsaved >= self._every or self.stop.is_set():
                await self.save()
            if self.stop.is_set():
                raise Interrupted
        for partition, at in end.items():
            progress.positions[partition] = max(progress.positions.get(partition, 0), at)

    async def save(self) -> None:
        """Have on the disk what was folded so far."""
        if self._unsaved or not (self.folder / "replay.json").exists():
            offsets = {str(p): at for p, at in self.progress.positions.items()}
            await asyncio.to_thread(
                save, self.memory, offsets, self.folder / "memory", log_id=self.progress.log, keep=1, name="replay"
            )
            self._unsaved = 0
        note(self.folder, self.progress)


def note(folder: Path, progress: Progress) -> None:
    """Write `replay.json`: readers see the whole of it or the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "replay.part"
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    partial.write_bytes(orjson.dumps({"format": FORMAT, **vars(progress)}, option=options))
    partial.replace(folder / "replay.json")


async def begin(
    source: Source,
    folder: Path,
    new_memory: Callable[[], Memory],
    stretch: Range,
    words: tuple[str, str],
    *,
    anew: bool = False,
    every: int = SAVE_EVERY,
) -> Replay:
    """What the folder holds of this very replay, or its beginning. `words`: the range as it was given.

    Raises InvalidRequest if the folder holds another one and `anew` is not given.
    """
    log_id = await source.log_id(MEMORY)
    start, _ = await stretch.places(source, MEMORY)
    empty = new_memory()
    known = None if anew else _known(folder)
    if anew:
        for left in ("memory", "checkpoints"):
            shutil.rmtree(folder / left, ignore_errors=True)
        (folder / "replay.json").unlink(missing_ok=True)
    if known is None:
        return Replay(source, folder, empty, Progress(log_id, words, start, dict(start)), every=every)
    for what, held, wanted in (("log", known.log, log_id), ("range", known.range, words)):
        if held != wanted:
            raise InvalidRequest(
                f"{folder} holds the replay of another {what}: {_shown(held)}, not {_shown(wanted)}",
                hint="--anew starts over there; --into names another folder.",
            )
    spans = {str(p): span for p, span in (await source.spans(MEMORY)).items()}
    found = await asyncio.to_thread(
        load_latest, folder / "memory", log_id=log_id, spans=spans, embedder=empty.embedder, dimension=empty.dimension
    )
    if found is None:
        raise InvalidRequest(f"the memory in {folder} fits neither this log nor these settings", hint="--anew.")
    memory, offsets = found
    known.positions = {int(p): at for p, at in offsets.items()}
    return Replay(source, folder, memory, known, every=every)


def _known(folder: Path) -> Progress | None:
    try:
        given = orjson.loads((folder / "replay.json").read_bytes())
        if given.pop("format") != FORMAT:
            raise InvalidRequest(f"{folder / 'replay.json'} is of another format", hint="--anew starts over.")
        for name in ("start", "positions"):
            given[name] = {int(p): at for p, at in given[name].items()}
        return Progress(**{**given, "range": tuple(given["range"])})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{folder / 'replay.json'} cannot be read: {error!r}", hint="--anew.") from error


def _shown(value: object) -> str:
    return " to ".join(value) if isinstance(value, tuple) else str(value)


async def interleaved(
    source: Source, new_memory: Callable[[], Memory], start: Place, end: Place, partitions: Collection[int], seed: int
) -> Memory:
    """The same records folded partition after partition, in an order drawn by `seed`."""
    order = sorted(partitions)
    random.Random(seed).shuffle(order)
    memory = new_memory()
    for partition in order:
        async for batch in source.read(MEMORY, start, end, {partition}):
            fold_records(memory, batch)
    return memory


def rate(events: int, seconds: float) -> float:
    """Events a second."""
    return round(events / seconds, 1) if seconds else 0.0
