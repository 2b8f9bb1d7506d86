"""When what was learnt is trusted: only after it has beaten the hybrid on questions it has not seen.

A ranker that learnt from few questions can be far worse than none. So a candidate ranker is measured on
held-out judged questions, pair by pair against the hybrid; it passes if the mean gain is above zero by
more than chance (one-sided, 95 %). Nothing is taken on faith from the training loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ruvllm.models.attention.candidate_graph import HYBRID
from ruvllm.models.attention.graph_attention import GraphAttention, Parameters
from ruvllm.models.attention.training import Example

LEAST_QUESTIONS = 20
FOLDS = 4
ONE_SPLIT_FROM = 400
"""From this many judged questions one held-out quarter is enough; below, each is held out once."""
SURE = 1.645
SERVED = 5

Train = Callable[[Sequence[Example]], Parameters]


@dataclass(frozen=True)
class Verdict:
    """What the gate measured: mean gain in credit among the first five, its error, on how many questions."""

    passed: bool
    gain: float
    error: float
    questions: int


def gate(examples: Sequence[Example], train: Train, *, seed: int) -> Verdict:
    """Whether a ranker that is trained by `train` on such examples would do good on others like them."""
    judged = [e for e in examples if float(e.target.sum()) > 0]
    if len(judged) < LEAST_QUESTIONS:
        return Verdict(False, 0.0, math.inf, len(judged))
    order = np.random.default_rng(seed).permutation(len(judged))
    folds = 1 if len(judged) >= ONE_SPLIT_FROM else FOLDS
    gains: list[float] = []
    for fold in range(folds):
        held = set(order[fold::FOLDS].tolist())
        ranker = GraphAttention(train([e for i, e in enumerate(judged) if i not in held]))
        gains += [_credit(ranker.score(e.graph), e) - _credit(e.graph.nodes[:, HYBRID], e) for e in _of(judged, held)]
    gain = float(np.mean(gains))
    error = float(np.std(gains, ddof=1) / math.sqrt(len(gains)))
    return Verdict(gain - SURE * error > 0, gain, error, len(gains))


def _credit(scores: NDArray[np.float32], example: Example) -> float:
    """Share of the credit that the first five get."""
    first = np.argsort(-scores, kind="stable")[:SERVED]
    return float(example.target[first].sum() / example.target.sum())


def _of(examples: Sequence[Example], chosen: set[int]) -> list[Example]:
    return [examples[i] for i in sorted(chosen)]
