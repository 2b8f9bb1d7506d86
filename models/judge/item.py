"""What is judged, and what comes out. A judgement always says by whom, and why in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

By = Literal["cheap", "log_odds", "task"]


@dataclass(frozen=True, slots=True)
class Served:
    """A passage that stood in the prompt."""

    node_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """One answer. `confidence`: the generator's own, 0 to 1 (pool/job.py)."""

    question: str
    answer: str
    served: tuple[Served, ...]
    abstained: bool
    confidence: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """`quality` 0..1 is what learning uses; `success` 0..1 the calibrated probability that the answer is right.

    `support`: node id -> 0..1, how far a served passage carries the answer.
    """

    quality: float
    success: float
    reasons: tuple[str, ...]
    support: dict[str, float]
    by: By
