"""`ruvllm bench memory`: time, space and latency of memory by its size, beside raw hnswlib in the same run.

Vectors lie in clusters of a hundred, as embeddings of text do (uniform ones in 384 dimensions
have no neighbours worth finding), queries beside them; texts follow Zipf's law, with names in them.
"""

from __future__ import annotations

import gc
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from numpy.typing import NDArray

from ruvllm.models.attention.finding import RetrievalRules, find
from ruvllm.models.memory.node import Node
from ruvllm.models.memory.store import Memory
from ruvllm.streams.proof.report import quantiles_ms, report

Float32s = NDArray[np.float32]
DIMENSION = 384
CLUSTER = 100
SPREAD = 0.8
QUERIES = 200
QUESTION_WORDS = 12
EF = 64
NEAREST = 64
COMPARED = 10
TENANT = "default"
BATCH = 1_000
Say = Callable[[str], None]


def bench_memory(sizes: Sequence[int], *, seed: int, say: Say = lambda _: None) -> dict[str, Any]:
    """One row a size. Each is built anew, one node after the other as a fold puts them (in batches)."""
    rows = []
    for size in sizes:
        rows.append(_row(size, seed))
        say(str(rows[-1]))
    return report(
        "ruvllm bench memory",
        seed=seed,
        sizes={"nodes": list(sizes), "dimension": DIMENSION, "queries": QUERIES},
        results={"rows": rows},
    )


def _row(size: int, seed: int) -> dict[str, Any]:
    draws = np.random.default_rng(seed)
    centres = draws.standard_normal((max(1, size // CLUSTER), DIMENSION)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors, queries = _vectors(draws, centres, size), _vectors(draws, centres, QUERIES)
    before = resident()
    memory = Memory("bench", DIMENSION)
    texts = Texts(draws)
    started = time.perf_counter()
    for start in range(0, size, BATCH):
        rows = range(start, min(size, start + BATCH))
        memory.put_nodes([_node(i, vectors[i], texts.one()) for i in rows])
    while memory.grow(BATCH):
        pass
    build_s = time.perf_counter() - started
    started = time.perf_counter()
    while memory.catch_up(BATCH):
        pass
    words_s = time.perf_counter() - started
    gc.collect()
    bytes_a_node = (resident() - before) / size
    exact = _exact(vectors, queries)
    index = memory.index(TENANT, "document")
    raw_index = _raw_index(vectors)
    (found, index_s), (raw, raw_s) = _in_turns(
        lambda q: [key for key, _ in index.search(q, NEAREST, ef=EF)],
        lambda q: raw_index.knn_query(q, NEAREST, num_threads=1)[0][0].tolist(),
        queries,
    )
    _, search_s = _timed(lambda q: memory.search(TENANT, q, NEAREST), queries)
    question = " ".join(texts.one()[1].split()[:QUESTION_WORDS])
    _, find_s = _timed(
        lambda q: find(memory, TENANT, question, q, RetrievalRules(), now_s=0.0).passages, queries[: QUERIES // 2]
    )
    row = {
        "nodes": size,
        "build_s": round(build_s, 1),
        "words_s": round(words_s, 1),
        "bytes_a_node": round(bytes_a_node),
        "index_ms": quantiles_ms(index_s),
        "recall@10": round(_recall([f[:COMPARED] for f in found], [[f"n{i}" for i in row] for row in exact]), 4),
        "search_ms": quantiles_ms(search_s),
        "find_ms": quantiles_ms(find_s),
        **_churn(memory, vectors, texts),
    }
    row["raw_hnswlib_ms"] = quantiles_ms(raw_s)
    row["raw_recall@10"] = round(_recall([r[:COMPARED] for r in raw], exact), 4)
    row["index_over_raw"] = round(statistics.median(index_s) / statistics.median(raw_s), 2)
    return row


def _vectors(draws: np.random.Generator, centres: Float32s, count: int) -> Float32s:
    """Around their centres, at cosines of about 0.6 with each other within a cluster."""
    of = centres[draws.integers(0, len(centres), count)]
    spread = draws.standard_normal((count, DIMENSION)).astype(np.float32)
    vectors = of + SPREAD * spread / np.linalg.norm(spread, axis=1, keepdims=True)
    unit: Float32s = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


class Texts:
    """Titles and texts of 60 words; one in twelve is a name. Frequencies are those of content words: Zipf's
    law from the fiftieth rank on (the commonest words are stop words, which the index leaves out).
    """

    def __init__(self, draws: np.random.Generator) -> None:
        self._draws = draws
        self._words = np.array([f"word{i}" for i in range(20_000)])
        shares = 1.0 / (50.0 + np.arange(len(self._words)))
        self._below = np.cumsum(shares) / shares.sum()
        self._names = np.array([f"Name{i}" for i in range(50_000)])

    def one(self) -> tuple[str, str]:
        words = self._words[np.searchsorted(self._below, self._draws.random(60))].tolist()
        names = self._names[self._draws.integers(0, len(self._names), 5)].tolist()
        words[::12] = names
        return names[0], " ".join(words)


def _node(number: int, vector: Float32s, text: tuple[str, str]) -> Node:
    title, said = text
    return Node(f"n{number}", TENANT, "document", title, said, f"d{number // 10}", 0, {}, "bench", vector, 0.0)


def _exact(vectors: Float32s, queries: Float32s) -> list[list[int]]:
    return [np.argsort(-(vectors @ query))[:COMPARED].tolist() for query in queries]


def _recall(found: Sequence[Sequence[Any]], wanted: Sequence[Sequence[Any]]) -> float:
    return float(np.mean([len(set(f) & set(w)) / len(w) for f, w in zip(found, wanted, strict=True)]))


def _timed(look: Callable[[Float32s], Any], queries: Float32s) -> tuple[list[Any], list[float]]:
    found, spent = [], []
    for query in queries:
        started = time.perf_counter()
        found.append(look(query))
        spent.append(time.perf_counter() - started)
    return found, spent


def _churn(memory: Memory, vectors: Float32s, texts: Texts) -> dict[str, float]:
    """Live changes: milliseconds to replace a node by another vector, and to remove one."""
    rows = range(0, min(len(vectors), 400))
    started = time.perf_counter()
    for i in rows:
        memory.put_node(_node(i, vectors[-1 - i], texts.one()))
        memory.grow(1)
    replaced = time.perf_counter()
    for i in rows:
        memory.remove_node(TENANT, f"n{i}")
    removed = time.perf_counter()
    return {
        "replace_ms": round(1000 * (replaced - started) / len(rows), 3),
        "remove_ms": round(1000 * (removed - replaced) / len(rows), 3),
    }


def _raw_index(vectors: Float32s) -> hnswlib.Index:
    """The same vectors in hnswlib alone, with the same parameters."""
    index = hnswlib.Index("cosine", DIMENSION)
    index.init_index(len(vectors), M=16, ef_construction=100)  # as VectorIndex has them
    index.set_num_threads(1)
    index.add_items(vectors, num_threads=1)
    index.set_ef(EF)
    return index


def _in_turns(
    one: Callable[[Float32s], Any], other: Callable[[Float32s], Any], queries: Float32s
) -> tuple[tuple[list[Any], list[float]], tuple[list[Any], list[float]]]:
    """Both on every query, who is first by turns: neither finds its memory warmer than the other."""
    results: dict[int, tuple[list[Any], list[float]]] = {0: ([], []), 1: ([], [])}
    for number, query in enumerate(queries):
        for which in ((0, 1), (1, 0))[number % 2]:
            found, spent = _timed((one, other)[which], query[None, :])
            results[which][0].extend(found)
            results[which][1].extend(spent)
    return results[0], results[1]


def resident() -> int:
    """Bytes of this process in memory now (Linux), or the most it had (elsewhere)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
