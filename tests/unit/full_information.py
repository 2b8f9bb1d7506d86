"""A world whose every outcome is known: what each tier would have answered to each question, and logs drawn from it."""

import dataclasses

import numpy as np

from ruvllm.models.router.answer import Answer
from ruvllm.models.router.arms import Action, Arms
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.models.router.features import INDEX
from ruvllm.models.router.objective import Objective
from ruvllm.models.router.policy import Behaviour, Router

TIERS = ("135m", "0.5b", "1.5b")
ARMS = Arms(TIERS, (2048,), (0.0,), (1.0,))
DEFAULT = Action("1.5b", 2048, 0.0, 1.0)
PRICES = (0.25, 0.5, 2.0)
OBJECTIVE = Objective(cost_weight=0.3)


def router(*, seed=1, objective=OBJECTIVE, exploration=0.0, threshold=0.0, spread=0.5):
    """One that expects more of some tiers than of others, by the question."""
    draws = np.random.default_rng(seed)
    first = Checkpoint.initial(ARMS, 1, PRICES)
    heads, bias = np.zeros_like(first.parameters.heads), np.zeros_like(first.parameters.head_bias)
    heads[: len(TIERS)] = spread * draws.standard_normal((len(TIERS), heads.shape[1]))
    bias[: len(TIERS)] = (-0.5, 0.3, 1.0)
    learnt = Checkpoint(ARMS, dataclasses.replace(first.parameters, heads=heads, head_bias=bias))
    return Router(learnt, ARMS, DEFAULT, confidence_threshold=threshold, objective=objective, exploration=exploration)


class World:
    """`features` (n, 128); `quality` (n, tiers): the outcome of each question on each tier, drawn once, 0 or 1."""

    def __init__(self, count, seed):
        draws = np.random.default_rng(seed)
        self.features = np.clip(0.5 * draws.standard_normal((count, 128)), -1, 1).astype(np.float32)
        self.features[:, INDEX["bias"]] = 1.0
        slopes = draws.standard_normal((128, len(TIERS)))
        slopes[20:] = 0.0
        odds = self.features @ slopes * 0.6 + np.array([-0.6, 0.1, 0.9])
        self.quality = (draws.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(float)

    def value(self, policy):
        """What a policy earns: mean quality and mean reward over all questions, its draws averaged out."""
        quality = reward = 0.0
        for features, outcomes in zip(self.features, self.quality, strict=True):
            greedy = policy.preferred(policy.checkpoint.forward(features), ARMS).action
            behaviour = Behaviour(greedy, ARMS, policy.exploration)
            for action in ARMS:
                outcome = outcomes[TIERS.index(action.tier)]
                chance = behaviour.probability(action)
                quality += chance * outcome
                reward += chance * policy.value_of(outcome, 1.0, action)
        return quality / len(self.features), reward / len(self.features)

    def log(self, count, seed, *, exploration, turns=1):
        """`count` answers as the default policy with this exploration has them; `turns` of them a session."""
        draws = np.random.default_rng(seed)
        behaviour = Behaviour(DEFAULT, ARMS, exploration)
        marginals = behaviour.marginals()
        rows = draws.integers(len(self.features), size=count)
        found = []
        for n, row in enumerate(rows):
            action = behaviour.draw(int(draws.integers(2**32)))
            found.append(
                Answer(
                    session=f"s-{n // turns}",
                    features=self.features[row],
                    action=action,
                    permitted=ARMS,
                    minimum_quality=None,
                    propensity=marginals["tier"][action.tier] * marginals["context_tokens"][str(action.context_tokens)],
                    explored=exploration > 0,
                    quality=float(self.quality[row, TIERS.index(action.tier)]),
                    latency_s=1.0,
                    cost=1.0,
                )
            )
        return found
