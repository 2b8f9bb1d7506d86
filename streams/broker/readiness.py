"""Does a broker answer? An open port is not enough: it must name itself in the cluster's metadata.

Kafka opens its port before it has joined its own cluster; until then a topic cannot be made. Only a
metadata answer that lists a broker says that it takes work.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

Answers = Callable[[str], bool]

_REQUEST_TIMEOUT_S = 3.0
_POLL_S = 0.05


def answers(bootstrap: str) -> bool:
    """Whether a broker at `bootstrap` (`host:port`, or several with commas) is part of a live cluster.

    Blocks for at most a few seconds; not to be called on an event loop's thread.
    """
    if not any(port_open(*_address(server)) for server in bootstrap.split(",")):
        return False  # aiokafka would report each refused connection as an error
    with _quiet():
        return asyncio.run(_lists_a_broker(bootstrap))


def wait_until_answers(
    bootstrap: str,
    timeout_s: float,
    *,
    alive: Callable[[], bool],
    answers: Answers = answers,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Poll until the broker answers (True), or it is no longer `alive` or the time is over (False)."""
    deadline = clock() + timeout_s
    while alive() and clock() < deadline:
        if answers(bootstrap):
            return True
        sleep(_POLL_S)
    return False


def port_open(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=_REQUEST_TIMEOUT_S):
            return True
    except OSError:
        return False


def _address(server: str) -> tuple[str, int]:
    host, _, port = server.strip().rpartition(":")
    return (host.strip("[]"), int(port)) if host else (server.strip(), 9092)


async def _lists_a_broker(bootstrap: str) -> bool:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=int(_REQUEST_TIMEOUT_S * 1000))
    try:
        async with asyncio.timeout(_REQUEST_TIMEOUT_S):
            await admin.start()
            cluster = await admin.describe_cluster()
    except (OSError, KafkaError, TimeoutError):
        return False
    finally:
        await admin.close()
    return bool(cluster["brokers"])


@contextmanager
def _quiet() -> Iterator[None]:
    """A broker that is not up yet is what we ask about, not an error to log."""
    logger = logging.getLogger("aiokafka")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
