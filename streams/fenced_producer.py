"""The transactional producer of an owner: its name belongs to one partition of one group.

Invariant: a transaction is committed only when every record of it has been written, and whoever takes
the name next ends what was left open. aiokafka alone does not see to the first: a record that the
broker refuses fails its own future, and the commit goes through without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.producer import sender as aiokafka_sender

from ruvllm.agents.outbox import Emit, Outbox
from ruvllm.streams.fault_points import reach
from ruvllm.streams.records import Record, outgoing
from ruvllm.streams.sender import put
from ruvllm.streams.topics import MAX_RECORD_BYTES
from ruvllm.streams.topology import Names

log = structlog.get_logger(__name__)

# aiokafka waits this long when a transaction starts while the last one's end is still being written;
# its 20 ms make back-to-back transactions take 24 ms instead of 4.
aiokafka_sender.BACKOFF_OVERRIDE = 0.002

TRANSACTION_TIMEOUT_S = 60.0
STEP_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 3.0

Effect = tuple[Outbox, Record | None]
"""What is to happen, and the record that it happens because of (None: a deadline)."""


class FencedProducer:
    """Writes effects, each call in one transaction. After any error it is to be stopped and made anew."""

    def __init__(
        self,
        name: str,
        bootstrap: str,
        names: Names,
        source: str,
        new_producer: Callable[..., Any] = AIOKafkaProducer,
    ) -> None:
        self._names = names
        self._source = source
        self._producer = new_producer(
            bootstrap_servers=bootstrap,
            transactional_id=name,
            transaction_timeout_ms=int(TRANSACTION_TIMEOUT_S * 1000),
            acks="all",
            linger_ms=0,
            max_request_size=MAX_RECORD_BYTES,
        )
        self._transaction: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take the name: fences whoever had it, and ends the transaction that was left open."""
        await asyncio.wait_for(self._producer.start(), STEP_TIMEOUT_S)

    async def write(self, effects: Sequence[Effect]) -> None:
        """One transaction with all that goes to our own topics. Returns when it is committed.

        Raises what Kafka raises, or TimeoutError; what became of the transaction is then to be read
        from the state. To cancel this call does not cancel the transaction.
        """
        self._transaction = asyncio.create_task(self._transact(effects))
        done, _ = await asyncio.wait({self._transaction}, timeout=STEP_TIMEOUT_S)
        if not done:
            self._transaction.cancel()
            raise TimeoutError(f"a transaction took longer than {STEP_TIMEOUT_S} s")
        self._transaction.result()

    async def stop(self) -> None:
        """Leave, but not under a running transaction."""
        if self._transaction is not None:
            await asyncio.wait({self._transaction}, timeout=STEP_TIMEOUT_S)
        try:
            await asyncio.wait_for(self._producer.stop(), STOP_TIMEOUT_S)
        except Exception as error:  # it was broken already; its name is fenced by the next owner
            log.info("producer_stop_failed", error=repr(error))

    def record(self, emit: Emit, cause: Record | None) -> Record:
        parent = cause.headers if cause else None
        return outgoing(emit, self._names, source=self._source, parent=parent)

    async def _transact(self, effects: Sequence[Effect]) -> None:
        producer = self._producer
        await producer.begin_transaction()
        sent: list[Any] = []
        for outbox, cause in effects:
            changes = []
            for emit in outbox.emits:
                if emit.topic is None:
                    sent.append(await put(producer, self.record(emit, cause)))
                    if emit.event.topic == "memory.changed":
                        changes.append(sent[-1])
            if outbox.receipt is not None:
                written = [await change for change in changes]
                offsets = {str(place.partition): place.offset + 1 for place in written}
                sent.append(await put(producer, self.record(Emit(outbox.receipt(offsets)), cause)))
        await asyncio.gather(*sent)
        reach("sent")
        await producer.commit_transaction()
