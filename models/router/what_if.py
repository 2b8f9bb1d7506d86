"""Tomorrow's policy on yesterday's traffic: what another router would have earned where the log's policy explored.

Each of quality, cost and reward is estimated doubly robustly (`off_policy`), for the policy as it would be served,
its exploration included. The model of quality is a ridge regression by tier that has not learnt from the sessions
that it speaks of; latency is a tier's mean in the others. What a route costs is known. The logged policy's own
figure is the plain mean, and the difference is paired by answer; the answers of one session count as one draw.

Invariant: without an effective sample size that bears the interval there is no estimate, only the reason why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ruvllm.models.router.answer import Answer, experience_of
from ruvllm.models.router.baselines import LinUcb
from ruvllm.models.router.decided import decided_again
from ruvllm.models.router.learner import Questions
from ruvllm.models.router.off_policy import (
    doubly_robust_rows,
    effective_samples,
    importance_weights,
    mean_by_cluster,
)
from ruvllm.models.router.policy import Behaviour, Router

Float64s = NDArray[np.float64]

FOLDS: Final = 4
LEAST_EFFECTIVE: Final = 50.0
"""Effective answers under which nothing is said. Quality lies in 0..1, so its deviation is at most 1/2: with fewer,
the interval may be wider than 2 * 1.96 / 2 / sqrt(50) = 0.28, which is about what two tiers differ by: it would decide
nothing. (It covers the truth with a fifth of that, where weights are bounded: docs/log.md, 2026-11-21.)"""


@dataclass(frozen=True)
class Figure:
    """A mean over the answers: what the log has, and what the other policy would have had, with its 95 % interval."""

    logged: float
    estimated: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """Of reward, the other policy's less the logged one's, with its paired 95 % interval."""

    reward: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Supposition:
    """What a log says of another policy. Without support all figures are None."""

    answers: int
    sessions: int
    ess: float
    supported: bool
    quality: Figure | None = None
    cost: Figure | None = None
    reward: Figure | None = None
    difference: Difference | None = None


def suppose(answers: Sequence[Answer], router: Router, *, seed: int = 1) -> Supposition:
    """Estimate `router`, with its objective and its exploration, from explored answers (of others nothing is taken)."""
    asked = [answer for answer in answers if answer.explored]
    sessions = [answer.session for answer in asked]
    names = list(dict.fromkeys(sessions))
    if not asked:
        return Supposition(0, 0, 0.0, supported=False)
    chances = _chances(asked, router)
    taken = np.array([_at(router, a.action.tier, a.action.context_tokens) for a in asked])
    rows = np.arange(len(asked))
    chance = chances[rows, taken[:, 0], taken[:, 1]]
    weight = importance_weights(chance, np.array([a.propensity for a in asked]))
    ess = effective_samples(weight)
    if ess < LEAST_EFFECTIVE or len(names) < FOLDS:
        return Supposition(len(asked), len(names), ess, supported=False)
    expected = _expected(asked, router, names, seed)
    had = {
        "quality": np.array([a.quality for a in asked]),
        "cost": np.array([router.cost_of(a.action) for a in asked]),
        "reward": np.array([router.value_of(a.quality, a.latency_s, a.action) for a in asked]),
    }
    figures, estimated = {}, {}
    for name, model in expected.items():
        at_taken = model[rows, taken[:, 0], taken[:, 1]]
        estimated[name] = doubly_robust_rows(had[name], weight, at_taken, (chances * model).sum((1, 2)))
        mean, interval = _interval(estimated[name], sessions)
        figures[name] = Figure(float(had[name].mean()), mean, interval)
    difference = Difference(*_interval(estimated["reward"] - had["reward"], sessions))
    return Supposition(len(asked), len(names), ess, True, difference=difference, **figures)


def _interval(rows: NDArray[np.floating], sessions: Sequence[str]) -> tuple[float, tuple[float, float]]:
    """The mean of (n,) rows and its 95 % interval, by the normal approximation."""
    mean, error = mean_by_cluster(rows, sessions)
    return mean, (mean - 1.96 * error, mean + 1.96 * error)


def _at(router: Router, tier: str, context_tokens: int) -> tuple[int, int]:
    return router.arms.tiers.index(tier), router.arms.context_tokens.index(context_tokens)


def _chances(asked: Sequence[Answer], router: Router) -> Float64s:
    """(n, tiers, contexts): the probability that the router takes each; sampling settings are drawn as in the log."""
    found = np.zeros((len(asked), len(router.arms.tiers), len(router.arms.context_tokens)))
    for row, (answer, greedy) in enumerate(zip(asked, decided_again(asked, router).actions, strict=True)):
        of_heads = Behaviour(greedy, answer.permitted, router.exploration).marginals()
        for tier, of_tier in of_heads["tier"].items():
            for context, of_context in of_heads["context_tokens"].items():
                found[(row, *_at(router, tier, int(context)))] = of_tier * of_context
    return found


def _expected(asked: Sequence[Answer], router: Router, names: Sequence[str], seed: int) -> dict[str, Float64s]:
    """(n, tiers, contexts) of quality, cost and reward, by models that have not learnt from an answer's session."""
    experience = experience_of(list(asked), router.arms)
    known = experience.session
    fold = np.random.default_rng(seed).permutation(len(names))[known] % FOLDS
    nothing = np.zeros((len(asked), 0), np.float32)
    questions = Questions(experience.features, nothing, np.full(len(asked), ""), known)
    quality, latency_s = np.zeros((2, *experience.quality.shape))
    for held in range(FOLDS):
        there, others = fold == held, fold != held
        learner = LinUcb(len(router.arms.tiers))
        learner.learn(questions.rows(np.flatnonzero(others)), experience.quality[others])
        quality[there] = learner.predict(questions.rows(np.flatnonzero(there)))
        latency_s[there] = _means(experience.latency_s[others].astype(np.float64))
    costs = router.checkpoint.parameters.costs.astype(np.float64)
    late = np.maximum(0.0, latency_s / router.objective.sla_s - 1.0) if router.objective.sla_s else 0.0 * latency_s
    worth = quality - router.objective.latency_weight * late
    zeros = np.zeros((1, *costs.shape))
    return {
        "quality": quality[:, :, None] + zeros,
        "cost": costs[None] + np.zeros((len(asked), 1, 1)),
        "reward": worth[:, :, None] - router.objective.cost_weight * costs[None],
    }


def _means(values: Float64s) -> Float64s:
    """(tiers,): of (n, tiers) with nan where a tier did not answer; of all where it never did."""
    counts, sums = (~np.isnan(values)).sum(0), np.nansum(values, axis=0)
    overall = sums.sum() / max(1, counts.sum())
    found: Float64s = np.where(counts > 0, sums / np.maximum(counts, 1), overall)
    return found
