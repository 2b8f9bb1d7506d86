"""The base of everything that travels.

Invariant: an event is immutable, says who it belongs to (tenant, session, request) and when it
happened by its own clock, and can be read by an older or newer reader: unknown fields are ignored,
new fields have defaults.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, ClassVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field


class Value(BaseModel):
    """An immutable part of an event. Unknown fields are ignored, so that newer writers can be read."""

    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError as error:  # year 1 or 9999, and an offset that leads out of it
        raise ValueError("is not a year from 1 to 9999 in UTC") from error


Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A moment with an offset, kept in UTC. A time without an offset is refused."""

Identifier = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A tenant, session or request id: 1 to 128 characters, no control characters."""


class Event(Value):
    """What every event carries. `kind` is `<entity>.<event>`; `topic` is where it travels.

    Most kinds have a topic of their own name; kinds that one partition must order share one.
    """

    kind: ClassVar[str]
    topic: ClassVar[str]
    current_version: ClassVar[int] = 1

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)  # type: ignore[arg-type]
        if "kind" in cls.__dict__ and not hasattr(cls, "topic"):
            cls.topic = cls.kind

    version: int = Field(default=1, ge=1)
    tenant: Identifier = "default"
    time: Instant

    @property
    def partition_key(self) -> str:
        """Events with the same key are on the same partition, in order."""
        return self.tenant

    @property
    def record_key(self) -> str:
        """The record's own key: what log compaction keeps one of. The partition key unless finer."""
        return self.partition_key


class RequestEvent(Event):
    """An event in the life of one request; ordered within its session."""

    session: Identifier
    request_id: Identifier

    @property
    def partition_key(self) -> str:
        return session_key(self.tenant, self.session)

    @property
    def request_key(self) -> str:
        """Names the request: its id is unique within tenant and session."""
        return f"{self.partition_key}\x1f{self.request_id}"


def session_key(tenant: str, session: str) -> str:
    """The key that keeps a session's events on one partition. Unit separator: ids cannot hold it."""
    return f"{tenant}\x1f{session}"
