"""A process's view of memory: the fold of `memory.changed` from a snapshot and then the tail.

Invariant: `memory` is the fold of exactly the records below `offsets()` of one log. A snapshot of another
log is not taken, and a view whose log was replaced or cut ends: it never goes on from somewhere else.
The view reads without a consumer group, so it disturbs nobody, and says how far it has come in
`memory.folded`.

A view is ready when all is folded: what its indexes lack then is scanned. They take it in beside everything else,
in slices so short that a search hardly waits for one. Memory is worked on in threads: a change may wait for a
search, and a search for a change, but the stages of this process wait for neither.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from ruvllm.agents.clock import Clock
from ruvllm.agents.outbox import Emit
from ruvllm.errors import BrokerUnavailable, RuvllmError
from ruvllm.models.memory.node import Contents
from ruvllm.models.memory.snapshot import load_latest, save
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.ids import new_id
from ruvllm.schemas.memory import MemoryFolded
from ruvllm.streams.folding import fold_records
from ruvllm.streams.garbage import uncollected
from ruvllm.streams.log_reader import record_of
from ruvllm.streams.metrics import Metrics
from ruvllm.streams.records import Record
from ruvllm.streams.sender import Sender
from ruvllm.streams.topics import log_id_of

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

RECORDS_AT_ONCE = 2_000
SETTLED_AT_ONCE = 1_000
"""Vectors: 6 ms."""
SLICE_S = 0.01
"""How long an index takes in what it lacks before it lets searches have their turn."""
SLICES_OF_VECTORS = 3
"""For one of words: searches scan until the graph is there."""

REPORT_EVERY_S = 5.0
"""A view that has not reported for three times as long is taken for gone."""


@dataclass(frozen=True)
class Moment:
    """What was known at one moment, and which records of which log that is the fold of."""

    contents: Contents
    offsets: dict[str, int]
    log_id: str


class _Slices:
    """Work in slices of about `SLICE_S`: how much that is follows from how long the last one took."""

    def __init__(self) -> None:
        self._most = 4

    def take(self, work: Callable[[int], bool]) -> bool:
        """Do a slice of `work(most)`; whether any is left."""
        started = time.perf_counter()
        left = work(self._most)
        took_s = time.perf_counter() - started
        if left:  # it was a whole one
            self._most = max(1, int(self._most * min(2.0, SLICE_S / took_s)))
        return left


class MemoryView:
    """Memory kept current by a task of its own."""

    def __init__(
        self,
        bootstrap: str,
        sender: Sender,
        clock: Clock,
        metrics: Metrics,
        *,
        new_memory: Callable[[], Memory],
        embedder: str,
        dimension: int,
        folder: Path,
        snapshot_every: int,
        snapshots_kept: int,
    ) -> None:
        self.view_id = sender.source
        self._bootstrap = bootstrap
        self._sender = sender
        self._clock = clock
        self._metrics = metrics
        self._new_memory = new_memory
        self._embedder = embedder
        self._dimension = dimension
        self._folder = folder
        self._snapshot_every = snapshot_every
        self._snapshots_kept = snapshots_kept
        self._topic = sender.names.topic("memory.changed")
        self._positions: dict[int, int] = dict.fromkeys(range(sender.names.partitions), 0)
        self._log_id: str | None = None  # of the log that is folded, once it was seen
        self._since_snapshot = 0
        self._at_work: set[asyncio.Future[Any]] = set()  # in threads, on memory
        self._taking_in = asyncio.Lock()  # held while memory and positions are of different moments
        self._loading = ExitStack()  # until it has caught up
        self._caught_up = asyncio.Event()
        self._changed = asyncio.Event()  # since the indexes were looked at
        self._indexed = asyncio.Event()  # once they had everything
        self._task: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None
        self._reported: tuple[float, dict[int, int]] = (0.0, {})
        self.memory = new_memory()

    async def start(self) -> None:
        """Start to follow the log, from the newest snapshot of it that is sound."""
        self._task = asyncio.create_task(self._follow(), name="memory-view")
        self._tending = asyncio.create_task(self._tend(), name="memory-indexes")

    async def stop(self) -> None:
        """Stop following and keep a snapshot; the last report grows old, and so the view is taken for gone."""
        tasks = {task for task in (self._task, self._tending) if task is not None}
        for task in tasks:
            task.cancel()
        if ending := tasks | self._at_work:  # threads do not end with the tasks that wait for them
            await asyncio.wait(ending)
        if self._since_snapshot:
            await self._snapshot()

    async def wait_ready(self, timeout_s: float) -> None:
        """Until the view has reached what was the topic's end when it started.

        Raises what ended it before that, or TimeoutError.
        """
        assert self._task is not None
        caught_up = asyncio.create_task(self._caught_up.wait())
        await asyncio.wait({caught_up, self._task}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        caught_up.cancel()
        if self._task.done():
            self._task.result()
        if not self._caught_up.is_set():
            raise TimeoutError(f"memory has not been folded to its log's end within {timeout_s:.0f} s")

    @property
    def ready(self) -> bool:
        return self._caught_up.is_set() and self._task is not None and not self._task.done()

    @property
    def indexed(self) -> bool:
        """Whether all that was there at the start is in the indexes: searches need not scan it."""
        return self._indexed.is_set()

    @property
    def failed(self) -> bool:
        """Whether following has ended though nobody stopped it."""
        return any(task is not None and task.done() and not task.cancelled() for task in (self._task, self._tending))

    def offsets(self) -> dict[str, int]:
        """Partition -> offset of the next change; partitions that hold nothing are left out."""
        return {str(p): offset for p, offset in self._positions.items() if offset}

    async def moment(self) -> Moment:
        """Memory as the fold of exactly the records below its offsets. Readers and the fold wait for it briefly."""
        async with self._taking_in:
            return Moment(await asyncio.to_thread(self.memory.contents), self.offsets(), self._log_id or "")

    # --- following --------------------------------------------------------------------------------

    async def _follow(self) -> None:
        with self._loading:
            self._loading.enter_context(uncollected())
            await self._keep_reading()

    async def _keep_reading(self) -> None:
        while True:
            try:
                await self._read_on()
            except (KafkaError, BrokerUnavailable) as error:
                log.warning("memory_view_reconnects", error=repr(error))
                await asyncio.sleep(1.0)
            except Exception as error:
                log.error("memory_view_ends", error=str(error))
                raise

    async def _read_on(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=None,
            isolation_level="read_committed",
            auto_offset_reset="none",  # an offset that the log does not have is an error, not a jump
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )
        await consumer.start()
        try:
            places = [TopicPartition(self._topic, p) for p in self._positions]
            beginnings = await consumer.beginning_offsets(places)
            ends = await consumer.end_offsets(places)
            log_id = await log_id_of(self._bootstrap, self._topic)
            await self._go_on(log_id, {t.partition: (beginnings[t], ends[t]) for t in places})
            consumer.assign(places)
            for place in places:
                consumer.seek(place, self._positions[place.partition])
            while True:
                batch = await consumer.getmany(timeout_ms=50, max_records=RECORDS_AT_ONCE)
                async with self._taking_in:
                    await self._take_in([record_of(message) for messages in batch.values() for message in messages])
                    for place in places:
                        self._positions[place.partition] = await consumer.position(place)
                if not self._caught_up.is_set() and all(self._positions[t.partition] >= e for t, e in ends.items()):
                    while await self._in_thread(self.memory.settle, SETTLED_AT_ONCE):
                        pass
                    self._loading.close()
                    self._caught_up.set()
                if self._since_snapshot >= self._snapshot_every and self.indexed:  # so that it holds the graphs
                    await self._snapshot()
                await self._report()
        finally:
            await consumer.stop()

    async def _go_on(self, log_id: str, spans: Mapping[int, tuple[int, int]]) -> None:
        """Place the view in the log (`spans`: partition -> first and next offset), at first by a snapshot.

        Raises RuvllmError if what was folded so far is not the beginning of this log.
        """
        if self._log_id is None:
            found = await asyncio.to_thread(
                load_latest,
                self._folder,
                log_id=log_id,
                spans={str(p): span for p, span in spans.items()},
                embedder=self._embedder,
                dimension=self._dimension,
            )
            self._positions = {p: first for p, (first, _) in spans.items()}
            if found is not None:
                self.memory, offsets = found
                self._positions.update({int(p): offset for p, offset in offsets.items()})
            self._log_id = log_id
        outside = [p for p, (first, end) in spans.items() if not first <= self._positions[p] <= end]
        if log_id != self._log_id or outside:
            raise RuvllmError(
                f"memory was folded from log {self._log_id}, and this is {log_id}"
                + (f", which does not hold what comes next in partitions {outside}" if outside else ""),
                hint="Were topics deleted, or the broker's data? Start again: memory is folded from what is there.",
            )

    async def _take_in(self, records: Sequence[Record]) -> None:
        if records:
            await self._in_thread(self._fold, records)
            self._changed.set()

    async def _tend(self) -> None:
        """Have the indexes take in what was folded."""
        words, vectors = _Slices(), _Slices()
        await self._caught_up.wait()
        while True:
            self._changed.clear()
            left = True
            while left:
                left = await self._in_thread(words.take, self.memory.catch_up)
                for _ in range(SLICES_OF_VECTORS):
                    left |= await self._in_thread(vectors.take, self.memory.grow)
            self._indexed.set()
            await self._changed.wait()

    async def _in_thread(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Work on memory beside the loop. Cancelled or not, `stop` finds it."""
        working = asyncio.ensure_future(asyncio.to_thread(work, *arguments, **named))
        self._at_work.add(working)
        working.add_done_callback(self._at_work.discard)
        return await asyncio.shield(working)

    def _fold(self, records: Sequence[Record]) -> None:
        for reason in fold_records(self.memory, records):
            log.error("memory_change_left_out", reason=reason)
        self._since_snapshot += len(records)

    async def _snapshot(self) -> None:
        assert self._log_id is not None
        try:
            await self._in_thread(
                save,
                self.memory,
                self.offsets(),
                self._folder,
                log_id=self._log_id,
                keep=self._snapshots_kept,
                name=new_id(),
            )
        except OSError as error:  # a snapshot spares time at the next start, nothing else
            log.error("snapshot_failed", folder=str(self._folder), error=str(error))
        self._since_snapshot = 0

    async def _report(self) -> None:
        at, positions = self._reported
        now = time.monotonic()
        if positions == self._positions and now - at < REPORT_EVERY_S:
            return
        self._reported = (now, dict(self._positions))
        self._metrics.memory_nodes.set((await self._in_thread(self.memory.stats)).nodes)
        if self._caught_up.is_set():
            await self._sender.send(
                [Emit(MemoryFolded(time=self._clock.now(), view_id=self.view_id, offsets=self.offsets()))]
            )
