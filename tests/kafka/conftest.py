"""One small installation on the shared broker for all tests of this layer: real processes, echo models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from ruvllm.streams.proof.cluster import Cluster

FLAGS = {
    "profile": "small",  # three tiers by name; the echo generator answers for all
    "generation.backend": "echo",
    "retrieval.embedder": "hashing",
    "retrieval.floor": "0.05",
    "kafka.partitions": "4",
    "kafka.commit_interval_s": "0.2",
    "limits.reply_to": '["replies.mine"]',
    "limits.prompt_chars": "2000",
}


@pytest.fixture(scope="session")
def cluster(kafka: str) -> Iterator[Cluster]:
    with Cluster(kafka, FLAGS) as made:
        for process in ("answer", "pool", "learn"):
            made.spawn(process, process)
        asyncio.run(made.until_ready())
        yield made
