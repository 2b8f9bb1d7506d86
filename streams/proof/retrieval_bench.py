"""A retrieval set set up for measurement: the memory's own indexes over its passages, and its rankers.

Embeddings are kept in a folder by content, so that a second run starts at once.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ruvllm.models.attention.candidate_graph import CandidateGraph, Pool, candidate_graph
from ruvllm.models.attention.past_questions import PastQuestions
from ruvllm.models.attention.recall import RecallRules, recall
from ruvllm.models.embedding import Embedder
from ruvllm.models.memory.keywords import KeywordIndex
from ruvllm.models.memory.lexicon import Lexicon, names_of
from ruvllm.models.memory.vector_index import VectorIndex
from ruvllm.streams.proof.embedded import embedded
from ruvllm.streams.proof.retrieval_sets import Pooled

Float32s = NDArray[np.float32]
RULES = RecallRules()
DEPTH = 10
PAGERANK_STEPS = 12
PAGERANK_DAMPING = 0.5


@dataclass(frozen=True, eq=False)
class Asked:
    """One question as the rankers see it; `near`: ids with cosines, best first."""

    question: str
    vector: Float32s
    near: list[tuple[str, float]]


class Bench:
    """The indexes over a pooled corpus, and what each fixed ranker makes of a question."""

    def __init__(self, pooled: Pooled, embedder: Embedder, cache: Path) -> None:
        self.pooled = pooled
        self._embedder = embedder
        self._cache = cache
        self.lexicon, self.keywords = Lexicon(), KeywordIndex()
        for passage in pooled.passages:
            title = passage.title.replace("_", " ")
            self.lexicon.add(passage.passage_id, title, passage.text)
            self.keywords.add(passage.passage_id, title, passage.text)
        self.ids = [passage.passage_id for passage in pooled.passages]
        self._row = {node_id: row for row, node_id in enumerate(self.ids)}
        self.vectors = self.embed([f"{p.title.replace('_', ' ')}. {p.text}" for p in pooled.passages])
        self._index = VectorIndex(embedder.dimension)
        self._index.add_many(self.ids, self.vectors)
        self._index.grow(len(self.ids))
        self._graph = _NameGraph(self.lexicon, self.ids)

    def embed(self, texts: Sequence[str]) -> Float32s:
        """(n, d) float32, from the cache where these very texts were embedded before."""
        return embedded(self._embedder, texts, self._cache)

    def ask(self, questions: Sequence[str]) -> list[Asked]:
        vectors = self.embed(questions)
        return [
            Asked(question, vector, self._index.search(vector, RULES.nearest))
            for question, vector in zip(questions, vectors, strict=True)
        ]

    def pool(self, asked: Asked, past: PastQuestions | None, *, leave_out: str | None = None) -> Pool:
        support = past.support(asked.vector, leave_out=leave_out) if past else {}
        return recall(
            asked.question,
            asked.near,
            self.keywords,
            self.lexicon,
            asked.vector,
            lambda node_id: self.vectors[self._row[node_id]],
            support,
            RULES,
        )

    def graph(self, asked: Asked, pool: Pool) -> CandidateGraph:
        return candidate_graph(asked.question, asked.vector, pool, self.lexicon, {})

    def fixed(self, asked: Asked) -> dict[str, tuple[list[str], float]]:
        """What bm25, vectors, hybrid and pagerank serve, and the milliseconds that each took."""
        started = time.perf_counter()
        worded = [node_id for node_id, _ in self.keywords.search(asked.question, DEPTH)]
        bm25_ms = _since(started)
        started = time.perf_counter()
        near = [node_id for node_id, _ in self._index.search(asked.vector, DEPTH)]
        vectors_ms = _since(started)
        started = time.perf_counter()
        pool = self.pool(asked, None)
        hybrid = [pool.ids[i] for i in np.argsort(-pool.hybrid, kind="stable")[:DEPTH]]
        hybrid_ms = _since(started)
        ranked = self._graph.rank(asked.question, pool, self.lexicon)
        return {
            "bm25": (worded, bm25_ms),
            "vectors": (near, vectors_ms),
            "hybrid": (hybrid, hybrid_ms),
            "pagerank": (ranked, _since(started)),
        }


class _NameGraph:
    """Passages and the names that they share, for personalised PageRank over all of them."""

    def __init__(self, lexicon: Lexicon, ids: Sequence[str]) -> None:
        self._ids = list(ids)
        self._row = {node_id: row for row, node_id in enumerate(ids)}
        self._name: dict[str, int] = {}
        sums: defaultdict[int, float] = defaultdict(float)
        ends: list[tuple[int, int, float]] = []
        for node_id in ids:
            for name in lexicon[node_id].names:
                if weight := lexicon.shared_weight(name):
                    other = len(ids) + self._name.setdefault(name, len(self._name))
                    ends.append((self._row[node_id], other, weight))
        for a, b, weight in ends:
            sums[a] += weight
            sums[b] += weight
        self._from = np.array([a for a, b, _ in ends] + [b for a, b, _ in ends], np.intp)
        self._to = np.array([b for a, b, _ in ends] + [a for a, b, _ in ends], np.intp)
        self._share = np.array([w / sums[a] for a, b, w in ends] + [w / sums[b] for a, b, w in ends])
        self._size = len(ids) + len(self._name)

    def rank(self, question: str, pool: Pool, lexicon: Lexicon) -> list[str]:
        """The first ten by personalised PageRank from the ten best by hybrid and the question's names."""
        order = np.argsort(-pool.hybrid, kind="stable")[: DEPTH + 1]
        floor = float(pool.hybrid[order[-1]]) if len(order) else 0.0
        start = np.zeros(self._size)
        for i in order[:DEPTH]:
            start[self._row[pool.ids[i]]] = max(float(pool.hybrid[i]) - floor, 1e-6)
        start /= max(start.sum(), 1e-9)
        names = [self._name[n] for n in {*names_of(question), *lexicon.titles_in(question)} if n in self._name]
        for name in names:
            start[len(self._ids) + name] += 1.0 / len(names)
        start /= max(start.sum(), 1e-9)
        mass = start
        for _ in range(PAGERANK_STEPS):
            flow = np.bincount(self._to, mass[self._from] * self._share, self._size)
            mass = (1 - PAGERANK_DAMPING) * start + PAGERANK_DAMPING * flow
        best = np.argsort(-mass[: len(self._ids)], kind="stable")[:DEPTH]
        return [self._ids[i] for i in best]


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
