"""What a router has to beat: the field's plain estimators, each behind the same two calls as FastGRNN.

Invariant: a baseline is a function of all answers that it was given, in their order; it forgets none of them,
so learning in two calls is learning in one. Until something was learnt each predicts the same for all questions.

They see what their name says: `Knn` the vectors, `LinUcb` and `Logistic` the 128 features, `DomainMeans` the
name of the domain, the others nothing.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ruvllm.errors import InvalidConfiguration
from ruvllm.models.router.features import FEATURES, INDEX, QUERY_DIMENSIONS
from ruvllm.models.router.learner import Float32s, Learner, Questions

Float64s = NDArray[np.float64]

NEUTRAL: Final = 0.5
"""The quality to expect of anything before the first answer."""
NEIGHBOURS: Final = (20, 40, 80, 200)
_LEFT_OUT: Final = 1500
_BLOCK: Final = 1024
SHRINKAGE: Final = 3.0
"""Outcomes that a tier's mean counts for in the mean of one domain."""


def baselines(tiers: int, seed: int) -> dict[str, Learner]:
    """One of each, by name. Raises InvalidConfiguration for fewer than two tiers: there is nothing to route."""
    if tiers < 2:
        raise InvalidConfiguration(f"a router needs two tiers or more, got {tiers}")
    made: tuple[Learner, ...] = (
        Always(tiers, 0, "always-smallest"),
        Always(tiers, tiers - 1, "always-largest"),
        Random(tiers, seed),
        Knn(tiers),
        LinUcb(tiers),
        Logistic(tiers),
        DomainMeans(tiers),
    )
    return {learner.name: learner for learner in made}


class Always:
    """One tier for everything: 1 for that tier, 0 for the others. It learns nothing."""

    def __init__(self, tiers: int, tier: int, name: str) -> None:
        self.name = name
        self._row = np.eye(tiers, dtype=np.float32)[tier]

    def learn(self, questions: Questions, qualities: Float32s) -> None:
        _checked(questions, qualities, len(self._row))

    def predict(self, questions: Questions) -> Float32s:
        return np.tile(self._row, (len(questions), 1))


class Random:
    """Independent uniform estimates: a function of the seed and the question's vector and features, so that the
    same question is the same draw; for all the same before the first answer.
    """

    name = "random"

    def __init__(self, tiers: int, seed: int) -> None:
        self._tiers, self._seed = tiers, seed
        self._begun = False

    def learn(self, questions: Questions, qualities: Float32s) -> None:
        self._begun |= len(_checked(questions, qualities, self._tiers)) > 0

    def predict(self, questions: Questions) -> Float32s:
        found = np.full((len(questions), self._tiers), NEUTRAL, np.float32)
        if self._begun:
            for row, (vector, features) in enumerate(zip(questions.vectors, questions.features, strict=True)):
                digest = hashlib.blake2b(vector.tobytes() + features.tobytes(), digest_size=8).digest()
                found[row] = np.random.default_rng((self._seed, int.from_bytes(digest))).random(self._tiers)
        return found


class Knn:
    """Mean over the k nearest questions by cosine of the outcomes known there; the tier's mean where none is.

    k is that of `NEIGHBOURS` with the least squared leave-one-out error on up to 1,500 questions spread over all
    that was learnt: the error of the differences between tiers, which decide a route, where several are known.
    """

    name = "knn"

    def __init__(self, tiers: int) -> None:
        self.k = NEIGHBOURS[0]
        self._known = _Known(tiers)

    def learn(self, questions: Questions, qualities: Float32s) -> None:
        self._known.add(questions, qualities)
        n = len(self._known)
        if n < 2:
            return
        rows = np.unique(np.linspace(0, n - 1, min(_LEFT_OUT, n)).astype(np.int64))
        sizes = np.unique(np.minimum(NEIGHBOURS, n - 1)).tolist()
        estimates = self._estimates(self._known.vectors[rows], sizes, left_out=rows)
        errors = [_error(one, self._known.qualities[rows]) for one in estimates]
        self.k = sizes[int(np.argmin(errors))]

    def predict(self, questions: Questions) -> Float32s:
        if not len(self._known):
            return self._known.means(len(questions))
        parts = [
            self._estimates(questions.vectors[at : at + _BLOCK], [self.k])[0] for at in range(0, len(questions), _BLOCK)
        ]
        return np.concatenate(parts).astype(np.float32) if parts else self._known.means(0)

    def _estimates(
        self, vectors: Float32s, sizes: list[int], left_out: NDArray[np.int64] | None = None
    ) -> list[Float64s]:
        """For each k of `sizes` (ascending) an estimate (n, tiers). `left_out`: the row that each vector itself is."""
        cosines = vectors @ self._known.vectors.T
        if left_out is not None:
            cosines[np.arange(len(vectors)), left_out] = -np.inf
        most = min(sizes[-1], cosines.shape[1])
        nearest = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
        order = np.argsort(-np.take_along_axis(cosines, nearest, axis=1), axis=1, kind="stable")
        qualities = self._known.qualities[np.take_along_axis(nearest, order, axis=1)]
        counts = np.cumsum(~np.isnan(qualities), axis=1)
        sums = np.cumsum(np.nan_to_num(qualities), axis=1, dtype=np.float64)
        means = self._known.means(1)[0]
        last = [min(size, most) - 1 for size in sizes]
        return [np.where(counts[:, k] > 0, sums[:, k] / np.maximum(counts[:, k], 1), means) for k in last]


class LinUcb:
    """A ridge regression of the outcome on the features, tier by tier, and how unsure it is.

        A = ridge I + X^T X,  theta = A^-1 X^T (y - 1/2),  estimate = 1/2 + x^T theta,  bonus = alpha sqrt(x^T A^-1 x)

    LinUCB with disjoint linear models, Li, Chu, Langford and Schapire 2010, algorithm 1. `predict` is the mean
    estimate; a stream that explores by optimism adds `bonus`. The features' own `bias` is the intercept.
    """

    name = "linucb"

    def __init__(self, tiers: int, *, ridge: float = 10.0, alpha: float = 0.25) -> None:
        self._alpha = alpha
        self._precision = np.tile(ridge * np.eye(len(FEATURES)), (tiers, 1, 1))
        self._moment = np.zeros((tiers, len(FEATURES)))
        self._inverse: NDArray[np.floating] = np.tile(np.eye(len(FEATURES)) / ridge, (tiers, 1, 1))

    def learn(self, questions: Questions, qualities: Float32s) -> None:
        qualities = _checked(questions, qualities, len(self._moment))
        for tier, known in enumerate(~np.isnan(qualities.T)):
            x = questions.features[known].astype(np.float64)
            self._precision[tier] += x.T @ x
            self._moment[tier] += x.T @ (qualities[known, tier] - NEUTRAL)
        self._inverse = np.linalg.inv(self._precision)

    def predict(self, questions: Questions) -> Float32s:
        weights = np.einsum("tij,tj->ti", self._inverse, self._moment)
        found: Float32s = np.clip(NEUTRAL + questions.features @ weights.T, 0.0, 1.0).astype(np.float32)
        return found

    def bonus(self, questions: Questions) -> Float32s:
        """(n, tiers): alpha times the standard deviation of each estimate, in quality."""
        x = questions.features.astype(np.float64)
        variance = np.stack([((x @ inverse) * x).sum(1) for inverse in self._inverse], axis=1)
        found: Float32s = (self._alpha * np.sqrt(np.maximum(variance, 0.0))).astype(np.float32)
        return found


class Logistic:
    """Logistic regression on the features, tier by tier, with soft targets and an L2 penalty.

    Minimises  sum_i [log(1 + exp(w^T x_i)) - y_i w^T x_i] + ridge/2 |w|^2  by Newton's method (iteratively
    reweighted least squares: Bishop 2006, section 4.3.3), halving a step that does not descend.
    """

    name = "logistic"
    _STEPS: Final = 25

    def __init__(self, tiers: int, *, ridge: float = 10.0) -> None:
        self._penalty = np.full(len(FEATURES), ridge)
        self._penalty[INDEX["bias"]] = 1e-2  # the level itself is hardly shrunk, yet bounded where all answers agree
        self._known = _Known(tiers)
        self._weights = np.zeros((tiers, len(FEATURES)))

    def learn(self, questions: Questions, qualities: Float32s) -> None:
        self._known.add(questions, qualities)
        for tier, known in enumerate(~np.isnan(self._known.qualities.T)):
            if known.any():
                x = self._known.features[known].astype(np.float64)
                self._weights[tier] = self._fitted(x, self._known.qualities[known, tier].astype(np.float64))

    def predict(self, questions: Questions) -> Float32s:
        estimates = _sigmoid(questions.features @ self._weights.T).astype(np.float32)
        never = np.isnan(self._known.qualities).all(axis=0)
        estimates[:, never] = self._known.means(len(questions))[:, never]
        return estimates

    def _fitted(self, x: Float64s, y: Float64s) -> Float64s:
        """(n, 128), (n,) -> (128,)."""
        w = np.zeros(x.shape[1])
        loss = self._loss(w, x, y)
        for _ in range(self._STEPS):
            p = _sigmoid(x @ w)
            curvature = (x * (p * (1.0 - p))[:, None]).T @ x + np.diag(self._penalty)
            step = np.linalg.solve(curvature, x.T @ (p - y) + self._penalty * w)
            while (tried := self._loss(w - step, x, y)) > loss and np.abs(step).max() > 1e-9:
                step = step / 2.0
            if tried > loss:
                break
            w, gained, loss = w - step, loss - tried, tried
            if gained < 1e-9 * (1.0 + loss):
                break
        return w

    def _loss(self, w: Float64s, x: Float64s, y: Float64s) -> float:
        z = x @ w
        return float(np.logaddexp(0.0, z).sum() - y @ z + 0.5 * self._penalty @ (w * w))


class DomainMeans:
    """The mean of each domain on each tier, shrunk to the tier's mean: (sum + 3 m) / (n + 3).

    It is told what the others have to find out: a bar, not a router that could serve.
    """

    name = "domain_means"

    def __init__(self, tiers: int) -> None:
        self._known = _Known(tiers)

    def learn(self, questions: Questions, qualities: Float32s) -> None:
        self._known.add(questions, qualities)

    def predict(self, questions: Questions) -> Float32s:
        found = self._known.means(len(questions))
        for domain in np.unique(questions.domains):
            rows = self._known.qualities[self._known.domains == domain]
            mean = self._known.means(1)[0]
            found[questions.domains == domain] = (np.nansum(rows, axis=0) + SHRINKAGE * mean) / (
                (~np.isnan(rows)).sum(axis=0) + SHRINKAGE
            )
        return found


class _Known:
    """All answers so far, in order: features (n, 128), vectors (n, 384), domains (n,), qualities (n, tiers)."""

    def __init__(self, tiers: int) -> None:
        self._tiers = tiers
        self.features = np.zeros((0, len(FEATURES)), np.float32)
        self.vectors = np.zeros((0, QUERY_DIMENSIONS), np.float32)
        self.domains = np.zeros(0, np.str_)
        self.qualities = np.zeros((0, tiers), np.float32)

    def __len__(self) -> int:
        return len(self.qualities)

    def add(self, questions: Questions, qualities: Float32s) -> None:
        qualities = _checked(questions, qualities, self._tiers)
        self.features = np.concatenate((self.features, questions.features))
        self.vectors = np.concatenate((self.vectors, questions.vectors))
        self.domains = np.concatenate((self.domains, questions.domains))
        self.qualities = np.concatenate((self.qualities, qualities))

    def means(self, n: int) -> Float32s:
        """(n, tiers), n times the same row: each tier's mean; the mean of all where a tier was never tried."""
        known = ~np.isnan(self.qualities)
        overall = float(np.nansum(self.qualities) / known.sum()) if known.any() else NEUTRAL
        sums = np.nansum(self.qualities, axis=0, dtype=np.float64)
        means = np.where(known.any(axis=0), sums / np.maximum(known.sum(axis=0), 1), overall)
        return np.tile(means.astype(np.float32), (n, 1))


def _checked(questions: Questions, qualities: Float32s, tiers: int) -> Float32s:
    """The qualities themselves. Raises InvalidConfiguration if they do not belong to these questions and tiers."""
    if qualities.shape != (len(questions), tiers):
        raise InvalidConfiguration(
            f"qualities of shape {qualities.shape} for {len(questions)} questions and {tiers} tiers",
            hint="Give one row a question and one column a tier, nan where a tier was not asked.",
        )
    return qualities


def _error(estimates: Float64s, qualities: Float32s) -> float:
    """Sum of squares over the known; a row's mean error is taken out where it has two known outcomes or more."""
    wrong = np.nan_to_num(estimates - qualities)
    known = ~np.isnan(qualities)
    counts = known.sum(axis=1, keepdims=True)
    level = np.where(counts > 1, wrong.sum(axis=1, keepdims=True) / np.maximum(counts, 1), 0.0)
    return float((known * (wrong - level) ** 2).sum())


def _sigmoid(z: Float64s) -> Float64s:
    found: Float64s = 0.5 * (1.0 + np.tanh(0.5 * z))
    return found
