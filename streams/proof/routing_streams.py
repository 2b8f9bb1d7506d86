"""Routing while learning: requests come one by one, and only the outcome of the route that was taken is known.

Every learner goes by the same rule: the first block of requests is routed uniformly at random; from then on,
with probability epsilon(t) = 0.1 / sqrt(1 + t / 500) a uniform tier, else the one with the greatest predicted
reward. It learns at the end of each block. `linucb_bonus` instead takes the greatest predicted reward plus
its bonus. Models alone (always-...) do neither. The random draws are the same for all learners of a seed.

Regret of a request: the greatest reward of any route for it, less that of the route taken. In `drift` the best
model and the worst exchange their qualities half-way, and nobody is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from ruvllm.errors import InvalidRequest
from ruvllm.models.router.baselines import Always, LinUcb
from ruvllm.models.router.learner import Learner
from ruvllm.streams.proof.eval_routing import (
    COST_WEIGHT,
    JUDGED,
    Say,
    Tally,
    learner,
    mean_of,
    minus,
    paired,
    row,
)
from ruvllm.streams.proof.routing_scores import Float64s, Tiers, best_single, taken
from ruvllm.streams.proof.routing_sets import Answered

EPSILON: Final = 0.1
HALVED_EVERY: Final = 500.0
BONUS: Final = "linucb_bonus"
WINDOW: Final = 0.1
EXPLORATION: Final = "first block uniform, then epsilon-greedy with 0.1 / sqrt(1 + t / 500), the same for all"


def stream(
    data: Answered, names: Sequence[str], *, requests: int, seeds: int, block: int, drift: bool, say: Say
) -> dict[str, Any]:
    """Results of protocols `bandit` and `drift`. Raises InvalidRequest for more requests than there are questions."""
    if not 2 * block <= requests <= len(data):
        raise InvalidRequest(
            f"a stream of {requests} requests in blocks of {block}, from {len(data)} questions",
            hint="--labels is the length of the stream: at least two blocks, at most the questions of the file.",
        )
    names = [*names, BONUS] if "linucb" in names else list(names)
    tallies = {name: Tally() for name in names}
    regret: dict[str, list[Float64s]] = {name: [] for name in names}
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(data))[:requests]
        asked = drifted(data.rows(order)) if drift else data.rows(order)
        mean_costs = asked.costs.mean(axis=0, dtype=np.float64)
        values = asked.qualities - COST_WEIGHT * asked.costs / (mean_costs.max() or 1.0)
        for name in names:
            tiers = _routed(name, asked, seed, block, mean_costs)
            tallies[name].add(order, asked, tiers, float(mean_costs.max()), best_single(asked.qualities))
            regret[name].append(values.max(axis=1).astype(np.float64) - taken(values, tiers))
        say(f"seed {seed}: regret " + "  ".join(f"{name} {regret[name][-1].sum():.1f}" for name in names))
    policies = {}
    for name in names:
        policies[name] = row(tallies[name], 0.0) | {"regret": _regret(tallies[name], regret[name], block)}
        if drift:
            policies[name]["drift"] = _around(tallies[name].reward)
    return {
        "policies": policies,
        "fastgrnn_minus_knn": minus(tallies, "knn"),
        "fastgrnn_minus_linucb": _less(tallies, regret, "linucb"),
        "exploration": EXPLORATION,
        "block": block,
    }


def drifted(asked: Answered) -> Answered:
    """From the middle on, the best model's qualities are the worst one's, and the other way round."""
    means, half = asked.qualities.mean(axis=0), len(asked) // 2
    best, worst = int(means.argmax()), int(means.argmin())
    qualities = asked.qualities.copy()
    qualities[half:, [best, worst]] = asked.qualities[half:, [worst, best]]
    return Answered(asked.questions, qualities, asked.costs)


def _routed(name: str, asked: Answered, seed: int, block: int, mean_costs: Float64s) -> Tiers:
    """(n,): the tier of each request, as the learner knew it at the start of its block."""
    n, tiers = asked.qualities.shape
    router = learner("linucb" if name == BONUS else name, tiers, seed)
    generator = np.random.default_rng((seed, 1))
    uniform: Tiers = np.asarray(generator.integers(tiers, size=n))
    draws = generator.random(n)
    share = EPSILON / np.sqrt(1.0 + np.arange(n) / HALVED_EVERY)
    optimistic, fixed = name == BONUS, isinstance(router, Always)
    explored = (draws < share) & (not optimistic and not fixed)
    explored[:block] = not fixed
    prices = COST_WEIGHT * mean_costs / (mean_costs.max() or 1.0)
    found = np.empty(n, np.int64)
    for start in range(0, n, block):
        at = np.arange(start, min(start + block, n))
        greedy = _greedy(router, asked.rows(at), prices, optimistic=optimistic)
        found[at] = np.where(explored[at], uniform[at], greedy)
        seen = np.full((len(at), tiers), np.nan, np.float32)
        seen[np.arange(len(at)), found[at]] = taken(asked.qualities[at], found[at])
        router.learn(asked.questions.rows(at), seen)
    return found


def _greedy(router: Learner, asked: Answered, prices: Float64s, *, optimistic: bool) -> Tiers:
    value = router.predict(asked.questions) - prices
    if optimistic and isinstance(router, LinUcb):
        value = value + router.bonus(asked.questions)
    best: Tiers = value.argmax(axis=1)
    return best


def _regret(tally: Tally, regret: Sequence[Float64s], block: int) -> dict[str, Any]:
    """Cumulative regret: at the end, its interval (over requests, seeds averaged first), and along the stream."""
    n = len(regret[0])
    ends = [*range(block, n, block), n]
    running: Float64s = np.cumsum(np.array(regret).mean(axis=0), dtype=np.float64)
    return {
        "total": round(float(running[-1]), 3),
        "per_request": mean_of(regret),
        "ci95": [round(n * bound, 2) for bound in paired(tally.rows, regret)],
        "curve": [[end, round(float(running[end - 1]), 3)] for end in ends],
    }


def _less(tallies: dict[str, Tally], regret: dict[str, list[Float64s]], other: str) -> dict[str, Any]:
    """FastGRNN's regret of a request less another's: below 0 is better."""
    if JUDGED not in tallies or other not in tallies:
        return {"regret_per_request": None, "ci95": None}
    difference = [a - b for a, b in zip(regret[JUDGED], regret[other], strict=True)]
    return {"regret_per_request": mean_of(difference), "ci95": paired(tallies[JUDGED].rows, difference)}


def _around(rewards: Sequence[Float64s]) -> dict[str, float]:
    """Mean reward of the tenth of the stream before the change, of the one just after it, and of the last."""
    n = len(rewards[0])
    half, window = n // 2, max(1, int(WINDOW * n))
    mean = np.mean(rewards, axis=0)
    return {
        "before": round(float(mean[half - window : half].mean()), 4),
        "after": round(float(mean[half : half + window].mean()), 4),
        "end": round(float(mean[n - window :].mean()), 4),
    }
