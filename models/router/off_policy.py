"""What another policy would have earned, from a log that holds only the outcomes of the routes really taken.

Invariant: an estimate is honest only for actions that the log's policy could have taken; the effective sample size
says how much of the log speaks for the new policy at all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ruvllm.errors import InvalidRequest

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Estimate:
    """A mean reward, its standard error, and Kish's effective sample size of the weights (0: nothing matches)."""

    value: float
    error: float
    effective_samples: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by the normal approximation."""
        return self.value - 1.96 * self.error, self.value + 1.96 * self.error


def importance_weights(taken: Floats, logged: Floats) -> Floats:
    """pi(a|x) / p(a|x) of the logged actions, (n,). Raises InvalidRequest for a propensity that is not in 0..1."""
    if not ((logged > 0) & (logged <= 1)).all():
        raise InvalidRequest("a logged propensity is not above 0 and at most 1: this log cannot be learnt from")
    return taken / logged


def inverse_propensity(reward: Floats, weight: Floats) -> Estimate:
    """mean(w r): unbiased, of high variance (Horvitz & Thompson 1952)."""
    return _mean(weight * reward, weight)


def self_normalised(reward: Floats, weight: Floats) -> Estimate:
    """sum(w r) / sum(w): a small bias for much less variance (Swaminathan & Joachims 2015, SNIPS)."""
    total = float(weight.sum())
    if total == 0.0:
        return Estimate(float("nan"), float("inf"), 0.0)
    value = float((weight * reward).sum() / total)
    error = math.sqrt(float((weight**2 * (reward - value) ** 2).sum())) / total
    return Estimate(value, error, effective_samples(weight))


def doubly_robust(reward: Floats, weight: Floats, expected_taken: Floats, expected_policy: Floats) -> Estimate:
    """mean(m(x, pi) + w (r - m(x, a))): right if the propensities or the model m are (Dudik et al. 2011).

    All (n,); `expected_taken` m at the logged action, `expected_policy` m averaged over the new policy. The model
    must not have learnt from these rows.
    """
    return _mean(doubly_robust_rows(reward, weight, expected_taken, expected_policy), weight)


def doubly_robust_rows(reward: Floats, weight: Floats, expected_taken: Floats, expected_policy: Floats) -> Floats:
    """The terms whose mean is the estimate: the differences of two policies' terms pair by row."""
    rows: Floats = expected_policy + weight * (reward - expected_taken)
    return rows


def mean_by_cluster(rows: Floats, clusters: Sequence[str]) -> tuple[float, float]:
    """The mean of (n,) rows and its standard error; the rows of one cluster (a session) count as one draw.

    With one cluster nothing can be said of the error: it is infinite.
    """
    sums: dict[str, float] = {}
    for cluster, row in zip(clusters, rows.tolist(), strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + row
    n, mean = len(rows), float(rows.mean())
    if len(sums) < 2:
        return mean, math.inf
    sizes = Counter(clusters)
    spread = np.array([total - mean * sizes[cluster] for cluster, total in sums.items()])
    return mean, math.sqrt(len(sums) / (len(sums) - 1) * float((spread**2).sum())) / n


def _mean(rows: Floats, weight: Floats) -> Estimate:
    error = float(rows.std(ddof=1)) / math.sqrt(len(rows)) if len(rows) > 1 else float("inf")
    return Estimate(float(rows.mean()), error, effective_samples(weight))


def effective_samples(weight: Floats) -> float:
    """(sum w)^2 / sum w^2 (Kish 1965): 0 where no weight is."""
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares else 0.0
