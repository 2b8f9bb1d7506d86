"""Retrieve: embed the question and ask memory (`models/attention/finding.py` says what it finds)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ruvllm.agents.clock import Clock
from ruvllm.models.attention.finding import Finding, Found, RetrievalRules, find
from ruvllm.models.attention.graph_attention import GraphAttention
from ruvllm.models.attention.packing import pack_graph
from ruvllm.models.embedding import Embedder
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.flow import Admitted, Candidates, Passage, Retrieval, Retrieved
from ruvllm.schemas.memory import SAID_BY, USER


class MemorySource(Protocol):
    """Memory as it stands in this process, and how far it has been folded."""

    @property
    def memory(self) -> Memory: ...

    def offsets(self) -> Mapping[str, int]:
        """Partition -> offset of the next change."""
        ...


@dataclass(frozen=True)
class Ranker:
    """The ranker that serves, by its checkpoint's name."""

    checkpoint: str
    model: GraphAttention


async def retrieve(
    event: Admitted,
    source: MemorySource,
    embedder: Embedder,
    rules: RetrievalRules,
    clock: Clock,
    ranker: Ranker | None = None,
) -> Retrieved:
    """Ask memory; with grounding `none` only the question's vector is made, for the router."""
    constraints = event.request.constraints
    question = event.request.question
    now_s = clock.now().timestamp()
    offsets = dict(source.offsets())  # before the search: what is found is at least as new

    def look() -> tuple[NDArray[np.float32], Finding | None]:
        (vector,) = embedder.embed([question])
        if constraints.grounding == "none":
            return vector, None
        where = constraints.memory_filter
        model = ranker.model if ranker else None
        return vector, find(
            source.memory, event.tenant, question, vector, rules, now_s=now_s, where=where, ranker=model
        )

    vector, finding = await asyncio.to_thread(look)  # the model and the index let other threads run
    found = Retrieval(
        query_vector=vector,
        embedder=embedder.name,
        passages=tuple(passage_of(f, now_s) for f in finding.passages) if finding else (),
        candidates=_candidates(finding, ranker) if finding and finding.pool.ids else None,
        memory_offsets=offsets,
    )
    return event.followed_by(Retrieved, time=clock.now(), retrieval=found)


def _candidates(finding: Finding, ranker: Ranker | None) -> Candidates:
    return Candidates(
        node_ids=finding.pool.ids,
        graph=pack_graph(finding.graph),
        likeness=round(finding.likeness, 6),
        ranker=ranker.checkpoint if ranker else None,
    )


def passage_of(found: Found, now_s: float) -> Passage:
    """What was found, as it travels with the request."""
    node = found.node
    return Passage(
        node_id=node.node_id,
        node_kind=node.kind,
        title=node.title,
        text=node.text,
        document_id=node.document_id,
        score=round(found.score, 6),
        similarity=round(found.cosine, 6),
        via=found.via,
        age_s=max(0.0, now_s - node.created_at),
        said_by_user=node.metadata.get(SAID_BY) == USER,
    )
