"""The behaviour policy: from scores, constraints and a seed to one action with its probability.

Invariant: the logged probability is that of the joint action really taken, after constraints,
availability, fallback and exploration; learning from the log is honest only then (DESIGN, 6).
Policy until Loop B trains another: the head-wise best permitted action, or the profile's default
action when confidence is under the threshold, mixed with a share `exploration` of uniform draws
over all permitted joint actions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from ruvllm.errors import InvalidConfiguration
from ruvllm.models.router.arms import Action, Arms, Choice
from ruvllm.models.router.checkpoint import Checkpoint, Prediction
from ruvllm.models.router.fastgrnn import Float32s

C = TypeVar("C", bound=Choice)

POLICY: Final = "epsilon-greedy"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """A distribution over the permitted joint actions: `greedy`, mixed with the uniform one.

    P(a) = (1 - epsilon) [a = greedy] + epsilon / n, n permitted actions. One draw decides for all
    heads together, so that the joint is in general NOT the product of its marginals. Learning must
    weigh by `probability`; the marginals are for people.
    """

    greedy: Action
    permitted: Arms
    exploration: float

    def probability(self, action: Action) -> float:
        """Exact propensity of a joint action; 0 for one that is not permitted."""
        if action not in self.permitted:
            return 0.0
        share = self.exploration / self.permitted.size
        # min: the two terms may add up to one unit in the last place more than 1.
        return min(1.0, share + (1.0 - self.exploration if action == self.greedy else 0.0))

    def marginals(self) -> dict[str, dict[str, float]]:
        """Head -> choice -> probability that a draw has it. Choices that are not permitted are absent."""
        found: dict[str, dict[str, float]] = {}
        for head, choices in self.permitted.by_head.items():
            share = self.exploration / len(choices)
            taken = getattr(self.greedy, head)
            found[head] = {
                str(choice): min(1.0, share + (1.0 - self.exploration if choice == taken else 0.0))
                for choice in choices
            }
        return found

    def draw(self, seed: int) -> Action:
        """The action that this seed draws: one uniform number u decides.

        u < epsilon explores, and then u / epsilon is uniform again and picks the action.
        """
        if self.exploration == 0.0:
            return self.greedy
        u = uniform(seed)
        if u >= self.exploration:
            return self.greedy
        n = self.permitted.size
        return self.permitted.nth(min(int(u / self.exploration * n), n - 1))


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

    def decide(
        self,
        features: Float32s,
        hidden: Float32s | None,
        *,
        available_tiers: Collection[str],
        allowed_tiers: Collection[str] | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int,
    ) -> Decision:
        """Route one request.

        `features` (128,) float32; `hidden` (64,) float32 as an earlier decision of this session
        under this checkpoint left it, else None; constraints as in `Arms.permitted`. The same
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
        behaviour = self.behaviour(prediction, permitted)
        action = behaviour.draw(seed)
        return Decision(
            action=action,
            probability=behaviour.probability(action),
            probabilities=behaviour.marginals(),
            hidden=prediction.hidden,
            checkpoint=self.checkpoint.id,
            confidence=prediction.confidence,
            fallback=self.falls_back(prediction),
            policy=POLICY,
            exploration=self.exploration,
            seed=seed,
        )

    def behaviour(self, prediction: Prediction, permitted: Arms) -> Behaviour:
        """The distribution that a decision on this prediction is drawn from."""
        choose = self._default_action if self.falls_back(prediction) else self._best_action
        return Behaviour(choose(prediction, permitted), permitted, self.exploration)

    def falls_back(self, prediction: Prediction) -> bool:
        return prediction.confidence < self.confidence_threshold

    def _best_action(self, prediction: Prediction, permitted: Arms) -> Action:
        logits = prediction.logits
        return Action(
            tier=_best(permitted.tiers, self.arms.tiers, logits["tier"]),
            context_tokens=_best(permitted.context_tokens, self.arms.context_tokens, logits["context_tokens"]),
            temperature=_best(permitted.temperatures, self.arms.temperatures, logits["temperature"]),
            top_p=_best(permitted.top_ps, self.arms.top_ps, logits["top_p"]),
        )

    def _default_action(self, _prediction: Prediction, permitted: Arms) -> Action:
        """The default as far as it is permitted; of tiers the nearest smaller, else the nearest larger."""
        place = self.arms.tiers.index
        smaller = [t for t in permitted.tiers if place(t) <= place(self.default.tier)]
        return Action(
            tier=smaller[-1] if smaller else permitted.tiers[0],
            context_tokens=self.default.context_tokens,
            temperature=_or_only(self.default.temperature, permitted.temperatures),
            top_p=_or_only(self.default.top_p, permitted.top_ps),
        )


def uniform(seed: int) -> float:
    """One number in [0, 1) from a seed in 0..2^64 - 1, the same with every library and machine.

    53 bits of a keyed hash: the log holds the seed, and anyone can draw again what was drawn.
    """
    digest = hashlib.blake2b(seed.to_bytes(8, "little"), digest_size=8, person=b"ruvllm.route").digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def _best(permitted: Sequence[C], choices: Sequence[C], logits: Sequence[float]) -> C:
    """The permitted choice with the highest logit; a tie goes to the smaller one."""
    if len(permitted) == 1:  # perhaps the user's own value, which has no logit
        return permitted[0]
    score = dict(zip(choices, logits, strict=True))
    return max(permitted, key=score.__getitem__)


def _or_only(default: float, permitted: Sequence[float]) -> float:
    return default if default in permitted else permitted[0]
