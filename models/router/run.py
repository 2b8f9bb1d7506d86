"""One training run of the router, from judged answers to a gated checkpoint. It needs torch and runs in a child.

The gate: a checkpoint that learnt from three quarters of the sessions decides the held-out quarter again. Its value
there, estimated doubly robustly from the logged propensities, must beat that of what serves now by more than chance
(one-sided, 95 %). Where there are few answers each quarter is held out once. Then a checkpoint learns from all.

Invariant: the same answers, parent, rules and seed give the same bytes on the same machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from ruvllm.models.learning_run import Result
from ruvllm.models.router.answer import Answer, experience_of
from ruvllm.models.router.calibration import expected_calibration_error
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.models.router.decided import decided_again, same_route
from ruvllm.models.router.elastic import Elastic
from ruvllm.models.router.fitting import fit_checkpoint
from ruvllm.models.router.off_policy import (
    Floats,
    doubly_robust_rows,
    effective_samples,
    importance_weights,
    mean_by_cluster,
)
from ruvllm.models.router.rules import Rules
from ruvllm.models.router.training import LEARNT, Schedule, fisher

LEAST_ANSWERS: Final = 60
FOLDS: Final = 4
ONE_SPLIT_FROM: Final = 1_000
"""Answers from which one held-out quarter is enough."""
SURE: Final = 1.645
STRENGTH: Final = 100.0


def run(answers: list[Answer], seed: int, parent: bytes | None, rules: Rules) -> Result:
    """Train behind the gate, on one thread. `parent`: the packed checkpoint that serves; none: an untrained one."""
    torch.set_num_threads(1)
    before = (
        Checkpoint.unpacked(parent) if parent else Checkpoint.initial(rules.arms, rules.seed_of_start, rules.prices)
    )
    sessions = list(dict.fromkeys(a.session for a in answers))
    if len(answers) < LEAST_ANSWERS or len(sessions) < FOLDS:
        return Result(None, False, 0.0, math.inf, 0, len(answers))
    order = np.random.default_rng(seed).permutation(len(sessions))
    compared = []
    for fold in range(1 if len(answers) >= ONE_SPLIT_FROM else FOLDS):
        held = {sessions[i] for i in order[fold::FOLDS]}
        asked = [a for a in answers if a.session in held and a.explored]
        if asked:
            trial = _learn([a for a in answers if a.session not in held], before, seed)
            compared.append(_compared(asked, trial, before, rules))
    if not compared:  # a log without exploration says nothing of other routes
        return Result(None, False, 0.0, math.inf, 0, len(answers))
    verdict = _Compared.joined(compared)
    gain, error = verdict.gain()
    passed = gain - SURE * error > 0
    after = _learn(answers, before, seed) if passed else None
    return Result(
        after.packed() if after else None,
        passed,
        gain,
        error,
        len(verdict.new),
        len(answers),
        after.id if after else None,
        verdict.measures(),
    )


def configuration() -> dict[str, float]:
    """What a run's result depends on beside its answers, seed, parent and rules."""
    return {"elastic": STRENGTH, **{name: float(value) for name, value in vars(Schedule()).items()}}


def _learn(answers: list[Answer], before: Checkpoint, seed: int) -> Checkpoint:
    experience = experience_of(answers, before.arms)
    elastic = None
    if before.parent is not None:  # it has learnt: it is held where that matters
        p = {name: torch.from_numpy(np.array(getattr(before.parameters, name))) for name in LEARNT}
        elastic = Elastic(p, fisher(p, experience, before.arms, seed=seed), STRENGTH)
    return fit_checkpoint(experience, before, seed=seed, elastic=elastic)


@dataclass(frozen=True, eq=False)
class _Compared:
    """By held-out answer: the doubly robust terms of the new policy and the old, weights, confidence, outcome."""

    sessions: list[str]
    new: Floats
    old: Floats
    weight: Floats
    confidence: Floats
    quality: Floats

    @classmethod
    def joined(cls, parts: list[_Compared]) -> _Compared:
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("new", "old", "weight", "confidence", "quality")
        }
        return cls([session for part in parts for session in part.sessions], **arrays)

    def gain(self) -> tuple[float, float]:
        """Of the new policy, by answer, and its standard error; answers of one session count as one draw."""
        return mean_by_cluster(self.new - self.old, self.sessions)

    def measures(self) -> dict[str, float]:
        agreed = self.weight > 0
        return {
            "value_new": float(self.new.mean()),
            "value_old": float(self.old.mean()),
            "effective_samples": effective_samples(self.weight),
            "calibration_error": expected_calibration_error(self.confidence[agreed], self.quality[agreed]),
        }


def _compared(asked: list[Answer], trial: Checkpoint, before: Checkpoint, rules: Rules) -> _Compared:
    """What the trial would do with answers that it has not learnt from, beside what serves."""
    new, old = decided_again(asked, rules.router(trial)), decided_again(asked, rules.router(before))
    model, logged = rules.router(trial), np.array([a.propensity for a in asked])
    reward = np.array([model.value_of(a.quality, a.latency_s, a.action) for a in asked])
    at_taken = np.array([model.value_expected(p, a.action) for p, a in zip(new.predictions, asked, strict=True)])
    rows, weights = [], []
    for decided in (new, old):
        same = np.array([same_route(d, a.action) for d, a in zip(decided.actions, asked, strict=True)], np.float64)
        weights.append(importance_weights(same, logged))
        at_policy = [model.value_expected(p, d) for p, d in zip(new.predictions, decided.actions, strict=True)]
        rows.append(doubly_robust_rows(reward, weights[-1], at_taken, np.array(at_policy)))
    return _Compared(
        sessions=[a.session for a in asked],
        new=rows[0],
        old=rows[1],
        weight=weights[0],
        confidence=np.array(new.confidences),
        quality=np.array([a.quality for a in asked]),
    )
