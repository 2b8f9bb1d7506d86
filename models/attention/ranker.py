"""The order in which candidates are served: the hybrid, corrected by what was learnt as far as it is trusted.

    score = hybrid' + t (net - hybrid') + 10 c past,     hybrid' = 10 hybrid, both centred on the pool

t rises with the likeness of the question to those that the ranker learnt from, 0 without a ranker that
passed its gate; c is 1 for support that comes from (nearly) the same question, 0 from cosine 0.8 down.
So a question far from all past ones is ranked as if nothing had been learnt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ruvllm.models.attention.candidate_graph import HYBRID, CandidateGraph
from ruvllm.models.attention.graph_attention import HYBRID_SCALE, GraphAttention

Float32s = NDArray[np.float32]


@dataclass(frozen=True)
class Trust:
    """Cosines to the nearest past question between which trust rises from 0 to 1."""

    learnt_from: float = 0.05
    learnt_to: float = 0.25
    same_from: float = 0.8
    same_to: float = 0.95

    def in_ranker(self, likeness: float) -> float:
        """The share of a ranker's word in the order, 0 to 1."""
        return _rise(likeness, self.learnt_from, self.learnt_to)


def rank(
    graph: CandidateGraph,
    past: Float32s,
    likeness: float,
    ranker: GraphAttention | None,
    trust: Trust | None = None,
) -> Float32s:
    """(m,) float32 scores. `past` (m,): support by past questions; `likeness`: cosine of the nearest."""
    trust = trust or Trust()
    hybrid = HYBRID_SCALE * graph.nodes[:, HYBRID]
    scores: Float32s = hybrid - hybrid.mean() if len(hybrid) else hybrid
    if ranker is not None and len(hybrid):
        share = trust.in_ranker(likeness)
        if share > 0:
            net = ranker.score(graph)
            scores = scores + np.float32(share) * (net - net.mean() - scores)
    same = _rise(likeness, trust.same_from, trust.same_to)
    final: Float32s = scores + np.float32(HYBRID_SCALE * same) * past
    return final


def _rise(value: float, start: float, end: float) -> float:
    return min(1.0, max(0.0, (value - start) / (end - start)))
