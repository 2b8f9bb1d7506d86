"""aiokafka asks for metadata again without a pause while no broker answers; here it waits its back-off.

A producer that has something to send to a partition without a known leader asks, waits for the answer and asks
again; where the connection is refused, the answer (no) comes at once. Three workers without a broker took all of
two cores (docs/log.md), which the broker lacks when it starts again.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.client import AIOKafkaClient

_update = AIOKafkaClient._metadata_update


async def _paced_update(client: AIOKafkaClient, cluster: Any, topics: Any) -> bool:
    """As aiokafka's, and after a failure `retry_backoff_ms` later."""
    updated = bool(await _update(client, cluster, topics))
    if not updated:
        await asyncio.sleep(client._retry_backoff)
    return updated


def pace_metadata() -> None:
    """From here on in this process. A second call changes nothing."""
    AIOKafkaClient._metadata_update = _paced_update
