"""Retrieve: embed the question and ask memory (`models/attention/finding.py` says what it finds)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ruvllm.agents.clock import Clock
from ruvllm.models.attention.finding import Finding, Found, RetrievalRules, find
from ruvllm.models.embedding import Embedder
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.flow import Admitted, Passage, Retrieval, Retrieved


class MemorySource(Protocol):
    """Memory as it stands in this process, and how far it has been folded."""

    @property
    def memory(self) -> Memory: ...

    def offsets(self) -> Mapping[str, int]:
        """Partition -> offset of the next change."""
        ...


async def retrieve(
    event: Admitted, source: MemorySource, embedder: Embedder, rules: RetrievalRules, clock: Clock
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
        return vector, find(source.memory, event.tenant, question, vector, rules, now_s=now_s, where=where)

    vector, finding = await asyncio.to_thread(look)  # the model and the index let other threads run
    found = Retrieval(
        query_vector=vector,
        embedder=embedder.name,
        passages=tuple(passage_of(f, now_s) for f in finding.passages) if finding else (),
        memory_offsets=offsets,
    )
    return event.followed_by(Retrieved, time=clock.now(), retrieval=found)


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
    )
