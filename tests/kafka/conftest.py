"""One small installation on the shared broker for all tests of this layer: real processes, echo models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aiokafka.admin import NewTopic

from ruvllm.streams.proof.cluster import Cluster
from ruvllm.streams.topics import admin

REPLY_TO = "replies.mine"
FLAGS = {
    "profile": "small",  # three tiers by name; the echo generator answers for all
    "generation.backend": "echo",
    "retrieval.embedder": "hashing",
    "retrieval.floor": "0.05",
    "kafka.partitions": "4",
    "kafka.commit_interval_s": "0.2",
    "limits.reply_to": f'["{REPLY_TO}"]',
    "limits.prompt_chars": "2000",
}


async def make_topic(bootstrap: str, name: str) -> None:
    """A topic of a user's own: the broker makes none by itself."""
    async with admin(bootstrap) as client:
        await client.create_topics([NewTopic(name, num_partitions=1, replication_factor=1)])


@pytest.fixture(scope="session")
def cluster(kafka: str) -> Iterator[Cluster]:
    asyncio.run(make_topic(kafka, REPLY_TO))
    with Cluster(kafka, FLAGS) as made:
        for process in ("answer", "pool", "learn"):
            made.spawn(process, process)
        asyncio.run(made.until_ready())
        yield made
