"""The story of one answer, as plain data: what it stood on, how it was routed, what became of it since.

Invariant: `as_json` holds all that is told, in values that JSON knows; vectors, which nobody reads, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ruvllm.schemas.flow import Interaction, RatingAccepted
from ruvllm.streams.history.checkpoints import Run
from ruvllm.streams.history.influence import EdgeStory, Maker, Withdrawn
from ruvllm.streams.history.picking import Placed


@dataclass(frozen=True)
class SourceStory:
    """A passage that was served. `past`: its support by past questions. `since`: what has become of it, if it is gone.

    `edges`: those that led to it, and those by which a question like this one was answered from it.
    `made_by`: of what was learnt from use, the interactions that had made it.
    """

    rank: int
    node_id: str
    kind: str
    title: str
    text: str
    document_id: str | None
    score: float
    similarity: float
    past: float | None
    in_prompt: bool
    edges: tuple[EdgeStory, ...]
    made_by: tuple[Maker, ...]
    since: str | None


@dataclass(frozen=True)
class RouteStory:
    """A route: `arms` head -> choice -> probability, `drawn` the heads that were drawn at random."""

    tier: str
    context_tokens: int
    temperature: float
    top_p: float
    probability: float
    arms: dict[str, dict[str, float]]
    explored: bool
    drawn: tuple[str, ...]
    fallback: bool
    confidence: float
    expected: dict[str, float] | None
    available_tiers: tuple[str, ...]
    exploration: float
    checkpoint: str
    lineage: tuple[Run, ...]


@dataclass(frozen=True)
class Verdict:
    """One revision of the outcome. `by`: cheap (words and vectors), log_odds (a large model), task (its user)."""

    place: Placed
    revision: int
    quality: float
    success: float
    by: str
    reasons: tuple[str, ...]
    accepted: str | None
    retraction: str | None


@dataclass(frozen=True)
class Lesson:
    """A change of memory that the interaction made."""

    place: Placed
    kind: str
    subject: str
    relation: str | None
    amount: float | None


@dataclass(frozen=True)
class Reading:
    """A training run since the answer was judged, and whether it had read what was learnt from it."""

    run: Run
    read: bool


@dataclass(frozen=True)
class Story:
    """One answer. `stands_on_retracted`: makers of its edges and sources whose influence was taken back since."""

    place: Placed
    interaction: Interaction
    ranker: str | None
    ranker_lineage: tuple[Run, ...]
    sources: tuple[SourceStory, ...]
    route: RouteStory | None
    verdicts: tuple[Verdict, ...]
    feedback: tuple[RatingAccepted, ...]
    lessons: tuple[Lesson, ...]
    credit: dict[str, float]
    runs: tuple[Reading, ...]
    retraction: Withdrawn | None
    stands_on_retracted: tuple[Maker, ...]

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints: plain values, vectors left out."""
        asked, request = self.interaction, self.interaction.request
        generation = asked.generation
        return {
            "request": {
                "request_id": asked.request_id,
                "session": asked.session,
                "tenant": asked.tenant,
                "interaction_id": asked.interaction_id,
                "time": asked.time,
                "client": request.client,
                "question": request.question,
                "history": len(asked.history),
                "place": self.place,
            },
            "answer": generation.text if generation else None,
            "fault": asked.fault.model_dump() if asked.fault else None,
            "memory_offsets": asked.retrieval.memory_offsets if asked.retrieval else {},
            "ranker": {"checkpoint": self.ranker, "lineage": self.ranker_lineage},
            "sources": self.sources,
            "route": self.route,
            "generation": generation.model_dump(exclude={"text"}) if generation else None,
            "latency_ms": asked.latency_ms,
            "outcomes": self.verdicts,
            "feedback": [rating.model_dump(exclude_none=True) for rating in self.feedback],
            "learnt": {"changes": self.lessons, "credit": self.credit, "runs": self.runs},
            "retraction": self.retraction,
            "stands_on_retracted": self.stands_on_retracted,
        }
