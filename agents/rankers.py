"""Which ranker serves: the fold of a learner's events."""

from __future__ import annotations

import structlog

from ruvllm.agents.retrieve import Ranker
from ruvllm.errors import RuvllmError
from ruvllm.models.attention.graph_attention import GraphAttention
from ruvllm.models.attention.packing import unpack_parameters
from ruvllm.schemas.event import Event
from ruvllm.schemas.training import CheckpointChosen, CheckpointPublished, TrainingRecorded

log = structlog.get_logger(__name__)

CHECKPOINTS_KEPT = 4


class Rankers:
    """The last choice of the attention learner. A checkpoint of other features is passed over: nothing serves then."""

    def __init__(self) -> None:
        self._published: dict[str, bytes] = {}
        self._current: Ranker | None = None
        self.chosen: list[CheckpointChosen] = []
        self.runs: list[TrainingRecorded] = []

    def apply(self, event: Event) -> None:
        """Fold one event. Other events, and those of other learners, change nothing."""
        if getattr(event, "learner", None) != "attention":
            return
        if isinstance(event, TrainingRecorded):
            self.runs.append(event)
        elif isinstance(event, CheckpointPublished):
            self._published[event.checkpoint] = event.parameters
            while len(self._published) > CHECKPOINTS_KEPT:
                del self._published[next(iter(self._published))]
        elif isinstance(event, CheckpointChosen):
            self.chosen.append(event)
            self._current = self._load(event.checkpoint)

    def current(self) -> Ranker | None:
        return self._current

    @property
    def last_run(self) -> TrainingRecorded | None:
        return self.runs[-1] if self.runs else None

    @property
    def serving(self) -> str | None:
        """The checkpoint that ranks; None if nothing learnt does."""
        return self._current.checkpoint if self._current else None

    def packed(self, checkpoint: str | None) -> bytes | None:
        """A published checkpoint's bytes; None for one that is no longer kept."""
        return self._published.get(checkpoint or "")

    def _load(self, checkpoint: str | None) -> Ranker | None:
        raw = self._published.get(checkpoint or "")
        if checkpoint is None or raw is None:
            return None
        try:
            return Ranker(checkpoint, GraphAttention(*unpack_parameters(raw)))
        except RuvllmError as error:
            log.warning("ranker_passed_over", checkpoint=checkpoint, reason=error.message)
            return None
