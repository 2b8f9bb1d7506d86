"""Connections to the broker, opened and closed in one way: all or none, and an error of ours if nobody answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from aiokafka.errors import KafkaConnectionError

from ruvllm.errors import BrokerUnavailable


class Connection(Protocol):
    """A consumer, a producer, a sender."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@asynccontextmanager
async def connected(bootstrap: str, *connections: Connection) -> AsyncIterator[None]:
    """Start them in this order, and stop them all in the end, also when one of them does not start.

    Raises BrokerUnavailable if nobody answers at `bootstrap`.
    """
    try:
        for connection in connections:
            try:
                await connection.start()
            except (KafkaConnectionError, OSError) as error:
                raise BrokerUnavailable(f"no Kafka broker answers at {bootstrap}") from error
        yield
    finally:
        await asyncio.gather(*(connection.stop() for connection in connections))
