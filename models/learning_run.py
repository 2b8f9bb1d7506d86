"""What a training run hands back, as plain values: it crosses from a child process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Result:
    """`parameters`: packed, None if the gate held them back; `checkpoint` their name if they have one of their own.

    `examples` were learnt from. `gain` and `error` are measured on `questions` held-out ones, in the learner's own
    unit; `measures` is what else was.
    """

    parameters: bytes | None
    passed: bool
    gain: float
    error: float
    questions: int
    examples: int
    checkpoint: str | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
