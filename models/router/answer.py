"""One routed and judged answer, as the log has it: what a training run of the router is handed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ruvllm.models.router.arms import Action, Arms
from ruvllm.models.router.experience import Experience, Float32s


@dataclass(frozen=True, eq=False)
class Answer:
    """`features` (128,) and `permitted` as they were when it was routed; `propensity`: that the log's policy took
    this tier with this context size, whatever the sampling settings. `cost`: the tier's price times thousand tokens.
    """

    session: str
    features: Float32s
    action: Action
    permitted: Arms
    minimum_quality: float | None
    propensity: float
    explored: bool
    quality: float
    latency_s: float
    cost: float


def experience_of(answers: list[Answer], arms: Arms) -> Experience:
    """The answers of one session follow each other in the order given. Their tiers are among the arms'."""
    n, tiers = len(answers), len(arms.tiers)
    quality, latency_s, cost = (np.full((n, tiers), np.nan, np.float32) for _ in range(3))
    settings = np.full((n, 3), -1, np.int64)
    for row, answer in enumerate(answers):
        tier = arms.tiers.index(answer.action.tier)
        quality[row, tier], latency_s[row, tier], cost[row, tier] = answer.quality, answer.latency_s, answer.cost
        for head, (choices, taken) in enumerate(
            (
                (arms.context_tokens, answer.action.context_tokens),
                (arms.temperatures, answer.action.temperature),
                (arms.top_ps, answer.action.top_p),
            )
        ):
            settings[row, head] = choices.index(taken) if taken in choices else -1
    names: dict[str, int] = {}
    session = np.array([names.setdefault(a.session, len(names)) for a in answers], np.int64)
    features = np.array([a.features for a in answers], np.float32).reshape(n, -1)
    return Experience(features, quality, latency_s, cost, settings, session)
