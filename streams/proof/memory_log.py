"""A log of memory changes, made up: what replay and start are measured on.

A third of the changes are nodes with vectors of 384 and texts of sixty words, a third edges, a third what outcomes
added to those. Vectors lie in clusters of a hundred, as in `bench_memory`. All follows from a seed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
from aiokafka import AIOKafkaProducer

from ruvllm.agents.outbox import Emit
from ruvllm.schemas.ids import new_id
from ruvllm.schemas.memory import EdgeAdded, EdgeContributed, MemoryChange, NodeAdded
from ruvllm.streams.connection import connected
from ruvllm.streams.proof.bench_memory import CLUSTER, DIMENSION, SPREAD, Texts
from ruvllm.streams.proof.cluster import remove_topics
from ruvllm.streams.records import Record, outgoing
from ruvllm.streams.topics import ensure_topics
from ruvllm.streams.topology import Names, client_names

EMBEDDER = "bench"
PARTITIONS = 4
CLIENTS = 50
IN_ONE_TRANSACTION = 500
START = datetime(2026, 1, 1, tzinfo=UTC)


def changes(events: int, seed: int) -> Iterator[MemoryChange]:
    """So many changes in the order in which they were made, a second apart."""
    draws = np.random.default_rng(seed)
    texts = Texts(draws)
    centres = draws.standard_normal((max(1, events // (3 * CLUSTER)), DIMENSION)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    for number in range(events):
        nodes, turn = divmod(number, 3)
        time, change_id = START + timedelta(seconds=number), f"c{number}"
        if turn == 0:
            title, text = texts.one()
            yield NodeAdded(
                time=time,
                change_id=change_id,
                node_id=_node(nodes),
                title=title,
                text=text,
                document_id=f"document-{nodes // 10}",
                position=nodes % 10,
                embedder=EMBEDDER,
                vector=_vector(draws, centres),
            )
            continue
        which = nodes if turn == 1 else int(draws.integers(0, nodes + 1))
        edge = {
            "time": time,
            "change_id": change_id,
            "edge_id": f"edge-{which:022d}",
            "source": _node(which),
            "target": _node(which // 2),
            "relation": "same_topic",
        }
        if turn == 1:
            yield EdgeAdded.model_validate(edge)
        else:
            client = f"client-{int(draws.integers(0, CLIENTS))}"
            yield EdgeContributed.model_validate(
                {**edge, "made_by": f"ix-{number}", "client": client, "amount": 0.1, "outcomes": 1}
            )


def _node(number: int) -> str:
    return f"node-{number:022d}"


def _vector(draws: np.random.Generator, centres: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> object:
    spread = draws.standard_normal(DIMENSION).astype(np.float32)
    vector = centres[draws.integers(0, len(centres))] + SPREAD * spread / np.linalg.norm(spread)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@asynccontextmanager
async def written(bootstrap: str, events: int, seed: int) -> AsyncIterator[Names]:
    """The changes in a log of their own, in transactions, until the block ends."""
    names = client_names(f"t{new_id().lower()[-10:]}", PARTITIONS)
    await ensure_topics(bootstrap, names, replication=1)
    try:
        await _write(bootstrap, names, events, seed)
        yield names
    finally:
        await remove_topics(bootstrap, names.prefix)


async def _write(bootstrap: str, names: Names, events: int, seed: int) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, transactional_id=f"{names.prefix}.bench", linger_ms=5, max_batch_size=256 * 1024
    )
    waiting: list[Record] = []
    async with connected(bootstrap, producer):
        for number, change in enumerate(changes(events, seed), start=1):
            waiting.append(outgoing(Emit(change), names, source="bench"))
            if len(waiting) == IN_ONE_TRANSACTION or number == events:
                async with producer.transaction():
                    for record in waiting:
                        await producer.send(
                            record.topic,
                            record.value,
                            key=record.key,
                            partition=record.partition,
                            headers=list(record.headers.items()),
                        )
                waiting.clear()
