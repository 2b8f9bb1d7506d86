"""A client without a broker asks for metadata at a pace, and a worker's waits."""

import asyncio
import time

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError

from ruvllm.streams import broker_away
from ruvllm.streams.broker_away import pace_metadata, wait_for_broker


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

    monkeypatch.setattr(broker_away, "_update", answered)
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


async def test_a_worker_waits_for_its_broker_and_not_for_ever(monkeypatch):
    # given a broker that answers at the third attempt (seed 2 met one that went while a worker started)
    attempts = []

    async def bootstrap(client):
        attempts.append(client)
        if len(attempts) < 3:
            raise KafkaConnectionError

    monkeypatch.setattr(AIOKafkaClient, "bootstrap", bootstrap)
    monkeypatch.setattr(broker_away, "_bootstrap", bootstrap)
    monkeypatch.setattr(broker_away, "PAUSE_S", 0.01)
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    # when a worker connects; then it waits, and when nobody comes in time it says so as before
    wait_for_broker(60.0)
    await client.bootstrap()
    assert len(attempts) == 3
    attempts.clear()
    wait_for_broker(0.0)
    with pytest.raises(KafkaConnectionError):
        await client.bootstrap()
