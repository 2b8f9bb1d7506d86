"""What became of questions like this one, on each tier: a smooth estimate from past outcomes.

The outcome of a single answer is nearly noise; a mean over many like it is not. So each tier's quality is a
kernel ridge regression over what was answered before, where two questions are alike in meaning and in form:

    k(x, y) = exp((cos(x, y) - 1) / tau - |s(x) - s(y)|^2 / (2 l^2))        s: standardised surface features

approximated on m inducing questions (subset of regressors: Rasmussen & Williams 2006, section 8.3.1), so that
an estimate costs the same however much was asked. The ridge is chosen by the leave-one-out error, which has a
closed form (their section 5.4.2 for the exact case).

Invariant: a fit is a function of the outcomes in the order they are given, nothing else; it never changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ruvllm.errors import InvalidConfiguration

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]

TAU: Final = 0.6
LENGTH: Final = 4.0
INDUCING: Final = 512
RIDGES: Final = (1.0, 3.0, 10.0, 30.0, 100.0)
PRIOR: Final = 2.0
"""Outcomes that the mean over all tiers counts for in a tier's own."""
FARTHEST: Final = 3.0
"""Deviations, at most: a form that was never seen is far, not infinitely far."""
_JITTER: Final = 1e-4


class PastOutcome(NamedTuple):
    """One judged answer: the question's vector (384,) and form (30,), the tier's place, the quality 0 to 1."""

    vector: Float32s
    form: Float32s
    tier: int
    quality: float


class Outlook(NamedTuple):
    """What the past says of a question, or of n. `quality`: (tiers,) or (n, tiers), 0 to 1; nan: a tier has no past.

    `similarity`: likeness of the inducing question most like it, 0 to 1; `evidence`: the sum over all of them;
    of n questions (n,) each.
    """

    quality: Float32s
    similarity: float | Float32s
    evidence: float | Float32s


@dataclass(frozen=True, eq=False)
class Fit:
    """An estimator, ready to serve: one product over (m, 384 + 30), one exponential, one product over (tiers, m)."""

    points: Float32s
    """(m, 384 + 30): vectors over tau beside forms over l^2"""
    offsets: Float32s
    """(m,): what the points alone add to the exponent"""
    form_mean: Float32s
    """(30,)"""
    form_scale: Float32s
    """(30,)"""
    weights: Float32s
    """(tiers, m)"""
    means: Float32s
    """(tiers,): nan where a tier has no past"""

    def outlook(self, vector: Float32s, form: Float32s) -> Outlook:
        """Of one question: its vector (384,), its form (30,)."""
        standard = form - self.form_mean
        standard /= self.form_scale
        np.maximum(standard, -FARTHEST, out=standard)
        np.minimum(standard, FARTHEST, out=standard)
        kernel = self.points.dot(np.concatenate((vector, standard)))
        kernel += self.offsets
        kernel -= np.float32(standard.dot(standard) / (2 * LENGTH**2))
        np.minimum(kernel, 0.0, out=kernel)
        np.exp(kernel, out=kernel)
        quality = self.weights.dot(kernel)
        quality += self.means
        np.maximum(quality, 0.0, out=quality)
        np.minimum(quality, 1.0, out=quality)
        return Outlook(quality, float(kernel[kernel.argmax()]), float(kernel.sum()))

    def outlooks(self, vectors: Float32s, forms: Float32s) -> Outlook:
        """Of n questions: (n, 384), (n, 30)."""
        kernel = np.exp(self._exponents(vectors, forms))
        quality: Float32s = np.clip(self.means + kernel @ self.weights.T, 0.0, 1.0)
        return Outlook(quality, kernel.max(1), kernel.sum(1))

    def _exponents(self, vectors: Float32s, forms: Float32s) -> Float32s:
        standard = standardised(forms, self.form_mean, self.form_scale)
        both = np.concatenate((vectors, standard), axis=1) @ self.points.T
        both += self.offsets
        both -= (standard * standard).sum(1, keepdims=True) / (2 * LENGTH**2)
        exponents: Float32s = np.minimum(both, 0.0)
        return exponents


def fit(outcomes: Sequence[PastOutcome], tiers: int) -> tuple[Fit, Float32s]:
    """An estimator from at least one outcome, and (n,) its leave-one-out estimate of each outcome.

    Inducing questions are spread evenly over the order of the outcomes: the old and the new are both there.
    Raises InvalidConfiguration for no outcomes or a tier that does not exist.
    """
    if not outcomes or not all(0 <= o.tier < tiers for o in outcomes):
        raise InvalidConfiguration(f"{len(outcomes)} past outcomes of {tiers} tiers: there is nothing to fit")
    vectors = np.array([o.vector for o in outcomes], np.float32)
    forms = np.array([o.form for o in outcomes], np.float32)
    qualities = np.full((len(outcomes), tiers), np.nan)
    qualities[np.arange(len(outcomes)), [o.tier for o in outcomes]] = [o.quality for o in outcomes]
    whole, left_out = fit_table(vectors, forms, qualities)
    return whole, left_out[np.arange(len(outcomes)), [o.tier for o in outcomes]]


def fit_table(vectors: Float32s, forms: Float32s, qualities: Float64s) -> tuple[Fit, Float32s]:
    """As `fit`, of a table: (n, 384), (n, 30), (n, tiers) with nan for what was not tried.

    The leave-one-out estimates are (n, tiers): where a tier was not tried, the plain estimate.
    """
    mean, scale = forms.mean(0), np.maximum(forms.std(0), 0.02)
    standard = standardised(forms, mean, scale)
    chosen = np.unique(np.linspace(0, len(vectors) - 1, min(INDUCING, len(vectors))).astype(int))
    points = np.concatenate((vectors[chosen] / TAU, standard[chosen] / LENGTH**2), axis=1)
    offsets = -(standard[chosen] ** 2).sum(1) / (2 * LENGTH**2) - 1 / TAU
    empty = np.zeros((qualities.shape[1], len(chosen)), np.float32)
    bare = Fit(points, offsets, mean, scale, empty, np.zeros(qualities.shape[1], np.float32))
    lower = np.linalg.cholesky(
        np.exp(bare._exponents(vectors[chosen], forms[chosen])).astype(np.float64) + _JITTER * np.eye(len(chosen))
    )
    design = np.linalg.solve(lower, np.exp(bare._exponents(vectors, forms)).astype(np.float64).T).T
    known = ~np.isnan(qualities)
    counts, sums = known.sum(0), np.nansum(qualities, axis=0)
    means = (sums + PRIOR * sums.sum() / counts.sum()) / (counts + PRIOR)
    designs = {rows.tobytes(): _Ridge(design[rows]) for rows in known.T if rows.any()}
    solved = [
        designs[rows.tobytes()].solve(qualities[rows, tier] - means[tier]) if rows.any() else None
        for tier, rows in enumerate(known.T)
    ]
    errors = sum(errors for errors, _, _ in filter(None, solved))
    best = int(np.argmin(errors))  # one ridge for all: tiers are compared with each other
    weights = np.zeros((len(chosen), len(counts)))
    left_out = np.full(qualities.shape, np.nan)
    for tier, rows in enumerate(known.T):
        if (of_tier := solved[tier]) is not None:
            weights[:, tier] = of_tier[1][best]
            left_out[:, tier] = means[tier] + design @ weights[:, tier]
            y = qualities[rows, tier]
            overall = (sums.sum() - y) / max(counts.sum() - 1, 1)
            own = (sums[tier] - y + PRIOR * overall) / (counts[tier] - 1 + PRIOR)  # the mean without that outcome
            _, _, of_one = designs[rows.tobytes()].solve(np.ones(len(y)))
            left_out[rows, tier] = means[tier] + of_tier[2][best] + (own - means[tier]) * (1.0 - of_one[best])
    means[counts == 0] = np.nan
    weights = np.linalg.solve(lower.T, weights).T
    found = Fit(
        points,
        offsets.astype(np.float32),
        mean,
        scale,
        weights.astype(np.float32),
        means.astype(np.float32),
    )
    return found, np.clip(left_out, 0.0, 1.0).astype(np.float32)


def standardised(forms: Float32s, mean: Float32s, scale: Float32s) -> Float32s:
    """In deviations from the mean, within `FARTHEST`."""
    found: Float32s = np.clip((forms - mean) / scale, -FARTHEST, FARTHEST)
    return found


class _Ridge:
    """Ridge regression on one design (n, m), for any number of targets: one decomposition."""

    def __init__(self, design: Float64s) -> None:
        self._values, vectors = np.linalg.eigh(design.T @ design)
        self._values = np.maximum(self._values, 0.0)
        self._vectors = vectors
        self._rotated = design @ vectors
        self._squares = self._rotated**2

    def solve(self, y: Float64s) -> tuple[Float64s, Float64s, Float64s]:
        """By ridge: the sum of squared leave-one-out errors (r,), weights (r, m), those estimates (r, n)."""
        projected = self._rotated.T @ y
        weights, left_out = [], []
        for ridge in RIDGES:
            shrunk = 1.0 / (self._values + ridge)
            leverage = np.minimum(self._squares @ shrunk, 0.999)
            left_out.append(y - (y - self._rotated @ (shrunk * projected)) / (1.0 - leverage))
            weights.append(self._vectors @ (shrunk * projected))
        estimates = np.array(left_out)
        errors: Float64s = ((estimates - y) ** 2).sum(1)
        return errors, np.array(weights), estimates
