"""Whether a log of routes tells the truth about another policy: estimates beside the value that is known here.

A learner learns from the labelled questions. The others make a log: each resample draws some of them, the dearest
model answers but for a share of uniform exploration, and only its outcome is kept with its propensity. The learner's
policy is then valued from that log alone. Since all outcomes are known here, so is the true value: its mean over all
the unlabelled questions. An honest 95 % interval holds it in 95 of 100 resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from ruvllm.errors import InvalidRequest
from ruvllm.models.router.off_policy import (
    Estimate,
    Floats,
    doubly_robust,
    importance_weights,
    inverse_propensity,
    self_normalised,
)
from ruvllm.streams.proof.eval_routing import COST_WEIGHT, Say, learner
from ruvllm.streams.proof.routing_scores import chosen
from ruvllm.streams.proof.routing_sets import Answered

EXPLORATION: Final = 0.2
RESAMPLES: Final = 100
LOGGED: Final = 1_000
"""Requests in each log, at most half of what is there."""

Estimator = Callable[[Floats, Floats, Floats, Floats], Estimate]
ESTIMATORS: Final[dict[str, Estimator]] = {
    "inverse_propensity": lambda r, w, _taken, _policy: inverse_propensity(r, w),
    "self_normalised": lambda r, w, _taken, _policy: self_normalised(r, w),
    "doubly_robust": doubly_robust,
}


def estimate(data: Answered, names: Sequence[str], *, labels: int, seeds: int, say: Say) -> dict[str, Any]:
    """Results of protocol `estimate`, by learner. Raises InvalidRequest where too few questions would be logged."""
    if not 1 <= labels <= len(data) - 200:
        raise InvalidRequest(
            f"{labels} of {len(data)} questions are labelled", hint="Leave 200 at least: the log is made of the others."
        )
    found: dict[str, Any] = {}
    for name in names:
        runs = [_run(data, name, labels, seed) for seed in range(seeds)]
        found[name] = {
            estimator: {
                key: round(float(np.mean([run[estimator][key] for run in runs])), 4)
                for key in ("coverage", "bias", "root_mean_square_error", "standard_error", "effective_samples")
            }
            for estimator in ESTIMATORS
        } | {"true_value": round(float(np.mean([run["true_value"] for run in runs])), 4)}
        robust = found[name]["doubly_robust"]
        say(f"{name}: doubly robust holds the truth in {100 * robust['coverage']:.1f} of 100 resamples")
    return {"estimates": found, "resamples": RESAMPLES, "exploration": EXPLORATION}


def _run(data: Answered, name: str, labels: int, seed: int) -> dict[str, Any]:
    draws = np.random.default_rng(seed)
    order = draws.permutation(len(data))
    learnt, rest = data.rows(order[:labels]), data.rows(order[labels:])
    tiers = data.qualities.shape[1]
    router = learner(name, tiers, seed)
    router.learn(learnt.questions, learnt.qualities)
    mean_costs = learnt.costs.mean(axis=0, dtype=np.float64)
    penalty = COST_WEIGHT * mean_costs / (mean_costs.max() or 1.0)
    expected = router.predict(rest.questions) - penalty
    policy = chosen(router.predict(rest.questions), mean_costs, COST_WEIGHT)
    reward = rest.qualities - penalty
    every = np.arange(len(rest))
    true_value = float(reward[every, policy].mean())
    dearest = int(mean_costs.argmax())
    estimates: dict[str, list[Estimate]] = {estimator: [] for estimator in ESTIMATORS}
    for _ in range(RESAMPLES):
        asked = draws.choice(len(rest), min(LOGGED, len(rest) // 2), replace=True)
        explored = draws.random(len(asked)) < EXPLORATION
        taken = np.where(explored, draws.integers(tiers, size=len(asked)), dearest)
        logged = EXPLORATION / tiers + (1.0 - EXPLORATION) * (taken == dearest)
        weight = importance_weights((taken == policy[asked]).astype(np.float64), logged)
        for estimator, value in ESTIMATORS.items():
            of_log = value(reward[asked, taken], weight, expected[asked, taken], expected[asked, policy[asked]])
            estimates[estimator].append(of_log)
    return {estimator: _kept(of_it, true_value) for estimator, of_it in estimates.items()} | {"true_value": true_value}


def _kept(estimates: Sequence[Estimate], true_value: float) -> dict[str, float]:
    errors = np.array([e.value - true_value for e in estimates])
    return {
        "coverage": float(np.mean([low <= true_value <= high for low, high in (e.interval for e in estimates)])),
        "bias": float(errors.mean()),
        "root_mean_square_error": float(np.sqrt((errors**2).mean())),
        "standard_error": float(np.mean([e.error for e in estimates])),
        "effective_samples": float(np.mean([e.effective_samples for e in estimates])),
    }
