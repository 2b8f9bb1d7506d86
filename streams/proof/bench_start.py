"""`ruvllm bench start`: how soon a worker's memory answers, from the log alone and from a snapshot.

The view is the workers' own, in this process: what it takes to start Python, models and Kafka's groups comes on top.
Questions are asked all the while that the index is built.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ruvllm.models.memory.store import Memory
from ruvllm.streams.clock import SystemClock
from ruvllm.streams.connection import connected
from ruvllm.streams.memory_view import MemoryView
from ruvllm.streams.metrics import Metrics
from ruvllm.streams.proof.bench_memory import DIMENSION, TENANT, resident
from ruvllm.streams.proof.memory_log import EMBEDDER, PARTITIONS, written
from ruvllm.streams.proof.report import quantiles_ms, report
from ruvllm.streams.sender import Sender

READY_LIMIT_S = 300.0
INDEX_LIMIT_S = 1_800.0
NEAREST = 64
BETWEEN_SEARCHES_S = 0.05


async def bench_start(bootstrap: str, *, nodes: int = 100_000, seed: int = 1) -> dict[str, Any]:
    """Seconds until a view is ready, has found something, and has its index whole. Returns the report."""
    folder = Path(tempfile.mkdtemp(prefix="ruvllm-start-"))
    try:
        async with written(bootstrap, 3 * nodes, seed) as names:
            sender = Sender(bootstrap, names, source="bench-start")
            async with connected(bootstrap, sender):
                from_log = await _start(bootstrap, sender, folder, seed)
                snapshot_bytes = await asyncio.to_thread(_size, folder)
                from_snapshot = await _start(bootstrap, sender, folder, seed)
    finally:
        shutil.rmtree(folder)
    return report(
        "ruvllm bench start",
        seed=seed,
        sizes={"nodes": nodes, "events": 3 * nodes, "partitions": PARTITIONS, "snapshot_bytes": snapshot_bytes},
        results={"from_log": from_log, "from_snapshot": from_snapshot},
    )


async def _start(bootstrap: str, sender: Sender, folder: Path, seed: int) -> dict[str, Any]:
    """One start, until the index is whole; it leaves a snapshot."""
    before = resident()
    view = _view(bootstrap, sender, folder)
    started = time.perf_counter()
    await view.start()
    await view.wait_ready(READY_LIMIT_S)
    ready_s = time.perf_counter() - started
    draws = np.random.default_rng(seed)
    first_s = await _search(view, draws)
    meanwhile_s = []
    graph_s = None
    while not view.indexed:
        if graph_s is None and await asyncio.to_thread(_has_graph, view.memory):
            graph_s = time.perf_counter() - started
        meanwhile_s.append(await _search(view, draws))
        await asyncio.sleep(BETWEEN_SEARCHES_S)
        if time.perf_counter() - started > INDEX_LIMIT_S:
            break
    whole_s = time.perf_counter() - started
    after_s = [await _search(view, draws) for _ in range(100)]
    held = resident() - before
    stats = view.memory.stats()
    await view.stop()
    return {
        "ready_s": round(ready_s, 2),
        "first_search_ms": round(first_s * 1000, 1),
        "graph_s": round(graph_s or whole_s, 1),
        "indexed_s": round(whole_s, 1),  # graph and words
        "search_ms_until_indexed": quantiles_ms(meanwhile_s) if meanwhile_s else None,
        "search_ms_indexed": quantiles_ms(after_s),
        "nodes": stats.nodes,
        "edges": stats.edges,
        "bytes_a_node": round(held / stats.nodes),
    }


def _has_graph(memory: Memory) -> bool:
    with memory.lock:
        return not memory.index(TENANT, "document").behind


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _view(bootstrap: str, sender: Sender, folder: Path) -> MemoryView:
    return MemoryView(
        bootstrap,
        sender,
        SystemClock(),
        Metrics(),
        new_memory=lambda: Memory(EMBEDDER, DIMENSION),
        embedder=EMBEDDER,
        dimension=DIMENSION,
        folder=folder,
        snapshot_every=10**9,  # one, when it stops
        snapshots_kept=1,
    )


async def _search(view: MemoryView, draws: np.random.Generator) -> float:
    """Seconds of one search in a thread, as the stages search."""
    vector = draws.standard_normal(DIMENSION).astype(np.float32)
    vector /= np.linalg.norm(vector)
    started = time.perf_counter()
    found = await asyncio.to_thread(view.memory.search, TENANT, vector, NEAREST)
    assert found
    return time.perf_counter() - started
