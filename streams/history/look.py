"""One question at one moment: every candidate in its order, and the edges that had a say in that.

Invariant: a look changes nothing and stays as it is when memory goes on: edges are immutable, and kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ruvllm.agents.retrieve import Ranker
from ruvllm.models.attention.finding import RetrievalRules, find
from ruvllm.models.attention.past_questions import NEAREST, alike
from ruvllm.models.memory.node import Edge, Node
from ruvllm.models.memory.store import Memory

ALL = 1_000_000


@dataclass(frozen=True)
class Candidate:
    """`rank` from 1; `edges`: those that led to it, or by which a question like this one was answered from it."""

    node: Node
    rank: int
    score: float
    served: bool
    edges: frozenset[str]


@dataclass(frozen=True)
class Look:
    """What memory and ranker made of a question at `now_s`, seconds since the epoch; `edges`: all of the tenant's."""

    candidates: dict[str, Candidate]
    edges: dict[str, Edge]
    now_s: float

    def weight(self, memory: Memory, edge_id: str) -> float | None:
        """w of an edge then, 0 if it led nowhere; None: there was none. `memory` may have been folded on since."""
        edge = self.edges.get(edge_id)
        if edge is None:
            return None
        return memory.weight_of(edge, self.now_s) if memory.leads(edge, self.now_s) else 0.0

    def served(self) -> list[str]:
        return [node_id for node_id, candidate in self.candidates.items() if candidate.served]


def look(
    memory: Memory,
    tenant: str,
    question: str,
    vector: NDArray[np.float32],
    rules: RetrievalRules,
    *,
    now_s: float,
    where: Mapping[str, str] | None = None,
    ranker: Ranker | None = None,
) -> Look:
    """Ask memory as retrieval does, and keep all of the order. `vector` (d,) float32."""
    with memory.lock:
        finding = find(
            memory,
            tenant,
            question,
            vector,
            replace(rules, passages=ALL),
            now_s=now_s,
            where=where,
            ranker=ranker.model if ranker else None,
        )
        said = _past_edges(memory, tenant, vector)
        among = memory.edges_among(tenant, finding.pool.ids) if ranker else []
        candidates = {}
        for rank, found in enumerate(finding.passages, 1):
            node_id = found.node.node_id
            led = finding.led.get(node_id, (0.0, ()))[1]
            links = (e.edge_id for e in among if node_id in (e.source, e.target))
            edges = {*led, *said.get(node_id, ()), *links}
            candidates[node_id] = Candidate(found.node, rank, found.score, rank <= rules.passages, frozenset(edges))
        kept = {edge.edge_id: edge for edge in memory.contents().edges if edge.tenant == tenant}
    return Look(candidates, kept, now_s)


def _past_edges(memory: Memory, tenant: str, vector: NDArray[np.float32]) -> dict[str, set[str]]:
    """Node id -> the edges by which questions like this one were answered from it, worn-out ones among them."""
    found: dict[str, set[str]] = {}
    for hit in memory.search(tenant, vector, NEAREST, kinds=("question",)):
        for edge in memory.edges_of(tenant, hit.node.node_id) if alike(hit.similarity) > 0 else ():
            if edge.relation == "answered_by":
                found.setdefault(edge.other(hit.node.node_id), set()).add(edge.edge_id)
    return found
