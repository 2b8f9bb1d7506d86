"""Retrieve: what memory has on a question, best first.

Nearest nodes by cosine, then the graph: from the best hits along their edges, a reached node has the
cosine of its seed times the weights of the edges on the way, damped. A node's score is the better of
the two, and a little more if it has both: what stands beside a hit is mostly on the same matter, so its
own cosine and its seed's say in part the same thing. Left out is what is not memory of this question:
what scores under the floor and was not led to by a strong edge of a good hit either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ruvllm.agents.clock import Clock
from ruvllm.models.embedding import Embedder
from ruvllm.models.memory.node import Node
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.flow import Admitted, Passage, Retrieval, Retrieved


class MemorySource(Protocol):
    """Memory as it stands in this process, and how far it has been folded."""

    @property
    def memory(self) -> Memory: ...

    def offsets(self) -> Mapping[str, int]:
        """Partition -> offset of the next change."""
        ...


@dataclass(frozen=True)
class RetrievalRules:
    """How wide to look and how much to hand on. `floor` is a cosine.

    `edge_floor`: the same for what is led to, as a share of `floor`: two thirds of 0.30 are a hit at 0.5 and
    an edge of weight 0.5. `agreement`: the share of the weaker reason that counts beside the stronger one,
    from 0 (they say the same) to 1 (they are independent: noisy or, Pearl 1988, 4.3.2).
    """

    candidates: int = 24
    passages: int = 4
    floor: float = 0.30
    hops: int = 1
    seeds: int = 3
    graph_damping: float = 0.8
    edge_floor: float = 2 / 3
    agreement: float = 0.25

    def score(self, cosine: float, by_edge: float) -> float:
        """Both reasons as one, at least the better of the two, under 1."""
        weaker, stronger = sorted((max(cosine, 0.0), by_edge))
        return stronger + self.agreement * weaker * (1.0 - stronger)


async def retrieve(
    event: Admitted, source: MemorySource, embedder: Embedder, rules: RetrievalRules, clock: Clock
) -> Retrieved:
    """Ask memory; with grounding `none` only the question's vector is made, for the router."""
    constraints = event.request.constraints
    now = clock.now()
    offsets = dict(source.offsets())  # before the search: what is found is at least as new

    def look() -> tuple[NDArray[np.float32], tuple[Passage, ...]]:
        (vector,) = embedder.embed([event.request.question])
        if constraints.grounding == "none":
            return vector, ()
        return vector, find_passages(
            source.memory,
            event.tenant,
            vector,
            rules,
            now_s=now.timestamp(),
            where=constraints.memory_filter,
        )

    vector, passages = await asyncio.to_thread(look)  # the model and the index let other threads run
    found = Retrieval(query_vector=vector, embedder=embedder.name, passages=passages, memory_offsets=offsets)
    return event.followed_by(Retrieved, time=clock.now(), retrieval=found)


def find_passages(
    memory: Memory,
    tenant: str,
    vector: NDArray[np.float32],
    rules: RetrievalRules,
    *,
    now_s: float,
    where: Mapping[str, str] | None = None,
) -> tuple[Passage, ...]:
    """The passages for a query vector (384,) float32, best first; ties by node id.

    `via` is empty for a passage that its own cosine would have found, and speaks for it the louder.
    """
    hits = [h for h in memory.search(tenant, vector, rules.candidates, where=where) if h.similarity >= rules.floor]
    found: dict[str, tuple[float, float, Node, tuple[str, ...]]] = {
        h.node.node_id: (h.similarity, h.similarity, h.node, ()) for h in hits
    }
    if rules.hops:
        for seed in hits[: rules.seeds]:
            for reached in memory.expand(tenant, [seed.node.node_id], hops=rules.hops, now=now_s):
                if where and any(reached.node.metadata.get(k) != v for k, v in where.items()):
                    continue
                cosine = float(np.dot(reached.node.vector, vector))
                by_edge = seed.similarity * reached.weight * rules.graph_damping
                score = rules.score(cosine, by_edge)
                if score < rules.floor and by_edge < rules.floor * rules.edge_floor:
                    continue
                known = found.get(reached.node.node_id)
                if known is None or score > known[0]:
                    by_itself = cosine >= rules.floor and cosine >= by_edge
                    found[reached.node.node_id] = (score, cosine, reached.node, () if by_itself else reached.via)
    ranked = sorted(found.values(), key=lambda f: (-f[0], f[2].node_id))
    return tuple(
        Passage(
            node_id=node.node_id,
            node_kind=node.kind,
            title=node.title,
            text=node.text,
            document_id=node.document_id,
            score=round(float(score), 6),
            similarity=round(float(similarity), 6),
            via=via,
            age_s=max(0.0, now_s - node.created_at),
        )
        for score, similarity, node, via in ranked[: rules.passages]
    )
