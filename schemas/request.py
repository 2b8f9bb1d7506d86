"""What users send and what they get back: the commands and the terminal response.

A request id names one request within its tenant and session. Identity is that triple: the same id
in another session is another request, with a response of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from ruvllm.errors import InvalidRequest, RuvllmError, error_codes
from ruvllm.schemas.event import Event, Identifier, Instant, RequestEvent, Value
from ruvllm.schemas.ids import new_id

Role = Literal["system", "user", "assistant"]
Grounding = Literal["memory", "open", "none"]
FinishReason = Literal["stop", "length", "deadline", "abstained", "error"]


class Message(Value):
    """One turn of a conversation."""

    role: Role
    content: str


class Constraints(Value):
    """What the asker allows. An absent value leaves the choice to the router."""

    max_tokens: int | None = Field(default=None, ge=1, le=4096)
    deadline: Instant | None = Field(default=None, description="answer by then, or give up with an error")
    allowed_tiers: tuple[str, ...] | None = Field(default=None, min_length=1)
    minimum_quality: float | None = Field(default=None, ge=0, le=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**32)
    stop: tuple[str, ...] = Field(default=(), max_length=8)
    memory_filter: dict[str, str] = Field(
        default_factory=dict, description="only nodes whose metadata has these values"
    )
    grounding: Grounding = Field(
        default="memory",
        description="memory: answer from memory or say that it does not know; "
        "open: memory helps, the model may go on without; none: memory is not asked",
    )


def constraints_of(given: Mapping[str, Any]) -> Constraints:
    """What a program gives as keywords. Raises InvalidRequest, for a name that does not exist too.

    On the wire an unknown field is a newer writer's and is ignored; in a call it is a slip.
    """
    unknown = sorted(given.keys() - Constraints.model_fields.keys())
    if unknown:
        raise InvalidRequest(
            f"there is no constraint {unknown[0]!r}", hint=f"There are: {', '.join(Constraints.model_fields)}."
        )
    try:
        return Constraints.model_validate(dict(given))
    except ValidationError as error:
        problem = error.errors()[0]
        raise InvalidRequest(f"constraint `{problem['loc'][0]}` = {problem['input']!r}: {problem['msg']}") from error


class Ask(Event):
    """Command: answer this. Give `prompt`, or `messages` that end with one of role user."""

    kind: ClassVar[str] = "request.submitted"

    time: Instant | None = None  # type: ignore[assignment]  # users may leave it out; intake sets it
    request_id: Identifier = Field(default_factory=new_id)
    session: Identifier | None = Field(default=None, description="defaults to the request id")
    client: Identifier | None = Field(default=None, description="who asks, for whom the door vouches")
    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    constraints: Constraints = Constraints()
    tags: dict[str, str] = Field(default_factory=dict)
    reply_to: str | None = Field(default=None, description="a topic that gets a copy of the response")
    retry_of: Identifier | None = None

    @property
    def partition_key(self) -> str:
        return f"{self.tenant}\x1f{self.session or self.request_id}"


class Rate(Event):
    """Command: take this as an outcome of an answer. At least one verdict is given."""

    kind: ClassVar[str] = "feedback.submitted"

    time: Instant | None = None  # type: ignore[assignment]  # as above
    feedback_id: Identifier = Field(default_factory=new_id)
    request_id: Identifier
    session: Identifier | None = None
    rating: int | None = Field(default=None, ge=1, le=5)
    score: float | None = Field(default=None, ge=0, le=1)
    passed: bool | None = Field(default=None, description="the task's own test passed")
    expected: str | None = Field(default=None, max_length=2_000, description="the accepted answer, to compare with")
    correction: str | None = Field(default=None, max_length=20_000, description="what the answer should have been")
    comment: str | None = Field(default=None, max_length=20_000)

    @model_validator(mode="after")
    def _has_a_verdict(self) -> Rate:
        if all(v is None for v in (self.rating, self.score, self.passed, self.expected, self.correction)):
            raise ValueError("feedback needs one of rating, score, passed, expected, correction")
        return self

    @property
    def partition_key(self) -> str:
        return f"{self.tenant}\x1f{self.session or self.request_id}"


class Source(Value):
    """A passage of memory that an answer was built from."""

    node_id: str
    title: str
    snippet: str
    score: float


class Usage(Value):
    """Tokens. `cached_tokens` of the prompt were already in the model's KV cache."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


class Fault(Value):
    """A terminal error: a stable code, what happened, what to do."""

    code: str
    message: str
    hint: str
    stage: str


class Response(RequestEvent):
    """The one terminal answer or error of a request."""

    kind: ClassVar[str] = "response.completed"

    interaction_id: str
    text: str = ""
    confidence: float = Field(default=0.0, ge=0, le=1)
    sources: tuple[Source, ...] = ()
    tier: str | None = None
    model: str | None = None
    model_sha256: str | None = None
    memory_offsets: dict[str, int] = Field(
        default_factory=dict, description="partition -> next offset of memory.changes it was answered from"
    )
    usage: Usage = Usage()
    latency_ms: dict[str, float] = Field(default_factory=dict, description="stage -> milliseconds; and `total`")
    finish_reason: FinishReason
    error: Fault | None = None
    repeated: bool = Field(default=False, description="sent again from the store for a repeated request id")

    @property
    def ok(self) -> bool:
        return self.error is None

    def raise_for_error(self) -> Response:
        """This response, or the error that it carries, as an exception of its code's class."""
        if self.error is None:
            return self
        cls = error_codes().get(self.error.code, RuvllmError)
        raise cls(self.error.message, hint=self.error.hint)
