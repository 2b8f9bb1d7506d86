"""The guarded Faust consumer: commits the first delivered offset that has no acknowledgement.

Why Faust 0.15's own consumer is not enough (measured; docs/decisions/0003):
- it takes offsets for consecutive, but transactions leave gaps (their markers), and its commits
  stall or creep;
- it reads uncommitted records, and loses those of a partition that has no commit yet when resuming
  is slow;
- it forgets the acknowledgements since the last commit before the commit that ends a rebalance;
- it commits even when the group has dropped it, which the broker accepts while the group is empty;
- its round-robin assignor does not put the same partition of two topics on one worker, on which the
  desk relies.

Invariant: an offset is committed only when it and all delivered before it are acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Set
from typing import Any

import faust
from aiokafka import TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from faust.transport.drivers import aiokafka as driver
from mode.utils.futures import maybe_async

from ruvllm.streams.fault_points import reach
from ruvllm.streams.fetch_session import use_fetch_sessions
from ruvllm.streams.safeguards import is_off


class Ledger:
    """Offsets delivered of one partition, in order, and which of them are done."""

    def __init__(self) -> None:
        self._done: dict[int, bool] = {}  # in order of delivery
        self._next: int | None = None

    def delivered(self, offset: int) -> None:
        """Note a delivery. What lies before the committed position was done in an earlier life."""
        if self._next is None or offset >= self._next:
            self._done.setdefault(offset, False)

    def acknowledged(self, offset: int) -> None:
        if offset in self._done:
            self._done[offset] = True

    def position(self) -> int | None:
        """The offset to commit: one past the last of the unbroken run of done ones; None if none yet."""
        while self._done:
            first = next(iter(self._done))
            if not self._done[first] and not is_off("ledger"):
                break
            del self._done[first]
            self._next = first + 1
        return self._next

    @property
    def open(self) -> int:
        """How many are delivered and not committed yet."""
        return len(self._done)


class InLoopConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread without the thread: it reads committed records, in the app's own loop.

    Faust keeps a thread a consumer so that slow agents do not delay heartbeats. Ours await: models
    run in threads and processes of their own. Four consumers in four threads cost each record two
    hand-overs and a fight for the interpreter (docs/log.md has the figures).
    """

    def __init__(self, consumer: Any, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        super().__init__(consumer, loop=loop, thread_loop=loop, **kwargs)

    async def start(self) -> None:
        self._thread_started.set()
        await self._default_start()

    async def stop(self) -> None:
        if self._started.is_set() and not self._stopped.is_set():
            self._stopped.set()
            await self._shutdown_thread()

    async def _commit(self, offsets: Any) -> bool:
        """As a member of the group only: as a stranger we would commit what another worker has yet to do."""
        if self._ensure_consumer()._coordinator.generation < 0:
            return False
        reach("offsets")
        return bool(await super()._commit(offsets))

    async def call_thread(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await maybe_async(fun(*args, **kwargs))

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # both are read when the consumer starts
        consumer._partition_assignment_strategy = [RangePartitionAssignor]
        use_fetch_sessions(consumer)
        return consumer


class LedgerConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer with a `Ledger` a partition in place of its own arithmetic."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._ledgers: dict[Any, Ledger] = {}
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> InLoopConsumerThread:
        return InLoopConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def _to_message(self, tp: Any, record: Any) -> Any:
        self._ledgers.setdefault(tp, Ledger()).delivered(record.offset)
        return super()._to_message(tp, record)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Any:
        return (tp for tp in list(self._ledgers) if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: Any) -> int | None:
        return self._noted(tp).position()

    def _noted(self, tp: Any) -> Ledger:
        """The ledger of a partition, with all that has been acknowledged."""
        ledger = self._ledgers.setdefault(tp, Ledger())
        done = self._acked[tp]
        for offset in done:
            ledger.acknowledged(offset)
        done.clear()
        self._acked_index[tp].clear()
        return ledger

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Gaps need no bookkeeping: the ledger holds what was delivered and nothing else."""

    async def wait_empty(self) -> None:
        """Wait for what is under way, but not for what waits for its turn: that is given back first."""
        if self.app.give_back is not None:
            await self.app.give_back()
        await super().wait_empty()

    async def on_partitions_revoked(self, revoked: Any) -> None:
        for tp in list(self._acked):
            self._noted(tp)  # before Faust forgets them: the last commit is still to come
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        self._ledgers.clear()  # whatever was open will be delivered again
        self._acked.clear()
        self._acked_index.clear()
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Seek to what is committed, and to the beginning where nothing is."""
        await super().perform_seek()
        fresh = [self._new_topicpartition(*tp) for tp in self.assignment() if not self._committed_offset.get(tp)]
        if fresh:
            await self._thread.seek_to_beginning(*fresh)

    def verify_event_path(self, now: float, tp: Any) -> None:
        """Faust's look for partitions that stand still. It only logs, but ends the app where one has no position yet.

        Ours is in `health.py`.
        """

    def abandon(self, message: Any) -> None:
        """Give up a message whose partition went to another worker: nobody waits for it any more."""
        self._unacked_messages.discard(message)

    def assigned(self) -> Set[TopicPartition]:
        """The coordinator's last word, without the copy that `assignment` makes."""
        return self._thread._ensure_consumer().assignment()  # type: ignore[no-any-return]

    def open_deliveries(self) -> int:
        """How many messages were delivered and are not done."""
        return sum(ledger.open for ledger in self._ledgers.values())


class LedgerTransport(driver.Transport):  # type: ignore[misc]
    Consumer = LedgerConsumer


class LedgerApp(faust.App):  # type: ignore[misc]
    """A Faust app on the guarded consumer. `give_back` makes owners let go, before a rebalance waits for them."""

    give_back: Callable[[], Awaitable[None]] | None = None

    def _new_transport(self) -> LedgerTransport:
        return LedgerTransport(self.conf.broker_consumer, self)
