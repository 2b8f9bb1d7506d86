"""Events to bytes and back, and the headers that travel beside them.

Invariant: `decode(encode(e)) == e`; what cannot be read raises `Undecodable`, `InvalidRequest` or
`UnsupportedVersion` and never anything else, so that a guard can answer every bad record.
Headers are CloudEvents in binary mode (https://github.com/cloudevents/spec, Kafka binding 3.2),
with request, session and tenant beside them: a failure is answered without decoding the body.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from ruvllm.errors import InvalidRequest, Undecodable, UnsupportedVersion
from ruvllm.schemas import flow, memory, outcome, request, training
from ruvllm.schemas.event import Event, RequestEvent
from ruvllm.schemas.ids import content_id
from ruvllm.schemas.vector import READS_VECTOR, decode_vectors

E = TypeVar("E", bound=Event)
Headers = list[tuple[str, bytes]]

MAX_TRACE_BYTES = 256
"""A `traceparent` has 55 bytes in version 00 (https://www.w3.org/TR/trace-context/); a stranger's may be any size."""

EVENTS: tuple[type[Event], ...] = (
    request.Ask,
    request.Rate,
    request.Response,
    flow.Turn,
    flow.RatingAccepted,
    flow.Admitted,
    flow.Retrieved,
    flow.Routed,
    flow.Generated,
    flow.Failed,
    flow.Interaction,
    flow.SessionState,
    flow.AnsweredState,
    memory.PutDocument,
    memory.RemoveDocument,
    memory.DocumentProcessed,
    memory.DocumentState,
    memory.NodeAdded,
    memory.NodeRemoved,
    memory.NodeMerged,
    memory.NodeRetracted,
    memory.EdgeAdded,
    memory.EdgeRemoved,
    memory.EdgeContributed,
    memory.EdgePruned,
    memory.MemoryFolded,
    outcome.Judged,
    outcome.Retract,
    outcome.JudgementDoubted,
    outcome.JudgementSettled,
    outcome.JudgementState,
    outcome.CandidatesCredited,
    outcome.ReinforcementState,
    training.TrainingRecorded,
    training.CheckpointPublished,
    training.CheckpointChosen,
)
"""Every event that exists, in the order of the flow."""

BY_KIND: Mapping[str, type[Event]] = {cls.kind: cls for cls in EVENTS}


def encode(event: Event) -> bytes:
    """One event as UTF-8 JSON; `kind` is written beside its fields, so that a body can stand alone."""
    return orjson.dumps({"kind": event.kind, **event.model_dump(exclude_none=True)})


def decode(kinds: tuple[type[E], ...], raw: bytes | None, kind: str | None = None) -> E:
    """Bytes -> an event of one of `kinds`.

    The kind is taken from the header (`kind`), else from the body, else from `kinds` if it has one
    member only. Raises Undecodable (not JSON, not an object), InvalidRequest (a field, an unknown
    kind) or UnsupportedVersion.
    """
    return _alone(*_body(kinds, raw, kind))


def decode_all(kinds: tuple[type[E], ...], raws: Iterable[tuple[bytes | None, str | None]]) -> list[E | InvalidRequest]:
    """What `decode` makes of each (bytes, kind), in order, an error in the place of its event.

    It takes half the time: the bodies of a kind are validated together, by the same schema.
    """
    found: list[E | InvalidRequest] = []
    groups: dict[type[E], dict[int, dict[str, Any]]] = {}  # kind -> place -> body
    for place, (raw, kind) in enumerate(raws):
        try:
            cls, body = _body(kinds, raw, kind)
        except InvalidRequest as error:
            found.append(error)
        else:
            found.append(_NOT_READ)
            groups.setdefault(cls, {})[place] = body
    for cls, bodies in groups.items():
        for place, event in zip(bodies, _together(cls, list(bodies.values())), strict=True):
            found[place] = event
    return found


_NOT_READ = InvalidRequest("not read yet")


def _together(cls: type[E], bodies: list[dict[str, Any]]) -> Sequence[E | InvalidRequest]:
    """An event or an error for each body."""
    with_vectors = bodies
    for name in _vector_fields(cls):
        vectors = decode_vectors([body.get(name) for body in bodies])
        if vectors is not None:
            with_vectors = [{**body, name: v} for body, v in zip(with_vectors, vectors, strict=True)]
    try:
        events: list[E] = _many(cls).validate_python(with_vectors)
        for event in events:
            _check_version(cls, event.version)
    except (ValidationError, InvalidRequest):  # one by one: it has to be said which is wrong, and what about it
        return [_event_or_error(cls, body) for body in bodies]
    return events


def _event_or_error(cls: type[E], body: dict[str, Any]) -> E | InvalidRequest:
    try:
        return _alone(cls, body)
    except InvalidRequest as error:
        return error


@cache
def _many(cls: type[E]) -> TypeAdapter[list[E]]:
    return TypeAdapter(list[cls])  # type: ignore[valid-type]


@cache
def _vector_fields(cls: type[Event]) -> tuple[str, ...]:
    return tuple(name for name, field in cls.model_fields.items() if READS_VECTOR in field.metadata)


def _body(kinds: tuple[type[E], ...], raw: bytes | None, kind: str | None) -> tuple[type[E], dict[str, Any]]:
    """The kind of a record and its fields, which are still to be validated."""
    body = _object(raw)
    name = kind or body.get("kind")
    cls = _named(kinds).get(name) if isinstance(name, str) else None
    if cls is None and name is None and len(kinds) == 1:
        cls = kinds[0]
    if cls is None:
        wanted = ", ".join(c.kind for c in kinds)
        raise InvalidRequest(f"the record's kind is {reprlib.repr(name)}, expected one of: {wanted}")
    _check_version(cls, body.get("version"))  # first: a newer version's fields may not fit
    return cls, body


@cache
def _named(kinds: tuple[type[E], ...]) -> Mapping[str, type[E]]:
    return {cls.kind: cls for cls in kinds}


def _alone(cls: type[E], body: dict[str, Any]) -> E:
    try:
        event = cls.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(f"{cls.kind}: {_first_problem(error)}") from error
    _check_version(cls, event.version)  # again: it may have been written as "2" or 2.0
    return event


def _check_version(cls: type[Event], version: object) -> None:
    if isinstance(version, int) and version > cls.current_version:
        raise UnsupportedVersion(f"{cls.kind} version {version} is newer than {cls.current_version}")


def _object(raw: bytes | None) -> dict[str, Any]:
    if not raw:
        raise Undecodable("the record is empty")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Undecodable(f"the record of {len(raw)} bytes is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise Undecodable(f"the record is a JSON {type(body).__name__}, not an object")
    return body


def _first_problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"]) or "the event"
    value = reprlib.repr(first.get("input"))  # bounded in length and in depth, whatever was sent
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"field `{where}`: {first['msg']}, got {value}{more}"


def headers(event: Event, *, source: str, parent: Mapping[str, bytes] | None = None) -> Headers:
    """CloudEvents headers of one event. Its correlation id is its request's.

    The trace of `parent` goes on in all that it causes, but not in another request: a turn that waited
    for the one before it was not caused by it.
    """
    pairs: Headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id(event).encode()),
        ("ce_type", f"ruvllm.{event.kind}.v{event.current_version}".encode()),
        ("ce_source", source.encode()),
        ("content-type", b"application/json"),
        ("tenant", event.tenant.encode()),
    ]
    if event.time is not None:
        pairs.append(("ce_time", event.time.isoformat().encode()))
    request_id = getattr(event, "request_id", None)
    session = getattr(event, "session", None)
    if request_id:
        pairs.append(("request-id", request_id.encode()))
        pairs.append(("correlation-id", request_id.encode()))
    if session:
        pairs.append(("session", session.encode()))
        pairs.append(("ce_subject", session.encode()))
    trace = (parent or {}).get("traceparent", b"")
    theirs = (parent or {}).get("request-id", b"").decode("utf-8", "replace")
    if 0 < len(trace) <= MAX_TRACE_BYTES and (not request_id or theirs in ("", request_id)):
        pairs.append(("traceparent", trace))
    return pairs


def event_id(event: Event) -> str:
    """The same id for the same event, however often it is made: consumers deduplicate by it."""
    fields = type(event).model_fields
    for name in ("change_id", "feedback_id", "command_id"):
        if name in fields:
            return f"{event.kind}/{getattr(event, name)}"
    if isinstance(event, RequestEvent):
        revision = (str(event.revision),) if "revision" in fields else ()  # type: ignore[attr-defined]
        return content_id("ev", event.kind, event.tenant, event.session, event.request_id, *revision)
    time = event.time.isoformat() if event.time else ""
    if isinstance(event, request.Ask):  # one session may ask twice at the same moment
        return content_id("ev", event.kind, event.partition_key, event.request_id, time)
    return content_id("ev", event.kind, event.partition_key, time)


def kind_of(headers: Mapping[str, bytes]) -> str | None:
    """The event kind in a `ce_type` header: `ruvllm.turn.accepted.v1` -> `turn.accepted`."""
    raw = headers.get("ce_type", b"")
    return _KINDS_WRITTEN.get(raw) or _kind_in(raw.decode("utf-8", "replace"))


def _kind_in(ce_type: str) -> str | None:
    parts = ce_type.split(".")
    if len(parts) < 4 or parts[0] != "ruvllm" or not parts[-1].startswith("v"):
        return None
    return ".".join(parts[1:-1])


_KINDS_WRITTEN = {f"ruvllm.{cls.kind}.v{cls.current_version}".encode(): cls.kind for cls in EVENTS}
"""What our own writers put in the header."""
