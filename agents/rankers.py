"""Which ranker serves: the fold of a learner's events. And what the next one learns from: its lessons."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from ruvllm.agents.retrieve import Ranker
from ruvllm.errors import RuvllmError
from ruvllm.models.attention.graph_attention import GraphAttention
from ruvllm.models.attention.lesson import Lesson
from ruvllm.models.attention.packing import unpack_graph, unpack_parameters
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import Interaction
from ruvllm.schemas.outcome import CandidatesCredited
from ruvllm.schemas.training import CheckpointChosen, CheckpointPublished, TrainingRecorded

log = structlog.get_logger(__name__)

CHECKPOINTS_KEPT = 4


class Rankers:
    """The last choice of the attention learner. A checkpoint of other features is passed over: nothing serves then."""

    def __init__(self) -> None:
        self._published: dict[str, bytes] = {}
        self._current: Ranker | None = None
        self.last_run: TrainingRecorded | None = None

    def apply(self, event: Event) -> None:
        """Fold one event. Other events change nothing."""
        if isinstance(event, TrainingRecorded):
            self.last_run = event
        elif isinstance(event, CheckpointPublished):
            self._published[event.checkpoint] = event.parameters
            while len(self._published) > CHECKPOINTS_KEPT:
                del self._published[next(iter(self._published))]
        elif isinstance(event, CheckpointChosen):
            self._current = self._load(event.checkpoint)

    def current(self) -> Ranker | None:
        return self._current

    def _load(self, checkpoint: str | None) -> Ranker | None:
        raw = self._published.get(checkpoint or "")
        if checkpoint is None or raw is None:
            return None
        try:
            return Ranker(checkpoint, GraphAttention(*unpack_parameters(raw)))
        except RuvllmError as error:
            log.warning("ranker_passed_over", checkpoint=checkpoint, reason=error.message)
            return None


def lessons(interactions: Iterable[Interaction], credited: Iterable[CandidatesCredited], *, most: int) -> list[Lesson]:
    """Judged questions in canonical order (by time, then id), the newest `most`; of several revisions the last.

    What no candidate deserves credit for teaches nothing, nor does what was ranked by other features.
    """
    credit: dict[str, CandidatesCredited] = {}
    for event in credited:
        known = credit.get(event.interaction_id)
        if known is None or event.revision > known.revision:
            credit[event.interaction_id] = event
    found: dict[str, tuple[object, str, Lesson]] = {}
    for interaction in interactions:
        told = credit.get(interaction.interaction_id)
        candidates = interaction.retrieval.candidates if interaction.retrieval else None
        if told is None or candidates is None or not told.credit:
            continue
        try:
            unpack_graph(candidates.graph)
        except RuvllmError:
            continue
        deserved = tuple(told.credit.get(node_id, 0.0) for node_id in candidates.node_ids)
        if any(deserved):
            lesson = Lesson(candidates.graph, deserved)
            found[interaction.interaction_id] = (interaction.time, interaction.interaction_id, lesson)
    ordered = sorted(found.values(), key=lambda row: row[:2])
    return [lesson for _, _, lesson in ordered[-most:]]
