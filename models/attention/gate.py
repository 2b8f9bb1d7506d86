"""When what was learnt is trusted: only after it has beaten the hybrid on questions it has not seen.

A ranker that learnt from few questions can be far worse than none. So a candidate ranker is measured on
held-out judged questions, pair by pair against the hybrid; it passes if the mean gain is above zero by
more than chance (one-sided, 95 %). Nothing is taken on faith from the training loss.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ruvllm.models.attention.candidate_graph import HYBRID
from ruvllm.models.attention.graph_attention import GraphAttention, Parameters
from ruvllm.models.attention.lesson import LEAST_QUESTIONS
from ruvllm.models.attention.training import Example

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


def gate(examples: Sequence[Example], train: Train, *, seed: int, questions: Sequence[str] | None = None) -> Verdict:
    """Whether a ranker that is trained by `train` on such examples would do good on others like them.

    `questions` names the question of each example: askings of one question are held out together, and count
    once. Without it each example is a question of its own.
    """
    names = questions if questions is not None else [str(i) for i in range(len(examples))]
    judged = [(e, name) for e, name in zip(examples, names, strict=True) if float(e.target.sum()) > 0]
    distinct = list(dict.fromkeys(name for _, name in judged))
    if len(distinct) < LEAST_QUESTIONS:
        return Verdict(False, 0.0, math.inf, len(distinct))
    order = np.random.default_rng(seed).permutation(len(distinct))
    folds = 1 if len(distinct) >= ONE_SPLIT_FROM else FOLDS
    gains: defaultdict[str, list[float]] = defaultdict(list)
    for fold in range(folds):
        held = {distinct[i] for i in order[fold::FOLDS]}
        ranker = GraphAttention(train([e for e, name in judged if name not in held]))
        for e, name in judged:
            if name in held:
                gains[name].append(_credit(ranker.score(e.graph), e) - _credit(e.graph.nodes[:, HYBRID], e))
    means = [float(np.mean(of_one)) for of_one in gains.values()]
    gain = float(np.mean(means))
    error = float(np.std(means, ddof=1) / math.sqrt(len(means)))
    return Verdict(gain - SURE * error > 0, gain, error, len(means))


def _credit(scores: NDArray[np.float32], example: Example) -> float:
    """Share of the credit that the first five get."""
    first = np.argsort(-scores, kind="stable")[:SERVED]
    return float(example.target[first].sum() / example.target.sum())
