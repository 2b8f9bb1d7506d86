"""FastGRNN behind `Learner`: the past outcomes, the cell that corrects them, and what keeps it from forgetting.

What it learns from is what the running loop learns from: each answer with the features it was routed by. Answers
given in one call could not see each other when they were routed, so their past is the leave-one-out estimate.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from ruvllm.models.router.arms import Arms
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.models.router.elastic import Elastic
from ruvllm.models.router.experience import Experience
from ruvllm.models.router.features import FORM, with_past
from ruvllm.models.router.fitting import estimates, fit_checkpoint
from ruvllm.models.router.learner import Float32s, Questions
from ruvllm.models.router.past_outcomes import Fit, Outlook, fit_table
from ruvllm.models.router.reservoir import Reservoir
from ruvllm.models.router.training import LEARNT, Schedule, fisher

PAST_KEPT: Final = 8192
REHEARSED: Final = 4096
STRENGTH: Final = 100.0
LEAST_NEW: Final = 100
MOST_NEW: Final = 500
"""New answers between two trainings: a quarter of those learnt from, within these bounds."""
AGAIN: Final = Schedule(epochs=6, steps=200)
"""A trained router learns on; it does not start again."""


class FastGrnnLearner:
    """Learns by `learn`, at once where much is new, else only its past until enough has gathered."""

    name = "fastgrnn"

    def __init__(self, tiers: int, seed: int, *, elastic: bool = True, reservoir: bool = True) -> None:
        torch.set_num_threads(1)  # matrices are small: two threads take ten times as long
        self._tiers, self._seed = tiers, seed
        self.checkpoint = Checkpoint.initial(Arms(tuple(map(str, range(tiers))), (1,), (0.0,), (1.0,)), seed)
        self._elastic = elastic
        self._kept: Reservoir[Experience] = Reservoir(REHEARSED if reservoir else 0, seed=seed)
        self._past: list[tuple[Questions, Float32s]] = []
        self._fit: Fit | None = None
        self._fitted = self._trained = self._seen = 0
        self._waiting: list[Experience] = []

    def learn(self, questions: Questions, qualities: Float32s) -> None:
        """Take in answers: (n, tiers), nan where a tier was not asked."""
        first = self._fit is None
        routed = None if first else self._outlook(questions)
        self._past.append((questions, qualities))
        self._seen += len(questions)
        if self._seen - self._fitted >= max(50, self._fitted // 16) or first:
            left_out = self._refit()[-len(questions) :]
            if routed is None or len(questions) >= self._fitted // 2:
                assert self._fit is not None
                plain = self._fit.outlooks(questions.vectors, questions.features[:, FORM])
                routed = Outlook(left_out, plain.similarity, plain.evidence)
        assert routed is not None
        self._waiting.append(_experience(with_past(questions.features, routed), qualities, questions.sessions))
        if self._seen - self._trained >= max(LEAST_NEW, min(MOST_NEW, self._trained // 4)):
            self._train()

    def predict(self, questions: Questions) -> Float32s:
        """(n, tiers): the quality to expect."""
        if self._fit is None:
            return np.full((len(questions), self._tiers), 0.5, np.float32)
        features = with_past(questions.features, self._outlook(questions))
        session = np.unique(questions.sessions, return_inverse=True)[1].astype(np.int64)
        scores = estimates(self.checkpoint.parameters, features, session)[:, : self._tiers]
        return np.asarray(1.0 / (1.0 + np.exp(-scores)), np.float32)

    def _outlook(self, questions: Questions) -> Outlook:
        assert self._fit is not None
        return self._fit.outlooks(questions.vectors, questions.features[:, FORM])

    def _refit(self) -> Float32s:
        """The past anew, over the newest answers; their leave-one-out estimates."""
        vectors = np.concatenate([q.vectors for q, _ in self._past])[-PAST_KEPT:]
        forms = np.concatenate([q.features[:, FORM] for q, _ in self._past])[-PAST_KEPT:]
        qualities = np.concatenate([known for _, known in self._past])[-PAST_KEPT:]
        self._fit, left_out = fit_table(vectors, forms, qualities.astype(np.float64))
        self._fitted = self._seen
        return left_out

    def _train(self) -> None:
        fresh = Experience.joined(self._waiting)
        rehearsed = [row for _, row in self._kept.items()]
        held = None
        if self._elastic and self._trained:
            before = Experience.joined(rehearsed or self._waiting)
            p = {name: torch.from_numpy(np.array(getattr(self.checkpoint.parameters, name))) for name in LEARNT}
            held = Elastic(p, fisher(p, before, self.checkpoint.arms, seed=self._seed), STRENGTH)
        self.checkpoint = fit_checkpoint(
            Experience.joined([*rehearsed, fresh]),
            self.checkpoint,
            seed=self._seed,
            schedule=AGAIN if self._trained else None,
            elastic=held,
        )
        for session in np.unique(fresh.session):
            self._kept.add(f"{self._trained}/{session}", fresh.rows(fresh.session == session))
        self._trained = self._seen
        self._waiting = []


def _experience(features: Float32s, qualities: Float32s, sessions: np.ndarray) -> Experience:
    n, tiers = qualities.shape
    unknown = np.full((n, tiers), np.nan, np.float32)
    return Experience(features, qualities, unknown, unknown, np.zeros((n, 3), np.int64), sessions)
