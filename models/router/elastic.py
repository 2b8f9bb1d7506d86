"""Elastic weight consolidation: what was learnt before is held where it matters.

    penalty = strength / 2 * sum_i F_i (theta_i - theta*_i)^2        (Kirkpatrick et al. 2017, equation 3)

F is the diagonal of the Fisher information at theta*: the mean square of the gradient of the log-likelihood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Elastic:
    """Where the weights were, and how much each of them mattered there."""

    anchor: Mapping[str, Tensor]
    fisher: Mapping[str, Tensor]
    strength: float

    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """A scalar, 0 at the anchor; it has a gradient."""
        total = torch.zeros(())
        for name, held in self.anchor.items():
            total = total + (self.fisher[name] * (parameters[name] - held) ** 2).sum()
        return 0.5 * self.strength * total
