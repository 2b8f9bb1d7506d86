"""The judge of answers: a cheap probability that the answer is right, and a large model's where it wavers.

Invariants: quality and success are within 0..1; what is missing from the passages never raises them; an
abstention is never uncertain.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from ruvllm.models.judge.item import Item, Judgement
from ruvllm.models.judge.logistic import logit, sigmoid
from ruvllm.models.judge.signals import Embed, Reading, read
from ruvllm.models.judge.weights import Weights
from ruvllm.models.judge.wording import words

ABSTAINED_QUALITY: Final = 0.1  # honest, but nothing to learn an answer from
ABSTAINED_SUCCESS: Final = 0.02
LOG_ODDS_MOST: Final = 20.0  # a model surer than this says no more than one as sure
_ABSTENTIONS: Final = (
    " i don't know ",
    " i do not know ",
    " do not say ",
    " does not say ",
    " cannot answer ",
    " can't answer ",
    " no information ",
    " not stated ",
    " do not hold ",
    " not mentioned ",
)
_BARE_ABSTENTIONS: Final = frozenset({" unknown ", " not known ", " not specified ", " no answer "})
_LONGEST_ABSTENTION_WORDS: Final = 16


class Judge:
    """Judges with given weights. `embed`: see signals.py; the vectors must be of the model fitted with."""

    def __init__(self, weights: Weights, embed: Embed) -> None:
        self._weights, self._embed = weights, embed

    def judge(self, item: Item) -> Judgement:
        """The cheap judgement: words and vectors only."""
        if item.abstained or abstains(item.answer):
            return Judgement(
                ABSTAINED_QUALITY,
                ABSTAINED_SUCCESS,
                ("It says that it does not know.",),
                {served.node_id: 0.0 for served in item.served},
                "cheap",
            )
        if not item.answer.strip():
            return Judgement(0.0, 0.0, ("There is no answer.",), {s.node_id: 0.0 for s in item.served}, "cheap")
        reading = read(item, self._embed)
        raw = self._weights.cheap.logits(reading.values[None])
        success = float(sigmoid(self._weights.calibration.logits(raw[:, None]))[0])
        support: dict[str, float] = {}
        for served, share in zip(item.served, reading.support, strict=True):
            support[served.node_id] = max(support.get(served.node_id, 0.0), share)
        return Judgement(moderated(success, support), success, _reasons(item, reading, support), support, "cheap")

    def uncertain(self, judgement: Judgement) -> bool:
        """Whether the costly judge is worth its time."""
        low, high = self._weights.band
        return judgement.by == "cheap" and low < judgement.success < high

    def with_log_odds(self, judgement: Judgement, log_odds: float) -> Judgement:
        """Join what a large model said, ln P(yes) - ln P(no), to the cheap judgement."""
        pair = np.array([[logit(judgement.success), bounded(log_odds)]])
        success = float(sigmoid(self._weights.joined.logits(pair))[0])
        said = "yes" if log_odds > 0 else "no"
        reason = f"Asked whether the text says so, a large model leans to {said} (log odds {log_odds:+.1f})."
        return dataclasses.replace(
            judgement,
            quality=moderated(success, judgement.support),
            success=success,
            reasons=(*judgement.reasons, reason),
            by="log_odds",
        )


def abstains(answer: str) -> bool:
    """Whether a short answer says that it has none."""
    said = words(answer)
    if said in _BARE_ABSTENTIONS:
        return True
    return len(said.split()) <= _LONGEST_ABSTENTION_WORDS and any(phrase in said for phrase in _ABSTENTIONS)


def moderated(success: float, support: dict[str, float]) -> float:
    """Quality: an answer that no passage carries may be right, but memory did not earn it."""
    return success * (0.5 + 0.5 * max(support.values(), default=0.0))


def bounded(log_odds: float) -> float:
    return min(max(log_odds, -LOG_ODDS_MOST), LOG_ODDS_MOST)


def _reasons(item: Item, reading: Reading, support: dict[str, float]) -> tuple[str, ...]:
    """What weighed most, in words; at most four."""
    reasons: list[str] = []
    if not item.served:
        reasons.append("No passage was served.")
    if reading.value("echo"):
        reasons.append("The answer repeats the question and adds nothing.")
    for claim in reading.missing[:2]:
        kind = "the number" if claim[0].isdigit() else "the name"
        reasons.append(f"No served passage holds {kind} {claim}.")
    if reading.value("kind_fits") < 0 and not reading.value("echo"):
        reasons.append("The answer is not the kind of thing that was asked for.")
    best = max(support, key=lambda node_id: support[node_id], default="")
    if best and support[best] >= 0.7:
        reasons.append(f"Passage {best} carries the answer.")
    elif reading.new_terms and not reading.missing and item.served:
        off = reading.value("on_topic_words") < -0.3
        reasons.append(
            "Its words stand where the passages speak of something else."
            if off
            else f"Only {reading.value('covered'):.0%} of what it adds stands in one passage."
        )
    return tuple(reasons[:4])
