"""What was learnt in runs, as a stretch of the log tells it: each run, all that was published, what serves in the end.

Invariant: what is in force is what a serving process of these settings would serve: the same folds say so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import orjson

from ruvllm.agents.rankers import Rankers
from ruvllm.agents.routers import Routers
from ruvllm.errors import RuvllmError
from ruvllm.models.router.policy import Router
from ruvllm.schemas.training import CheckpointChosen, CheckpointPublished, Learner, TrainingRecorded
from ruvllm.streams.guard import read
from ruvllm.streams.records import Record
from ruvllm.streams.topology import topic

TRAINING = "training.recorded"


class Learnt:
    """The fold of `training.recorded`, with nothing forgotten."""

    def __init__(self, untrained: Router) -> None:
        self.runs: list[TrainingRecorded] = []
        self.published: dict[str, CheckpointPublished] = {}
        self._chosen: list[CheckpointChosen] = []
        self._rankers, self._routers = Rankers(), Routers(untrained)

    def fold(self, records: Iterable[Record]) -> list[str]:
        """Fold records in their order; for each that was left out its place and why."""
        left_out = []
        for record in records:
            try:
                event = read(record, topic(TRAINING).events)
            except RuvllmError as error:
                left_out.append(f"partition {record.partition}, offset {record.offset}: {error}")
                continue
            if isinstance(event, TrainingRecorded):
                self.runs.append(event)
            elif isinstance(event, CheckpointPublished):
                self.published[event.checkpoint] = event
            elif isinstance(event, CheckpointChosen):
                self._chosen.append(event)
            self._rankers.apply(event)
            self._routers.apply(event)
        return left_out

    def in_force(self, learner: Learner) -> str | None:
        """The checkpoint that serves; of the ranker None if nothing learnt does."""
        if learner == "router":
            return self._routers.current().checkpoint.id
        ranker = self._rankers.current()
        return ranker.checkpoint if ranker else None

    def parent(self, learner: Learner) -> tuple[str, bytes] | None:
        """What a run of this learner would go on from now: the ranker starts from scratch."""
        name = self.in_force(learner)
        if learner == "attention" or name not in self.published:
            return None
        return name, self.published[name].parameters

    def digest(self, learner: Learner) -> str:
        """SHA-256 over what is in force, every choice and the names of all that was published, in hexadecimal."""
        said = {
            "in_force": self.in_force(learner),
            "chosen": [[c.checkpoint, c.reason] for c in self._chosen if c.learner == learner],
            "published": [name for name, event in self.published.items() if event.learner == learner],
        }
        return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()
