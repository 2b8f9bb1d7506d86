"""Logistic regression with a sign for each weight: small data, sane judges.

Minimises mean log loss + ridge / 2 * |w|^2 by projected gradient steps (Goldstein 1964; Bertsekas 1976):
after each step a weight of the wrong sign is 0. No draw and no clock: the same data give the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
STEPS: Final = 4000


@dataclass(frozen=True, slots=True)
class Logistic:
    """ln odds = (x - centre) / scale . weights + bias; all (d,) float64."""

    centre: Float64s
    scale: Float64s
    weights: Float64s
    bias: float

    def logits(self, x: Float64s) -> Float64s:
        """(n, d) -> (n,)."""
        return np.asarray(((x - self.centre) / self.scale) @ self.weights + self.bias)

    def state(self) -> dict[str, Any]:
        """Plain numbers, ten digits."""
        rounded = {name: [round(float(v), 10) for v in getattr(self, name)] for name in ("centre", "scale", "weights")}
        return {**rounded, "bias": round(float(self.bias), 10)}

    @classmethod
    def load(cls, state: dict[str, Any]) -> Logistic:
        """The inverse of `state`. Raises KeyError or ValueError for anything else."""
        centre, scale, weights = (np.array(state[name], np.float64) for name in ("centre", "scale", "weights"))
        if not centre.shape == scale.shape == weights.shape or not np.isfinite(weights).all():
            raise ValueError(f"{len(centre)} centres, {len(scale)} scales, {len(weights)} finite weights")
        return cls(centre, scale, weights, float(state["bias"]))


def fit(x: Float64s, y: Float64s, signs: Float64s, *, ridge: float) -> Logistic:
    """Fit (n, d) to (n,) of 0 and 1; `signs` (d,): +1, -1, or 0 for either. The bias is not penalised."""
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale < 1e-9] = 1.0
    z = (x - centre) / scale
    weights: Float64s = np.zeros(x.shape[1])
    bias = float(np.log((y.mean() + 1e-9) / (1 - y.mean() + 1e-9)))
    # The log loss of standardised columns curves at most by |z|^2 / 4.
    step = 1.0 / (0.25 * float(np.linalg.norm(np.c_[z, np.ones(len(y))], 2)) ** 2 / len(y) + ridge)
    for _ in range(STEPS):
        error = sigmoid(z @ weights + bias) - y
        weights = weights - step * (z.T @ error / len(y) + ridge * weights)
        weights[(weights * signs) < 0] = 0.0
        bias -= step * float(error.mean())
    return Logistic(centre, scale, weights, bias)


def sigmoid(logits: Float64s) -> Float64s:
    """1 / (1 + e^-x), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


def logit(probability: float) -> float:
    """ln(p / (1 - p)) with p kept within 1e-6 of the ends."""
    p = min(max(probability, 1e-6), 1 - 1e-6)
    return float(np.log(p / (1 - p)))
