"""The life of one request, stage by stage.

Each stage adds one value (retrieval, route, generation) and hands on what it got, so that the last
event holds the whole story and no stage asks another for anything. `DESIGN` order: Turn, Admitted,
Retrieved, Routed, Generated, then the desk writes Response and Interaction.
"""

from __future__ import annotations

from typing import ClassVar, Literal, TypeVar

from pydantic import Field

from ruvllm.schemas.event import Identifier, Instant, RequestEvent, Value
from ruvllm.schemas.ids import content_id
from ruvllm.schemas.request import Constraints, Fault, FinishReason, Message, Response, Usage
from ruvllm.schemas.vector import Blob, Vector


class Origin(Value):
    """The record a request came in: two submissions of one id differ by it, a redelivery does not."""

    topic: str
    partition: int
    offset: int


class Request(Value):
    """A valid request, as every stage sees it. The last message is the question, of role user."""

    messages: tuple[Message, ...]
    constraints: Constraints = Constraints()
    tags: dict[str, str] = Field(default_factory=dict)
    client: str | None = None
    reply_to: str | None = None
    retry_of: str | None = None
    submitted_at: Instant
    origin: Origin

    @property
    def question(self) -> str:
        return self.messages[-1].content


class Turn(RequestEvent):
    """A request that passed validation, keyed to its session."""

    kind: ClassVar[str] = "turn.accepted"
    request: Request
    deadline: Instant


class RatingAccepted(RequestEvent):
    """Feedback that passed validation, keyed to its request's session."""

    kind: ClassVar[str] = "rating.accepted"
    feedback_id: Identifier
    rating: int | None = None
    score: float | None = None
    passed: bool | None = None
    expected: str | None = None
    correction: str | None = None
    comment: str | None = None


class RouterState(Value):
    """What the router knows of a session: its hidden state, the checkpoint that it means something
    to, what its last turns looked like (for another checkpoint to go on from), and how the last ended.
    """

    checkpoint: str
    hidden: Vector
    features: tuple[Vector, ...] = Field(default=(), description="of the last turns, the newest last")
    features_version: int = 0
    tier: str
    confidence: float
    finish_reason: FinishReason


class InFlight(RequestEvent):
    """What all events between admission and answer carry."""

    interaction_id: str
    request: Request
    history: tuple[Message, ...] = ()
    deadline: Instant
    router_state: RouterState | None = None
    latency_ms: dict[str, float] = Field(default_factory=dict)

    def followed_by(self, event: type[F], **added: object) -> F:
        """The next event of this request: all that this one carries, and what a stage has added."""
        return event.model_validate({**dict(self), **added})


F = TypeVar("F", bound=InFlight)


class Admitted(InFlight):
    """The desk let the request in: the one in flight of its session."""

    kind: ClassVar[str] = "request.admitted"


class Passage(Value):
    """A node of memory as it was retrieved. `via`: the edges that led to it, none for a direct hit.

    `said_by_user`: it is an answer that a person gave, not one that a model did.
    """

    node_id: str
    node_kind: str
    title: str
    text: str
    document_id: str | None = None
    score: float
    similarity: float
    via: tuple[str, ...] = ()
    age_s: float = 0.0
    said_by_user: bool = False


class Candidates(Value):
    """What the passages were chosen from, as the ranker saw it: what it learns from later."""

    node_ids: tuple[str, ...]
    graph: Blob = Field(description="their features and those of their pairs (models/attention/packing.py)")
    likeness: float = Field(description="cosine of the nearest past question")
    ranker: str | None = Field(default=None, description="the checkpoint that ranked them; none: nothing was learnt")


class Retrieval(Value):
    """What memory had on the question, best first, and which memory that was."""

    query_vector: Vector
    embedder: str
    passages: tuple[Passage, ...] = ()
    candidates: Candidates | None = None
    memory_offsets: dict[str, int] = Field(default_factory=dict)


class Retrieved(InFlight):
    """Memory was asked."""

    kind: ClassVar[str] = "context.retrieved"
    retrieval: Retrieval


class Expected(Value):
    """What the router expected of the route that it took. `cost`: over the dearest route's."""

    quality: float = Field(ge=0, le=1)
    latency_s: float = Field(ge=0)
    cost: float


class Route(Value):
    """A routing decision with all that is needed to learn from it honestly (DESIGN invariant 6)."""

    tier: str
    context_tokens: int
    temperature: float
    top_p: float
    probability: float = Field(gt=0, le=1, description="of the joint action really taken")
    arms: dict[str, dict[str, float]] = Field(description="head -> choice -> probability it was drawn with")
    available_tiers: tuple[str, ...]
    features: Vector
    features_version: int
    hidden: Vector
    checkpoint: str
    confidence: float = Field(ge=0, le=1)
    fallback: bool
    expected: Expected | None = None
    policy: str
    exploration: float = Field(ge=0, le=1)
    seed: int


class Routed(InFlight):
    """A tier and its settings were chosen. Its topic carries the tier as its entity's suffix."""

    kind: ClassVar[str] = "request.routed"
    retrieval: Retrieval
    route: Route


class Generation(Value):
    """What a model made of it. `confidence`: geometric mean of the sampled tokens' probabilities."""

    text: str
    confidence: float = Field(ge=0, le=1)
    usage: Usage = Usage()
    finish_reason: FinishReason
    model: str | None = None
    model_sha256: str | None = None
    prompt_version: str
    context_nodes: tuple[str, ...] = ()
    seed: int
    attempts: int = 1


class Generated(InFlight):
    """An answer exists; the desk has not sent it yet."""

    kind: ClassVar[str] = "answer.generated"
    retrieval: Retrieval
    route: Route
    generation: Generation


class Failed(RequestEvent):
    """A stage gave up on a request; the desk turns it into the terminal error."""

    kind: ClassVar[str] = "request.failed"
    fault: Fault
    interaction_id: str | None = None
    origin: Origin | None = None
    reply_to: str | None = None
    submitted_at: Instant | None = None


class Interaction(RequestEvent):
    """The log's record of one request, whole: what was asked, recalled, decided and answered."""

    kind: ClassVar[str] = "interaction.recorded"
    interaction_id: str
    request: Request
    history: tuple[Message, ...] = ()
    router_state: RouterState | None = None
    retrieval: Retrieval | None = None
    route: Route | None = None
    generation: Generation | None = None
    fault: Fault | None = None
    latency_ms: dict[str, float] = Field(default_factory=dict)


class SessionState(RequestEvent):
    """The desk's memory of a session; the last record of its key is in force."""

    kind: ClassVar[str] = "session.state"
    record: Literal["session"] = "session"
    history: tuple[Message, ...] = ()
    in_flight: Admitted | None = None
    waiting: tuple[Turn, ...] = ()
    repeats: dict[str, tuple[Origin, ...]] = Field(
        default_factory=dict, description="request id not yet answered -> further submissions of it"
    )
    router_state: RouterState | None = None
    answered: int = 0


class AnsweredState(RequestEvent):
    """That a request id is answered, how, and for which submissions of it."""

    kind: ClassVar[str] = "session.answered"
    topic: ClassVar[str] = "session.state"
    record: Literal["answered"] = "answered"
    origins: tuple[Origin, ...] = ()
    response: Response

    @property
    def record_key(self) -> str:
        return self.request_key


def interaction_id(tenant: str, session: str, request_id: str) -> str:
    """The one interaction of a request: redelivered or tried again, it keeps its name."""
    return content_id("ix", tenant, session, request_id)
