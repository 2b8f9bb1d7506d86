"""A client without a broker asks for metadata at a pace."""

import asyncio
import time

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError

from ruvllm.streams import metadata_pace
from ruvllm.streams.metadata_pace import pace_metadata


async def test_a_failed_update_of_metadata_takes_its_back_off(monkeypatch):
    # given a client with nobody to ask and a back-off of 50 ms; when it updates three times; then that takes 150 ms
    pace_metadata()
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1", retry_backoff_ms=50)
    started = time.monotonic()
    for _ in range(3):
        assert not await client._metadata_update(client.cluster, set())
    assert time.monotonic() - started >= 0.15


async def test_a_good_one_takes_no_time(monkeypatch):
    # given a client whose broker answers; when it updates; then it does not wait
    async def answered(client, cluster, topics):
        return True

    monkeypatch.setattr(metadata_pace, "_update", answered)
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1", retry_backoff_ms=60_000)
    async with asyncio.timeout(1):
        assert await client._metadata_update(client.cluster, set())


async def test_to_pace_twice_is_to_pace_once():
    # given a paced client; when paced again; then it still ends, with aiokafka's own error where nobody answers
    pace_metadata()
    pace_metadata()
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    with pytest.raises(KafkaConnectionError):
        await client.bootstrap()
    await client.close()
