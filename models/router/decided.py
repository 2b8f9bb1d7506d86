"""What a router would have done with logged answers: their features again, another checkpoint or policy.

Invariant: each session goes on from the decider's own hidden state, not from the one that was logged. What it cannot
know is how its own earlier answers would have changed the questions and the features that came after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ruvllm.models.router.answer import Answer
from ruvllm.models.router.arms import Action
from ruvllm.models.router.checkpoint import Prediction
from ruvllm.models.router.fastgrnn import Float32s
from ruvllm.models.router.policy import Router


@dataclass(frozen=True)
class Decided:
    """By answer: the action without exploration, the confidence in the best one, and what was predicted."""

    actions: list[Action] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)


def decided_again(asked: Sequence[Answer], router: Router) -> Decided:
    """What a router would have done, its hidden state running along each session."""
    hidden: dict[str, Float32s] = {}
    found = Decided()
    for answer in asked:
        prediction = router.checkpoint.forward(answer.features, hidden.get(answer.session))
        hidden[answer.session] = prediction.hidden
        preferred = router.preferred(prediction, answer.permitted, answer.minimum_quality)
        found.actions.append(preferred.action)
        found.confidences.append(preferred.confidence)
        found.predictions.append(prediction)
    return found


def same_route(one: Action, other: Action) -> bool:
    """Sampling settings are drawn as the log drew them: what is compared is tier and context size."""
    return (one.tier, one.context_tokens) == (other.tier, other.context_tokens)
