"""A replayed memory beside what a live process has, or a snapshot: the same, or where the first difference is.

Invariant: both sides are the fold of the same records: the replay goes on to exactly the offsets that the other side
names, and what is compared was folded to them.
"""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ruvllm.agents.memory_fold import CHANGES
from ruvllm.errors import InvalidRequest, RuvllmError
from ruvllm.models.memory.sameness import differences
from ruvllm.models.memory.snapshot import load_latest
from ruvllm.schemas.memory import EdgeChange, NodeChange
from ruvllm.streams.guard import read
from ruvllm.streams.history.replay import MEMORY, Replay
from ruvllm.streams.history.source import Place, Source
from ruvllm.streams.live_memory import Item, items_of
from ruvllm.streams.processes import Processes
from ruvllm.streams.settings import Settings

HTTP_TIMEOUT_S = 120.0
CATCH_UP_S = 60.0


@dataclass(frozen=True)
class LastEvent:
    """The last change of a node or an edge before the place that was compared. `time` is the event's own."""

    topic: str
    partition: int
    offset: int
    time: str
    kind: str
    made_by: str


@dataclass(frozen=True)
class Found:
    """The first thing that is not the same. `lacks`: the side that does not have it; none: both do, differently."""

    kind: str
    tenant: str
    id: str
    made_by: str
    lacks: str | None
    what: str
    last_event: LastEvent | None

    def __str__(self) -> str:
        maker = f" by {self.made_by}" if self.made_by else ""
        last = self.last_event
        where = (
            f"; its last event is {last.kind} at {last.topic} {last.partition}:{last.offset}, {last.time}"
            + (f", made by {last.made_by}" if last.made_by else "")
            if last
            else "; the log up to there holds no event of it"
        )
        return f"{self.kind} {self.id}{maker} of {self.tenant}: {self.what}{where}"


@dataclass(frozen=True)
class Verified:
    """What was compared with what, at which offsets."""

    against: str
    offsets: dict[str, int]
    digest: str
    equal: bool
    first_difference: Found | None = None
    in_force: Mapping[str, str | None] | None = None
    training_offsets: Mapping[str, int] | None = None


class Live:
    """A worker of this installation that has a memory."""

    def __init__(self, settings: Settings, worker: str | None = None) -> None:
        """The one named, else the first that answers. Raises RuvllmError if there is none."""
        processes = Processes(settings)
        names = [worker] if worker else sorted(file.stem for file in processes.folder.glob("*.json"))
        for name in names:
            state = processes.state(name)
            if state.running and state.port is not None and _has_memory(state.port):
                self.name, self._port = name, state.port
                return
        raise RuvllmError(
            f"no worker with a memory answers on this machine ({processes.folder} lists {', '.join(names) or 'none'})",
            hint="`ruvllm up` starts the service; --snapshot FOLDER compares with a snapshot of it.",
        )

    def state(self) -> dict[str, Any]:
        """What it says at `/memory`."""
        with self._get("memory") as answer:
            found: dict[str, Any] = orjson.loads(answer.read())
        return found

    def items(self) -> tuple[dict[str, Any], list[Item]]:
        """The same, and every item of that moment."""
        with self._get("memory/items") as answer:
            said: dict[str, Any] = orjson.loads(answer.readline())
            return said, [Item(*orjson.loads(line)) for line in answer]

    def _get(self, page: str) -> Any:
        return urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{page}", timeout=HTTP_TIMEOUT_S)


def _has_memory(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/memory", timeout=HTTP_TIMEOUT_S):
            return True
    except (OSError, urllib.error.HTTPError):  # the pool has none
        return False


async def against_live(source: Source, replay: Replay, live: Live) -> Verified:
    """Fold on to where a live worker is, and compare. Raises RuvllmError if it follows another log or stays behind."""
    said = await _reached(source, replay, live)
    digest = replay.memory.digest()
    found = None
    if digest != said["digest"]:
        said, items = await asyncio.to_thread(live.items)
        await replay.fold_to(_place(said["offsets"], replay))
        digest = replay.memory.digest()
        contents = replay.memory.contents()
        if digest != said["digest"]:
            until = _place(said["offsets"], replay)
            found = await first_difference(source, items_of(contents), items, until, "the live memory")
    in_force = {name: said[name] for name in ("attention", "router")}
    equal = digest == said["digest"]
    return Verified(live.name, said["offsets"], said["digest"], equal, found, in_force, said["training_offsets"])


async def _reached(source: Source, replay: Replay, live: Live) -> dict[str, Any]:
    """What the worker says once it is where the replay is or further, and the replay is where it is."""
    give_up_at = time.monotonic() + CATCH_UP_S
    while True:
        said = await asyncio.to_thread(live.state)
        if said["log"] != await source.log_id(MEMORY):
            raise RuvllmError(
                f"worker {live.name} follows the log {said['log']}, not {await source.log_id(MEMORY)}",
                hint="Is it of another broker or prefix? `ruvllm config`.",
            )
        until = _place(said["offsets"], replay)
        if all(until.get(p, 0) >= at for p, at in replay.progress.positions.items()):
            await replay.fold_to(until)
            return said
        if time.monotonic() > give_up_at:
            raise RuvllmError(f"worker {live.name} stays behind what was replayed", hint="`ruvllm status`.")
        await asyncio.sleep(0.2)


def _place(offsets: Mapping[str, int], replay: Replay) -> dict[int, int]:
    """Every partition's; a live worker leaves out those that hold nothing."""
    return {p: offsets.get(str(p), 0) for p in replay.progress.start}


async def against_snapshot(source: Source, replay: Replay, folder: Path) -> Verified:
    """Fold on to where the newest snapshot in a folder is, and compare.

    Raises InvalidRequest if there is none of this log, or if the replay is beyond it.
    """
    mine = replay.memory
    spans = {str(p): span for p, span in (await source.spans(MEMORY)).items()}
    log_id = await source.log_id(MEMORY)
    loaded = load_latest(folder, log_id=log_id, spans=spans, embedder=mine.embedder, dimension=mine.dimension)
    if loaded is None:
        raise InvalidRequest(
            f"{folder} holds no snapshot of the log {log_id}", hint="`ruvllm memory backup FOLDER` makes one."
        )
    other, offsets = loaded
    until = _place(offsets, replay)
    if any(until[p] < at for p, at in replay.progress.positions.items()):
        raise InvalidRequest("the replay is beyond the snapshot", hint="--anew starts over.")
    await replay.fold_to(until)
    contents, theirs = mine.contents(), other.contents()
    found = None
    if next(differences(contents, theirs, half_life_s=mine.half_life_s), None) is not None:
        found = await first_difference(source, items_of(contents), items_of(theirs), until, "the snapshot")
    return Verified(str(folder), offsets, theirs.digest(), found is None, found)


async def first_difference(
    source: Source, mine: Iterable[Item], theirs: Iterable[Item], until: Place, other: str
) -> Found | None:
    """The first in canonical order, nodes before edges, with the last event of that id in the log."""
    one, two = ({item[:4]: item.sha256 for item in items} for items in (mine, theirs))
    order = sorted(one.keys() | two.keys(), key=lambda key: (key[0] != "node", key))
    for key in order:
        if one.get(key) == two.get(key):
            continue
        lacks = other if key not in two else "the replay" if key not in one else None
        what = f"{lacks} lacks it" if lacks else "its content differs"
        return Found(*key, lacks, what, await last_event(source, key[2], until))
    return None


async def last_event(source: Source, item_id: str, until: Place) -> LastEvent | None:
    """Of a node or an edge, up to a place."""
    found = None
    name = item_id.encode()
    async for batch in source.read(MEMORY, None, until):
        for record in batch:
            if name not in (record.value or b""):
                continue
            try:
                event = read(record, CHANGES)
            except RuvllmError:
                continue
            of_node = isinstance(event, NodeChange) and event.node_id == item_id
            if of_node or (isinstance(event, EdgeChange) and event.edge_id == item_id):
                maker = getattr(event, "made_by", "")
                place = record.topic, record.partition or 0, record.offset
                found = LastEvent(*place, event.time.isoformat(), event.kind, maker)
    return found
