"""The behaviour policy: from scores, constraints and a seed to one action with its probability.

Invariant: the logged probability is that of the joint action really taken, after constraints,
availability, fallback and exploration; learning from the log is honest only then (DESIGN, 6).
The policy: the permitted action that is worth most under the objective, or the profile's default action
when confidence in that one is under the threshold; each head explores by itself.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

from ruvllm.errors import InvalidConfiguration
from ruvllm.models.router.arms import HEADS, Action, Arms, Choice
from ruvllm.models.router.checkpoint import Checkpoint, Prediction
from ruvllm.models.router.fastgrnn import Float32s, sigmoid
from ruvllm.models.router.objective import Objective

POLICY: Final = "epsilon-greedy by head"


SHARES: Final = {"tier": 1.0, "context_tokens": 0.5, "temperature": 0.25, "top_p": 0.25}
"""Of the exploration, by head: most is to be learnt of the tier, and least of the sampling settings."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """A distribution over the permitted joint actions: each head is `greedy`, or explores, by itself.

    P(a) = product over heads of (1 - e_h) [a_h = greedy_h] + e_h / n_h,   e_h = exploration * SHARES[h], n_h permitted
    choices. The joint is the product of its marginals: what the log has of each head is all that learning needs, and
    an action that differs in one head only keeps most of the others' probability.
    """

    greedy: Action
    permitted: Arms
    exploration: float

    def probability(self, action: Action) -> float:
        """Exact propensity of a joint action; 0 for one that is not permitted."""
        return math.prod(of_head.get(str(getattr(action, head)), 0.0) for head, of_head in self.marginals().items())

    def marginals(self) -> dict[str, dict[str, float]]:
        """Head -> choice -> probability that a draw has it. Choices that are not permitted are absent."""
        found = {}
        for head, choices in self.permitted.by_head.items():
            share = self.exploration * SHARES[head]
            each = share / len(choices)
            found[head] = of_head = dict.fromkeys(_labels(head, choices), each)
            # min: the two terms may add up to one unit in the last place more than 1.
            of_head[str(getattr(self.greedy, head))] = min(1.0, each + (1.0 - share))
        return found

    def draw(self, seed: int) -> Action:
        """The action that this seed draws: one uniform number u for each head.

        u < e explores, and then u / e is uniform again and picks the choice.
        """
        explored: dict[str, Any] = {}
        for u, (head, choices) in zip(uniforms(seed), self.permitted.by_head.items(), strict=True):
            share = self.exploration * SHARES[head]
            if u < share:
                explored[head] = choices[min(int(u / share * len(choices)), len(choices) - 1)]
        return replace(self.greedy, **explored) if explored else self.greedy


class Preferred(NamedTuple):
    """The action without exploration. `confidence`: that the best action's answer is good; under the threshold the
    default took its place (`fallback`).
    """

    action: Action
    confidence: float
    fallback: bool


class Expected(NamedTuple):
    """What a checkpoint expects of an action: quality 0 to 1, seconds, cost over the dearest route's."""

    quality: float
    latency_s: float
    cost: float


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """One route and all that is needed to learn from it.

    `probability` is of the joint action, `probabilities` head -> choice -> marginal (`Behaviour`),
    `hidden` (64,) float32 the session's next state under `checkpoint`. `fallback` says that the
    default action took the place of the heads' best, whether or not the draw then explored.
    """

    action: Action
    probability: float
    probabilities: dict[str, dict[str, float]]
    hidden: Float32s
    checkpoint: str
    confidence: float
    fallback: bool
    expected: Expected
    policy: str
    exploration: float
    seed: int


class Router:
    """One checkpoint with the profile's arms, default action, threshold and exploration.

    Raises InvalidConfiguration for a checkpoint made for other arms, a default action that is not
    one of them, or a threshold or an exploration outside 0..1.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        arms: Arms,
        default: Action,
        *,
        confidence_threshold: float,
        exploration: float = 0.0,
        objective: Objective | None = None,
    ) -> None:
        if checkpoint.arms != arms:
            raise InvalidConfiguration(
                f"router checkpoint {checkpoint.id} was made for {checkpoint.arms}, the profile has {arms}",
                hint="Start from an initial checkpoint, or run the profile that this one was trained for.",
            )
        if default not in arms:
            raise InvalidConfiguration(f"the default action {default} is none of {arms}")
        for name, value in (("confidence_threshold", confidence_threshold), ("exploration", exploration)):
            if not 0.0 <= value <= 1.0:
                raise InvalidConfiguration(f"the router's {name} is {value}, it lies in 0..1")
        self.checkpoint = checkpoint
        self.arms = arms
        self.default = default
        self.confidence_threshold = confidence_threshold
        self.exploration = exploration
        self.objective = objective or Objective()
        self._choices = tuple(arms.by_head.items())
        self._tier = {tier: row for row, tier in enumerate(arms.tiers)}
        self._costs: list[list[float]] = checkpoint.parameters.costs.tolist()

    def with_checkpoint(self, checkpoint: Checkpoint) -> Router:
        """The same policy over another checkpoint. Raises InvalidConfiguration if it was made for other arms."""
        return self._changed(checkpoint, self.objective)

    def with_objective(self, objective: Objective) -> Router:
        """The same checkpoint under another objective: nothing is to be trained for that."""
        return self._changed(self.checkpoint, objective)

    def _changed(self, checkpoint: Checkpoint, objective: Objective) -> Router:
        return Router(
            checkpoint,
            self.arms,
            self.default,
            confidence_threshold=self.confidence_threshold,
            exploration=self.exploration,
            objective=objective,
        )

    def decide(
        self,
        features: Float32s,
        hidden: Float32s | None,
        *,
        available_tiers: Collection[str],
        allowed_tiers: Collection[str] | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        minimum_quality: float | None = None,
        explore: bool = True,
        seed: int,
    ) -> Decision:
        """Route one request.

        `features` (128,) float32; `hidden` (64,) float32 as an earlier decision of this session
        under this checkpoint left it, else None; constraints as in `Arms.permitted`, `minimum_quality` in the
        place of the objective's; `explore`: whether this asker's requests may be explored with. The same
        arguments give the same decision: `seed` is all the randomness there is.
        Raises UnknownTier or ModelUnavailable when no tier is left, naming both sides.
        """
        permitted = self.arms.permitted(
            available_tiers=available_tiers,
            allowed_tiers=allowed_tiers,
            temperature=temperature,
            top_p=top_p,
        )
        prediction = self.checkpoint.forward(features, hidden)
        preferred = self.preferred(prediction, permitted, minimum_quality)
        behaviour = Behaviour(preferred.action, permitted, self.exploration if explore else 0.0)
        action, marginals = behaviour.draw(seed), behaviour.marginals()
        return Decision(
            action=action,
            probability=math.prod(of_head[str(getattr(action, head))] for head, of_head in marginals.items()),
            probabilities=marginals,
            hidden=prediction.hidden,
            checkpoint=self.checkpoint.id,
            confidence=preferred.confidence,
            fallback=preferred.fallback,
            expected=self.expected(prediction, action),
            policy=POLICY,
            exploration=behaviour.exploration,
            seed=seed,
        )

    def preferred(self, prediction: Prediction, permitted: Arms, minimum_quality: float | None = None) -> Preferred:
        """The action without exploration. `minimum_quality` in the place of the objective's."""
        objective = self.objective
        if minimum_quality is not None:
            objective = replace(objective, minimum_quality=minimum_quality)
        best, logit = self._best_action(prediction, permitted, objective)
        confidence = prediction.confidence(logit)
        fallback = confidence < self.confidence_threshold
        return Preferred(self._default_action(permitted) if fallback else best, confidence, fallback)

    def _best_action(self, prediction: Prediction, permitted: Arms, objective: Objective) -> tuple[Action, float]:
        """And the logit of its quality. Sampling settings cost nothing: theirs is the best logit, whatever the tier.

        What was hardly ever tried is taken only where nothing else is permitted; a tie goes to the smaller one.
        """
        logits, tried, latency_s = prediction.logits, self.checkpoint.tried, prediction.latency_s
        temperature, by_temperature = _best(
            permitted.temperatures, self.arms.temperatures, logits["temperature"], tried["temperature"]
        )
        top_p, by_top_p = _best(permitted.top_ps, self.arms.top_ps, logits["top_p"], tried["top_p"])
        best: tuple[tuple[bool, float, float], str, int, float] | None = None
        for tier in permitted.tiers:
            row = self._tier[tier]
            of_tier = logits["tier"][row] + by_temperature + by_top_p
            by_context = zip(
                self.arms.context_tokens,
                logits["context_tokens"],
                tried["context_tokens"],
                self._costs[row],
                strict=True,
            )
            for context, adds, often, cost in by_context:
                logit = of_tier + adds
                ranked = (tried["tier"][row] and often, *objective.score(sigmoid(logit), cost, latency_s[row]))
                if best is None or ranked > best[0]:
                    best = (ranked, tier, context, logit)
        assert best is not None
        _, tier, context, logit = best
        return Action(tier, context, temperature, top_p), logit

    def expected(self, prediction: Prediction, action: Action) -> Expected:
        """What a prediction says of an action. A value of the user's own, which is no arm, adds nothing to it."""
        logit = sum(
            scores[choices.index(taken)]
            for (head, choices), scores in zip(self._choices, prediction.logits.values(), strict=True)
            if (taken := getattr(action, head)) in choices
        )
        return Expected(sigmoid(logit), prediction.latency_s[self._tier[action.tier]], self.cost_of(action))

    def value_expected(self, prediction: Prediction, action: Action) -> float:
        """The objective's value of an action, as a prediction has it."""
        expected = self.expected(prediction, action)
        return self.value_of(expected.quality, expected.latency_s, action)

    def value_of(self, quality: float, latency_s: float, action: Action) -> float:
        """The objective's value of what came of an action."""
        return self.objective.score(quality, self.cost_of(action), latency_s)[1]

    def cost_of(self, action: Action) -> float:
        """Over the dearest route's."""
        return self._costs[self._tier[action.tier]][self.arms.context_tokens.index(action.context_tokens)]

    def _default_action(self, permitted: Arms) -> Action:
        """The default as far as it is permitted; of tiers the nearest smaller, else the nearest larger."""
        place = self.arms.tiers.index
        smaller = [t for t in permitted.tiers if place(t) <= place(self.default.tier)]
        return Action(
            tier=smaller[-1] if smaller else permitted.tiers[0],
            context_tokens=self.default.context_tokens,
            temperature=_or_only(self.default.temperature, permitted.temperatures),
            top_p=_or_only(self.default.top_p, permitted.top_ps),
        )


def uniforms(seed: int) -> tuple[float, ...]:
    """A number in [0, 1) for each head from a seed in 0..2^64 - 1, the same with every library and machine.

    53 bits each of one hash: the log holds the seed, and anyone can draw again what was drawn.
    """
    digest = hashlib.blake2b(seed.to_bytes(8, "little"), digest_size=8 * len(HEADS), person=b"ruvllm.route").digest()
    return tuple((drawn >> 11) * 2.0**-53 for drawn in _INTEGERS(digest))


_INTEGERS = struct.Struct(f"<{len(HEADS)}Q").unpack


@lru_cache(maxsize=1024)
def _labels(_: str, choices: tuple[Choice, ...]) -> tuple[str, ...]:
    """A head's choices as the log names them. By head: 1 token and a temperature of 1.0 are equal, and named apart."""
    return tuple(map(str, choices))


def drawn_at_random(seed: int, exploration: float) -> tuple[str, ...]:
    """The heads whose choice was drawn uniformly with this seed: what was explored, even if it drew the best."""
    drawn = zip(SHARES, uniforms(seed), strict=True)
    return tuple(head for head, u in drawn if u < exploration * SHARES[head])


def _best(
    permitted: Sequence[float], choices: Sequence[float], logits: Sequence[float], tried: Sequence[bool]
) -> tuple[float, float]:
    """The choice with the highest logit among those tried, and that; a tie goes to the smaller one."""
    if len(permitted) == 1:  # perhaps the user's own value, which has no logit
        only = permitted[0]
        return only, logits[choices.index(only)] if only in choices else 0.0
    place = max(range(len(choices)), key=lambda i: (tried[i], logits[i]))
    return choices[place], logits[place]


def _or_only(default: float, permitted: Sequence[float]) -> float:
    return default if default in permitted else permitted[0]
