"""What is learnt in runs: who learnt, from which part of the log, with what result, and what serves since.

Invariant: a run is a function of the log up to its offsets, its seed and its configuration: repeated, it
gives the same checkpoint. All events of one learner are in order; the last choice is in force.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ruvllm.schemas.event import Event, Value
from ruvllm.schemas.vector import Blob

Learner = Literal["attention", "router"]


class Verdict(Value):
    """What the gate measured on held-out questions: mean gain over not having learnt, and its error."""

    passed: bool
    gain: float
    error: float | None = Field(default=None, description="none: too few questions to say")
    questions: int


class TrainingEvent(Event):
    """The base of a learner's events."""

    topic: ClassVar[str] = "training.recorded"
    learner: Learner

    @property
    def partition_key(self) -> str:
        return self.learner


class TrainingRecorded(TrainingEvent):
    """A run ended."""

    kind: ClassVar[str] = "training.recorded"
    run_id: str
    offsets: dict[str, dict[str, int]] = Field(description="topic -> partition -> end offset of what was read")
    seed: int
    parent: str | None = Field(default=None, description="the checkpoint that it went on from; none: from scratch")
    configuration: dict[str, float] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    examples: int
    verdict: Verdict
    measures: dict[str, float] = Field(default_factory=dict, description="what else was measured on held-out answers")
    checkpoint: str | None = None
    seconds: float = Field(ge=0)


class CheckpointPublished(TrainingEvent):
    """What a run has learnt. Its id follows from its content."""

    kind: ClassVar[str] = "checkpoint.published"
    checkpoint: str
    run_id: str
    parameters: Blob


class CheckpointChosen(TrainingEvent):
    """This checkpoint serves from here on; none: what serves has learnt nothing."""

    kind: ClassVar[str] = "checkpoint.chosen"
    checkpoint: str | None = None
    reason: str
