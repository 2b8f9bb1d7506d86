"""What a route is worth: quality less what it costs and how long it lets people wait.

    score = quality - lambda * cost - mu * max(0, latency / SLA - 1)
    subject to quality >= theta and latency <= SLA

Cost is over the dearest route's, 0 to 1. Where no route keeps both bounds, the one that misses them least is
taken. The weights are read at each decision: changing them needs no training, and sweeping lambda draws the
whole cost-quality curve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Objective:
    """`cost_weight` lambda: quality given up to save the dearest route's cost. `latency_weight` mu: quality that
    each further SLA of waiting is worth. `minimum_quality` theta. `sla_s`: seconds; none: no bound.
    """

    cost_weight: float = 0.0
    latency_weight: float = 0.0
    minimum_quality: float = 0.0
    sla_s: float | None = None

    def score(self, quality: float, cost: float, latency_s: float) -> tuple[float, float]:
        """To be compared: first how far the bounds are kept (0: both), then the value. Greater is better."""
        late = max(0.0, latency_s / self.sla_s - 1.0) if self.sla_s else 0.0
        value = quality - self.cost_weight * cost - self.latency_weight * late
        return -(max(0.0, self.minimum_quality - quality) + late), value

    def best(self, quality: Floats, cost: Floats) -> NDArray[np.intp]:
        """(n, arms) qualities and (arms,) or (n, arms) costs -> the best arm of each row; latency left out."""
        missed = np.maximum(0.0, self.minimum_quality - quality)
        value = quality - self.cost_weight * cost
        least = missed <= missed.min(axis=1, keepdims=True) + 1e-12
        found: NDArray[np.intp] = np.where(least, value, -np.inf).argmax(axis=1)
        return found
