"""Training as the log has it: which checkpoint came from which, what each run had read, what served at a moment.

Invariant: what is in force at a moment is the fold of the events that had been written by then, as a serving
process folds them; a checkpoint asked for by name is put in force by the same fold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from ruvllm.agents.rankers import Rankers
from ruvllm.agents.retrieve import Ranker
from ruvllm.agents.routers import Routers
from ruvllm.errors import InvalidRequest
from ruvllm.models.router.policy import Router
from ruvllm.schemas.training import CheckpointChosen, CheckpointPublished, Learner, TrainingEvent, TrainingRecorded
from ruvllm.streams.history.picking import Placed, anything, picked
from ruvllm.streams.history.source import Source

UNTRAINED = "untrained"
"""What names the router or ranker that has learnt nothing."""


@dataclass(frozen=True)
class Run:
    """A training run, as far as people ask of it. `offsets`: topic -> partition -> end of what it had read."""

    run_id: str
    learner: str
    at: datetime
    checkpoint: str | None
    parent: str | None
    passed: bool
    gain: float
    error: float | None
    questions: int
    examples: int
    seed: int
    offsets: dict[str, dict[str, int]]

    @classmethod
    def of(cls, event: TrainingRecorded) -> Run:
        verdict = event.verdict
        return cls(
            event.run_id,
            event.learner,
            event.time,
            event.checkpoint,
            event.parent,
            verdict.passed,
            verdict.gain,
            verdict.error,
            verdict.questions,
            event.examples,
            event.seed,
            event.offsets,
        )

    def has_read(self, place: Placed) -> bool:
        return place.offset < self.offsets.get(place.topic, {}).get(str(place.partition), 0)


class Learnt:
    """Every event of training, in order."""

    def __init__(self, events: list[TrainingEvent]) -> None:
        self._events = events

    @classmethod
    async def of(cls, source: Source) -> Learnt:
        found = [event async for _, event in picked(source, "training.recorded", anything)]
        return cls([event for event in found if isinstance(event, TrainingEvent)])

    def runs(self) -> list[Run]:
        return [Run.of(event) for event in self._events if isinstance(event, TrainingRecorded)]

    def lineage(self, checkpoint: str | None) -> tuple[Run, ...]:
        """The run that made a checkpoint, the one that made its parent, and so on; none for an untrained one."""
        by_checkpoint = {run.checkpoint: run for run in self.runs() if run.checkpoint}
        found: list[Run] = []
        while checkpoint in by_checkpoint and by_checkpoint[checkpoint] not in found:
            found.append(by_checkpoint[checkpoint])
            checkpoint = found[-1].parent
        return tuple(found)

    def learner_of(self, checkpoint: str) -> Learner:
        """Raises InvalidRequest for one that was never published."""
        for event in self._published():
            if event.checkpoint == checkpoint:
                return event.learner
        raise InvalidRequest(
            f"no checkpoint {checkpoint} was published",
            hint=f"`ruvllm router history` lists the router's; `{UNTRAINED}` names the one that has learnt nothing.",
        )

    def in_force(self, moment: datetime, untrained: Router) -> tuple[Ranker | None, Router]:
        """The ranker and the router that served at a moment."""
        rankers, routers = Rankers(), Routers(untrained)
        for event in self._events:
            if event.time <= moment:
                rankers.apply(event)
                routers.apply(event)
        return rankers.current(), routers.current()

    def ranker(self, checkpoint: str | None) -> Ranker | None:
        """A ranker by name; None and `untrained`: nothing was learnt. Raises InvalidRequest for an unknown one."""
        rankers = Rankers()
        for event in self._one("attention", checkpoint):
            rankers.apply(event)
        found = rankers.current()
        if found is None and checkpoint not in (None, UNTRAINED):
            raise _cannot_serve(checkpoint)
        return found

    def router(self, checkpoint: str, untrained: Router) -> Router:
        """A router by name, under the policy of `untrained`. Raises InvalidRequest for an unknown one."""
        routers = Routers(untrained)
        if checkpoint != untrained.checkpoint.id:
            for event in self._one("router", checkpoint):
                routers.apply(event)
        found = routers.current()
        if checkpoint not in (UNTRAINED, found.checkpoint.id):
            raise _cannot_serve(checkpoint)
        return found

    def _one(self, learner: Learner, checkpoint: str | None) -> Iterator[TrainingEvent]:
        if checkpoint in (None, UNTRAINED):
            return
        if self.learner_of(checkpoint) != learner:
            raise InvalidRequest(f"{checkpoint} is no {learner} checkpoint", hint="`ruvllm router history` lists them.")
        published = next(event for event in self._published() if event.checkpoint == checkpoint)
        yield published
        yield CheckpointChosen(time=published.time, learner=learner, checkpoint=checkpoint, reason="asked for by name")

    def _published(self) -> Iterator[CheckpointPublished]:
        return (event for event in self._events if isinstance(event, CheckpointPublished))


def _cannot_serve(checkpoint: str | None) -> InvalidRequest:
    return InvalidRequest(
        f"checkpoint {checkpoint} was made for other tiers or features than these settings have",
        hint="Look with the profile and the version of the program that it served in.",
    )
