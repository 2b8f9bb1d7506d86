"""What earlier questions were answered from: a question like one of them leads to the same passages.

    support(p) = max over past questions x of  near(x) * w(x, p),   near = (cos - 0.6) / 0.4, from 0 to 1

w(x, p) in [0, 1] is the weight of the answered_by edge from question x to passage p. Questions less
alike than a cosine of 0.6 say nothing: past-question memory costs questions that nothing was learnt
about (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ruvllm.models.memory.vector_index import VectorIndex

Float32s = NDArray[np.float32]
ALIKE_FROM = 0.6
NEAREST = 8
GROWN_AT_ONCE = 20
"""Questions that go into the index's graph with each new one, so that none is held up by all."""


def alike(cosine: float) -> float:
    """near(x): how far a past question speaks for a new one, 0 to 1."""
    return min(1.0, max(0.0, (cosine - ALIKE_FROM) / (1.0 - ALIKE_FROM)))


class PastQuestions:
    """Questions by id, each with its vector and the passages that answered it."""

    def __init__(self, dimension: int) -> None:
        self._index = VectorIndex(dimension)
        self._answered_by: dict[str, dict[str, float]] = {}

    def __len__(self) -> int:
        return len(self._answered_by)

    def put(self, question_id: str, vector: Float32s, answered_by: Mapping[str, float]) -> None:
        """Add or replace a question: `vector` (d,) of unit length, passage id -> weight."""
        self._index.add(question_id, vector)
        self._index.grow(GROWN_AT_ONCE)
        self._answered_by[question_id] = dict(answered_by)

    def nearest(self, vector: Float32s, *, leave_out: str | None = None) -> list[tuple[str, float]]:
        """The nearest past questions with their cosines, without the one that is left out."""
        if not self._answered_by:
            return []
        found = self._index.search(vector, NEAREST + 1)
        return [(question_id, cosine) for question_id, cosine in found if question_id != leave_out][:NEAREST]

    def support(self, vector: Float32s, *, leave_out: str | None = None) -> dict[str, float]:
        """Passage id -> support. `leave_out`: a question must not vouch for itself while the ranker learns."""
        support: dict[str, float] = {}
        for question_id, cosine in self.nearest(vector, leave_out=leave_out):
            near = alike(cosine)
            if not near:
                break  # they come nearest first
            for passage, weight in self._answered_by[question_id].items():
                support[passage] = max(support.get(passage, 0.0), near * weight)
        return support
