"""The idempotent producer of a process: a send counts when all replicas have it.

Invariant: `send` returns only when every record is written. While the broker is away it waits and
tries again, for as long as it takes: nothing is dropped because Kafka is slow.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from ruvllm.agents.outbox import Emit
from ruvllm.streams.records import Record, outgoing
from ruvllm.streams.topics import MAX_RECORD_BYTES
from ruvllm.streams.topology import Names

log = structlog.get_logger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


class Sender:
    """Sends events of one process, named `source`, in the order given."""

    def __init__(self, bootstrap: str, names: Names, *, source: str) -> None:
        self.names = names
        self.source = source
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_request_size=MAX_RECORD_BYTES,
        )

    async def start(self) -> None:
        await self._producer.start()

    async def stop(self) -> None:
        await self._producer.stop()

    async def send(self, emits: Iterable[Emit], *, parent: Mapping[str, bytes] | None = None) -> None:
        """Send events; returns when all are written."""
        await self.write([outgoing(e, self.names, source=self.source, parent=parent) for e in emits])

    async def write(self, records: Iterable[Record]) -> None:
        """Write records; returns when all are written, however often that takes a new try."""
        waiting = list(records)
        pause = FIRST_PAUSE_S
        while waiting:
            try:
                futures = [await put(self._producer, record) for record in waiting]
            except KafkaError as error:
                results: list[Any] = [error] * len(waiting)
            else:
                results = await asyncio.gather(*futures, return_exceptions=True)
            failed = [r for r, result in zip(waiting, results, strict=True) if isinstance(result, BaseException)]
            if failed:
                reason = next(r for r in results if isinstance(r, BaseException))
                if not isinstance(reason, KafkaError):
                    raise reason
                log.warning("send_again", records=len(failed), topic=failed[0].topic, error=repr(reason))
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, LONGEST_PAUSE_S)
            waiting = failed


async def put(producer: AIOKafkaProducer, record: Record) -> Any:
    """Hand one record to a producer; the future it returns resolves to the record's metadata."""
    return await producer.send(
        record.topic,
        value=record.value,
        key=record.key,
        partition=record.partition,
        headers=list(record.headers.items()),
    )
