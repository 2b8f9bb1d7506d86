"""From labelled pairs to weights. Pairs of one passage never stand on both sides of a split.

The cheap logistic is fitted to the training half. Its calibration, and how log odds join it, are fitted to
logits of pairs that the logistic had not seen (by passage in five folds): a model is too sure of what it learnt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ruvllm.models.judge.item import Item
from ruvllm.models.judge.judge import abstains, bounded
from ruvllm.models.judge.logistic import Float64s, Logistic, fit
from ruvllm.models.judge.signals import SIGNALS, Embed, read
from ruvllm.models.judge.weights import Weights

FOLDS: Final = 5
RIDGE: Final = 0.02
BAND: Final = (0.2, 0.9)  # a third of all answers, nearly all of what asking about each would bring


@dataclass(frozen=True, slots=True)
class Pair:
    """An item whose label is known. `passage`: what it is split by. `kind`: right, wrong, echo, ..."""

    id: str
    kind: str
    right: bool
    passage: str
    item: Item

    @property
    def training(self) -> bool:
        """Whether it is of the training half."""
        return _hash(self.passage, 0) % 2 == 1


def fit_cheap(pairs: Sequence[Pair], embed: Embed) -> tuple[Logistic, Logistic, dict[str, float]]:
    """Logistic, its calibration, and pair id -> calibrated out-of-fold logit, from the training half.

    Abstentions are left out: they are told by rule.
    """
    chosen = learnable(pairs)
    x = np.array([read(pair.item, embed).values for pair in chosen])
    y = np.array([pair.right for pair in chosen], np.float64)
    folds = np.array([_hash(pair.passage, 1) % FOLDS for pair in chosen])
    signs = np.array(list(SIGNALS.values()), np.float64)
    unseen = np.zeros(len(y))
    for fold in range(FOLDS):
        unseen[folds == fold] = fit(x[folds != fold], y[folds != fold], signs, ridge=RIDGE).logits(x[folds == fold])
    calibration = fit(unseen[:, None], _platt_targets(y), np.ones(1), ridge=0.0)
    logits = calibration.logits(unseen[:, None])
    return (
        fit(x, y, signs, ridge=RIDGE),
        calibration,
        dict(zip((p.id for p in chosen), map(float, logits), strict=True)),
    )


def fit_joined(pairs: Sequence[Pair], cheap_logits: dict[str, float], log_odds: dict[str, float]) -> Logistic:
    """How (cheap logit, log odds) make a logit, from the pairs that have both; none: the cheap logit stays."""
    chosen = [pair for pair in learnable(pairs) if pair.id in cheap_logits and pair.id in log_odds]
    if not chosen:
        return Logistic(np.zeros(2), np.ones(2), np.array([1.0, 0.0]), 0.0)
    x = np.array([[cheap_logits[pair.id], bounded(log_odds[pair.id])] for pair in chosen])
    return fit(x, np.array([pair.right for pair in chosen], np.float64), np.ones(2), ridge=RIDGE)


def fit_weights(
    pairs: Sequence[Pair], embed: Embed, log_odds: dict[str, float], *, embedder: str, model: str
) -> Weights:
    """All weights. `log_odds`: pair id -> what `model` said of it."""
    cheap, calibration, logits = fit_cheap(pairs, embed)
    facts: dict[str, Any] = {
        "pairs": len(logits),
        "passages": len({pair.passage for pair in learnable(pairs)}),
        "embedder": embedder,
        "log_odds": {pair_id: round(odds, 3) for pair_id, odds in sorted(log_odds.items())},
    }
    rounded = dict(facts["log_odds"])
    return Weights(cheap, calibration, fit_joined(pairs, logits, rounded), model, BAND, facts)


def learnable(pairs: Sequence[Pair]) -> list[Pair]:
    """The training half, without abstentions."""
    return [p for p in pairs if p.training and not p.item.abstained and not abstains(p.item.answer)]


def auc(scores: Float64s, right: Sequence[bool]) -> float:
    """The chance that a right answer scores above a wrong one, ties by half (Mann-Whitney)."""
    truth = np.array(right, bool)
    above = scores[truth][:, None] - scores[~truth][None]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def calibration_errors(success: Float64s, right: Sequence[bool], *, bins: int = 10) -> tuple[float, float]:
    """Brier score, and expected calibration error over `bins` of equal width (Naeini et al. 2015)."""
    truth = np.array(right, np.float64)
    which = np.minimum((success * bins).astype(int), bins - 1)
    gaps = [abs(float((success - truth)[which == b].sum())) for b in range(bins)]
    return float(((success - truth) ** 2).mean()), sum(gaps) / len(truth)


def _platt_targets(y: Float64s) -> Float64s:
    """Platt's smoothed targets: (n+ + 1) / (n+ + 2) for right, 1 / (n- + 2) for wrong."""
    right, wrong = float(y.sum()), float(len(y) - y.sum())
    return np.where(y > 0, (right + 1) / (right + 2), 1 / (wrong + 2))


def _hash(passage: str, byte: int) -> int:
    return hashlib.sha256(passage.encode()).digest()[byte]
