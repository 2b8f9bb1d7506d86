"""What became of an answer: how good it was, which passages carried it, and what memory learnt from that.

Invariant: an outcome is complete in itself: whoever learns from it needs no other event. A later verdict on
the same answer is another revision of the same outcome, and its effect is the difference.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ruvllm.schemas.event import RequestEvent, Value
from ruvllm.schemas.flow import Interaction, RatingAccepted
from ruvllm.schemas.memory import Relation
from ruvllm.schemas.vector import Vector


class Served(Value):
    """A passage that the answer could be built from. `support`: how sure it carries the answer, 0 to 1."""

    node_id: str
    node_kind: str
    similarity: float
    support: float = Field(ge=0, le=1)
    via: tuple[str, ...] = Field(default=(), description="the edges that led to it")


class Contribution(Value):
    """What an outcome has added to one edge."""

    source: str
    target: str
    relation: Relation
    amount: float


class Retraction(Value):
    """That an interaction is to have taught nothing; and what it has, for a stage that remembers it no more."""

    reason: str
    contributions: dict[str, Contribution] = Field(default_factory=dict, description="by edge id")
    nodes: tuple[str, ...] = Field(default=(), description="of question and answer, those that it made")


class Retract(RequestEvent):
    """Command: take back what was learnt from this interaction, and learn nothing more from it."""

    kind: ClassVar[str] = "retraction.submitted"
    interaction_id: str
    retraction: Retraction
    outcome: Judged | None = Field(default=None, description="the last word on it; none: it was never judged")


class Judged(RequestEvent):
    """An answer was judged; `time` is when it was asked for. The greatest revision is in force.

    One that carries a retraction is the last: whoever learnt from those before it takes that back.
    """

    kind: ClassVar[str] = "outcome.judged"
    interaction_id: str
    revision: int = Field(ge=0)
    quality: float = Field(ge=0, le=1)
    success: float = Field(ge=0, le=1, description="calibrated probability that the answer is right")
    by: Literal["cheap", "log_odds", "task"]
    reasons: tuple[str, ...] = ()
    client: str = ""
    question: str
    follows_on: bool = Field(default=False, description="asked within a conversation: it may mean nothing alone")
    query_vector: Vector
    embedder: str
    answer: str
    accepted: str | None = Field(default=None, description="what is known to be right: expected, or a correction")
    served: tuple[Served, ...] = ()
    candidates: tuple[str, ...] = Field(default=(), description="node ids that the served ones were chosen from")
    tier: str | None = None
    judge_ms: float = Field(default=0.0, ge=0)
    retraction: Retraction | None = None


class JudgementDoubted(RequestEvent):
    """The cheap judge wavers: a large model is to say whether the text says so."""

    kind: ClassVar[str] = "judgement.doubted"
    interaction_id: str
    question: str
    answer: str
    passages: tuple[str, ...] = ()
    support: tuple[float, ...] = Field(default=(), description="of each passage, 0 to 1")


class JudgementSettled(RequestEvent):
    """What the large model said."""

    kind: ClassVar[str] = "judgement.settled"
    interaction_id: str
    log_odds: float = Field(description="ln P(yes) - ln P(no) at the next token")
    model: str
    judge_ms: float = Field(ge=0)


class JudgementState(RequestEvent):
    """What the judge knows of a request: its interaction, the feedback on it, what was said last."""

    kind: ClassVar[str] = "judgement.state"
    interaction: Interaction | None = None
    ratings: tuple[RatingAccepted, ...] = ()
    outcome: Judged | None = None
    retracted: bool = False

    @property
    def record_key(self) -> str:
        return self.request_key


class CandidatesCredited(RequestEvent):
    """Which candidates deserve the credit for an answer: what the ranker learns from. `time` is when it was asked."""

    kind: ClassVar[str] = "candidates.credited"
    interaction_id: str
    revision: int
    credit: dict[str, float] = Field(default_factory=dict, description="node id -> above 0; the others have none")
    retracted: bool = Field(default=False, description="the answer was taken back, and with it all credit")


class ReinforcementState(RequestEvent):
    """What memory has learnt from an interaction so far, so that a revision can change it by the difference."""

    kind: ClassVar[str] = "reinforcement.state"
    interaction_id: str
    revision: int
    contributions: dict[str, Contribution] = Field(default_factory=dict, description="by edge id")
    nodes: tuple[str, ...] = Field(default=(), description="of question and answer, those that this outcome made")
    retracted: bool = False

    @property
    def record_key(self) -> str:
        return self.request_key
