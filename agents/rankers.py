"""Which ranker serves: the fold of a learner's events. And what the next one learns from: its lessons."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import ClassVar

import structlog

from ruvllm.agents.retrieve import Ranker
from ruvllm.errors import RuvllmError
from ruvllm.models.attention.graph_attention import GraphAttention
from ruvllm.models.attention.lesson import Lesson
from ruvllm.models.attention.packing import unpack_graph, unpack_parameters
from ruvllm.models.learning_run import Result
from ruvllm.models.memory.lexicon import words_of
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import Interaction
from ruvllm.schemas.ids import content_id
from ruvllm.schemas.outcome import CandidatesCredited
from ruvllm.schemas.training import CheckpointChosen, CheckpointPublished, Learner, TrainingRecorded

log = structlog.get_logger(__name__)

CHECKPOINTS_KEPT = 4
MOST_LESSONS = 5_000


class Rankers:
    """The last choice of the attention learner. A checkpoint of other features is passed over: nothing serves then."""

    def __init__(self) -> None:
        self._published: dict[str, bytes] = {}
        self._current: Ranker | None = None
        self.last_run: TrainingRecorded | None = None

    def apply(self, event: Event) -> None:
        """Fold one event. Other events, and those of other learners, change nothing."""
        if getattr(event, "learner", None) != "attention":
            return
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


class AttentionCourse:
    """Judged questions, the newest `most`. First all credit is told, then the interactions that it is for.

    What no candidate deserves credit for teaches nothing, nor does what was ranked by other features.
    """

    learner: ClassVar[Learner] = "attention"
    counted: ClassVar[str] = CandidatesCredited.topic
    kinds: ClassVar[tuple[type[Event], ...]] = (CandidatesCredited, Interaction)
    retires: ClassVar[bool] = True
    """What serves was trained as what is held back was: it is out as well."""

    def __init__(self, *, most: int = MOST_LESSONS) -> None:
        self._most = most
        self._credit: dict[str, CandidatesCredited] = {}
        self._newest: list[tuple[float, str, Lesson]] = []  # a heap, the oldest on top
        self._seen: set[str] = set()

    def take(self, event: Event) -> None:
        if isinstance(event, CandidatesCredited):
            self._credited(event)
        elif isinstance(event, Interaction):
            self._asked(event)

    def lessons(self) -> list[Lesson]:
        """In canonical order: by time, then id."""
        return [lesson for _, _, lesson in sorted(self._newest, key=lambda row: row[:2]) if _readable(lesson.graph)]

    def job(self) -> tuple[Callable[..., Result], tuple[object, ...]]:
        """What a child process runs on the lessons, seed and parent; and what it is handed beside them.

        Raises ModuleNotFoundError without torch.
        """
        from ruvllm.models.attention.run import run  # noqa: PLC0415  # torch

        return run, ()

    def configuration(self) -> dict[str, float]:
        from ruvllm.models.attention.run import configuration  # noqa: PLC0415  # torch

        return configuration()

    def _credited(self, event: CandidatesCredited) -> None:
        """Of several revisions the last counts."""
        known = self._credit.get(event.interaction_id)
        if known is None or event.revision > known.revision:
            self._credit[event.interaction_id] = event

    def _asked(self, interaction: Interaction) -> None:
        told = self._credit.get(interaction.interaction_id)
        candidates = interaction.retrieval.candidates if interaction.retrieval else None
        if told is None or candidates is None or interaction.interaction_id in self._seen:
            return
        deserved = tuple(told.credit.get(node_id, 0.0) for node_id in candidates.node_ids)
        if not any(deserved):
            return
        self._seen.add(interaction.interaction_id)
        question = content_id("q", interaction.tenant, words_of(interaction.request.question))
        lesson = Lesson(candidates.graph, deserved, question)
        heapq.heappush(self._newest, (interaction.time.timestamp(), interaction.interaction_id, lesson))
        if len(self._newest) > self._most:
            heapq.heappop(self._newest)


def _readable(packed: bytes) -> bool:
    try:
        unpack_graph(packed)
    except RuvllmError:
        return False
    return True
