"""aiokafka while no broker answers: it asks at a pace, and a worker waits for its broker instead of ending.

aiokafka asks for metadata again without a pause: a producer that has something for a partition without a known leader
asks, is refused at once, and asks again. Three workers without a broker took 1.3 cores (docs/log.md), which the
broker lacks when it starts again. And what connects while the broker is away gives up at once, so that a worker ended
if its broker went in the second in which it started.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError

_update = AIOKafkaClient._metadata_update
_bootstrap = AIOKafkaClient.bootstrap

PAUSE_S = 0.5


async def _paced_update(client: AIOKafkaClient, cluster: Any, topics: Any) -> bool:
    """As aiokafka's, and after a failure `retry_backoff_ms` later."""
    updated = bool(await _update(client, cluster, topics))
    if not updated:
        await asyncio.sleep(client._retry_backoff)
    return updated


def pace_metadata() -> None:
    """From here on in this process. A second call changes nothing."""
    AIOKafkaClient._metadata_update = _paced_update


def wait_for_broker(limit_s: float) -> None:
    """From here on whatever connects in this process waits so long for a broker, and raises as before then."""

    async def patient(client: AIOKafkaClient) -> None:
        give_up_at = time.monotonic() + limit_s
        while True:
            try:
                await _bootstrap(client)
            except KafkaConnectionError:
                if time.monotonic() + PAUSE_S > give_up_at:
                    raise
                await asyncio.sleep(PAUSE_S)
            else:
                return

    AIOKafkaClient.bootstrap = patient
