"""How a profile's routes are decided, whatever the checkpoint: what serving and training runs share."""

from __future__ import annotations

from dataclasses import dataclass

from ruvllm.models.router.arms import Action, Arms
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.models.router.objective import Objective
from ruvllm.models.router.policy import Router


@dataclass(frozen=True)
class Rules:
    """`prices`: of a token by tier. `seed_of_start`: of the untrained checkpoint."""

    arms: Arms
    default: Action
    prices: tuple[float, ...]
    objective: Objective
    confidence_threshold: float
    seed_of_start: int = 0

    def router(self, checkpoint: Checkpoint, *, exploration: float = 0.0) -> Router:
        return Router(
            checkpoint,
            self.arms,
            self.default,
            confidence_threshold=self.confidence_threshold,
            exploration=exploration,
            objective=self.objective,
        )
