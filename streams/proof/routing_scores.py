"""What routing is worth, as numbers: pure functions of predictions, outcomes and costs.

A policy is a prediction of quality and one number, lambda: of each question it takes the tier with the greatest

    predicted quality - lambda * mean cost of the tier / mean cost of the dearest tier

Invariant: the lambda of an operating point comes from labelled questions that the prediction did not see, and
mean costs come from the labelled questions too. A tested outcome is only ever counted, never chosen by.

Two models (RouteLLM: Ong et al. 2024, arXiv 2406.18665, section 2.2), with r the quality at some share of calls
to the strong model, r_weak and r_strong those of one model alone:

    performance gap recovered  PGR(share) = (r(share) - r_weak) / (r_strong - r_weak)
    APGR      the area under PGR over shares 0 to 1
    CPT(x)    the least share of calls at which PGR reaches x
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Float64s = NDArray[np.float64]
Tiers = NDArray[np.int64]

WEIGHTS: Final[Float64s] = np.concatenate(([0.0], np.geomspace(1e-4, 1e2, 241)))
"""Every lambda that is tried: 0, then 40 a decade. At 100 quality counts for nothing."""
SHARES: Final[Float64s] = np.linspace(0.0, 1.0, 11)


# --- two models ---------------------------------------------------------------------------------------


def gap_recovered(predicted: Floats, qualities: Floats) -> tuple[Float64s, Float64s]:
    """Shares of calls to the strong model (m,), 0 to 1 ascending, and PGR there (m,).

    `predicted`, `qualities`: (n, 2), weak model first. The questions with the greatest predicted gain go to the
    strong model first; questions with the same gain go together, which is the mean over all of their orders.
    Both are empty if the strong model is not better than the weak one: there is no gap to recover.
    """
    gap = float(qualities[:, 1].mean(dtype=np.float64) - qualities[:, 0].mean(dtype=np.float64))
    if gap <= 0.0:
        return np.zeros(0), np.zeros(0)
    gain = predicted[:, 1].astype(np.float64) - predicted[:, 0]
    order = np.argsort(-gain, kind="stable")
    last_of_its_kind = np.append(np.flatnonzero(np.diff(gain[order])), len(order) - 1)
    gained = np.cumsum((qualities[:, 1].astype(np.float64) - qualities[:, 0])[order])[last_of_its_kind]
    shares = np.append(0.0, (last_of_its_kind + 1) / len(order))
    return shares, np.append(0.0, gained / len(order) / gap)


def apgr(predicted: Floats, qualities: Floats) -> float | None:
    """Average performance gap recovered, 0.5 for chance; none if there is no gap.

    As RouteLLM's evaluation has it: thresholds at ten quantiles of the prediction, and trapezoids between.
    """
    shares, recovered = gap_recovered(predicted, qualities)
    if not len(shares):
        return None
    return float(np.trapezoid(np.interp(SHARES, shares, recovered), SHARES))


def cpt(predicted: Floats, qualities: Floats, target: float) -> float | None:
    """Call-performance threshold: the least share of strong calls, 0 to 1, whose PGR is `target`; none: no gap.

    Between two thresholds the share is interpolated.
    """
    shares, recovered = gap_recovered(predicted, qualities)
    if not len(shares):
        return None
    first = int(np.argmax(recovered >= target - 1e-12))
    if first == 0:
        return 0.0
    low, high = recovered[first - 1], recovered[first]
    return float(shares[first - 1] + (target - low) / (high - low) * (shares[first] - shares[first - 1]))


# --- any number of models -----------------------------------------------------------------------------


def chosen(predicted: Floats, mean_costs: Floats, weight: float) -> Tiers:
    """(n, T) predictions, (T,) costs -> (n,): the tier that the policy takes; of equals the cheapest."""
    largest = float(mean_costs.max()) or 1.0
    found: Tiers = (predicted - weight * (mean_costs / largest)).argmax(axis=1)
    return found


def cheapest_good(table: Floats, threshold: float) -> Tiers:
    """(n, T) qualities, known or predicted -> (n,): the cheapest tier that reaches a threshold, or the best of none."""
    good = table >= threshold
    found: Tiers = np.where(good.any(axis=1), good.argmax(axis=1), table.argmax(axis=1))
    return found


def taken(table: Floats, tiers: Tiers) -> Float64s:
    """(n, T), (n,) -> (n,): of each row the value of its tier."""
    found: Float64s = table[np.arange(len(tiers)), tiers].astype(np.float64)
    return found


def sweep(predicted: Floats, qualities: Floats, costs: Floats, mean_costs: Floats) -> Float64s:
    """(242, 2): mean cost and mean quality of the policy at each of `WEIGHTS`. Tables are (n, T), costs (T,)."""
    points = []
    for weight in WEIGHTS:
        tiers = chosen(predicted, mean_costs, float(weight))
        points.append((taken(costs, tiers).mean(), taken(qualities, tiers).mean()))
    return np.array(points)


def non_dominated(points: Float64s) -> Float64s:
    """(m, 2) of cost and quality -> those that no other beats in both, by rising cost."""
    kept: list[Float64s] = []
    for point in points[np.lexsort((-points[:, 1], points[:, 0]))]:
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return np.array(kept)


def curve(predicted: Floats, qualities: Floats, costs: Floats, mean_costs: Floats) -> Float64s:
    """The cost-quality curve (m, 2): the non-dominated points of `sweep`."""
    return non_dominated(sweep(predicted, qualities, costs, mean_costs))


def quality_at(points: Float64s, cost: float) -> float | None:
    """Quality of a curve at a cost, interpolated: a mixture of two policies; none below the cheapest point."""
    if cost < points[0, 0] - 1e-9:
        return None
    return float(np.interp(cost, points[:, 0], points[:, 1]))


def best_single(qualities: Floats) -> int:
    """The tier with the greatest mean quality over (n, T); of equals the cheapest."""
    return int(qualities.mean(axis=0, dtype=np.float64).argmax())


def operating_weight(held_out: Floats, qualities: Floats, costs: Floats) -> float:
    """The lambda with the greatest mean quality whose mean cost is at most the best single model's.

    Everything is of labelled questions, (n, T); `held_out` are predictions by a learner that had not seen the
    question's own outcome. Of lambdas with the same quality the cheapest policy is taken, then the least lambda.
    """
    points = sweep(held_out, qualities, costs, costs.mean(axis=0, dtype=np.float64))
    budget = float(costs[:, best_single(qualities)].mean(dtype=np.float64))
    within = points[:, 0] <= budget * (1.0 + 1e-9)
    if not within.any():  # nothing that it can say is that cheap: as cheap as it can be
        within = points[:, 0] <= points[:, 0].min()
    order = np.lexsort((points[:, 0], -points[:, 1], ~within))
    return float(WEIGHTS[order[0]])


def reward(quality: Float64s, cost: Float64s, largest_cost: float, cost_weight: float) -> Float64s:
    """quality - weight * cost / largest cost, elementwise."""
    return quality - cost_weight * cost / (largest_cost or 1.0)
