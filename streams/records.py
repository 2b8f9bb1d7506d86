"""A record: what Kafka holds, without Kafka. Guards, owners and serial mode all speak in these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from ruvllm.agents.outbox import Emit
from ruvllm.errors import RuvllmError
from ruvllm.schemas.flow import Failed, Origin
from ruvllm.schemas.request import Fault
from ruvllm.schemas.wire import encode, headers
from ruvllm.streams.topology import Names

MAX_ID_CHARS = 128
KEPT_OF_TOO_LARGE = 512 * 1024
"""Bytes of a value that a dead letter keeps if the whole does not fit: half of what Kafka takes by default."""
NOBODY_WAITS = (
    "feedback.submitted",
    "rating.accepted",
    "document.submitted",
    "interaction.recorded",
    "outcome.judged",
    "judgement.doubted",
    "judgement.settled",
    "retraction.submitted",
)
"""Topics whose records may name a request without being on the way to its answer."""


@dataclass(frozen=True)
class Record:
    """One record as it was read, or as it is to be written (`offset` is -1 until it is).

    `time_ms` is the broker's, in milliseconds since the epoch, -1 where there is none: it finds places in the log,
    and nothing is folded from it.
    """

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes] = field(default_factory=dict)
    offset: int = -1
    time_ms: int = -1

    @property
    def origin(self) -> Origin:
        return Origin(topic=self.topic, partition=self.partition or 0, offset=self.offset)


def outgoing(emit: Emit, names: Names, *, source: str, parent: Mapping[str, bytes] | None = None) -> Record:
    """The record of an event: where it goes, under which key, with which headers.

    A topic that is not ours (a user's reply-to) has partitions of its own: Kafka chooses one by key.
    """
    event = emit.event
    return Record(
        topic=emit.topic or names.destination(event),
        partition=None if emit.topic else names.partition(event),
        key=event.record_key.encode("utf-8", "surrogatepass"),
        value=None if emit.tombstone else encode(event),
        headers=dict(headers(event, source=source, parent=parent)),
    )


def dead_letter(record: Record, error: BaseException, *, stage: str, attempt: int, names: Names) -> Record:
    """The record that keeps what could not be handled: its original bytes, and what happened as headers.

    Its key is the record's, or the place it came from if it had none: Kafka refuses a record that has
    neither key nor value.
    """
    code = error.code if isinstance(error, RuvllmError) else "internal_error"
    notes = {
        "dlq-code": code,
        "dlq-error": f"{type(error).__name__}: {error}"[:2000],
        "dlq-stage": stage,
        "dlq-topic": record.topic,
        "dlq-partition": str(record.partition),
        "dlq-offset": str(record.offset),
        "dlq-attempt": str(attempt),
    }
    return Record(
        topic=names.dead_letters(record.topic, stage),
        partition=None,
        key=_place(record) if record.key is None else record.key,
        value=record.value,
        headers={**record.headers, **{k: v.encode("utf-8", "replace") for k, v in notes.items()}},
    )


def cut_short(letter: Record, record: Record) -> Record:
    """A dead letter that Kafka takes whatever its record's size: the start of its value, and where the rest is."""
    notes = {name: value for name, value in letter.headers.items() if name.startswith("dlq-")}
    size = str(len(record.value or b"")).encode()
    value = None if record.value is None else record.value[:KEPT_OF_TOO_LARGE]
    return replace(letter, key=_place(record), value=value, headers={**notes, "dlq-cut-from": size})


def _place(record: Record) -> bytes:
    return f"{record.topic}/{record.partition}/{record.offset}".encode()


def failure_of(record: Record, error: BaseException, *, stage: str, time: Any, names: Names) -> Failed | None:
    """The terminal failure of the request that a record is a step of, or None if there is none.

    The ids are taken from the headers, else from whatever of the body can be read. `origin` is set
    for a submission that intake refuses: it was never admitted. A failure that its own stage reported
    and cannot handle has none: it would go round for ever.
    """
    if any(record.topic == names.topic(name) for name in NOBODY_WAITS):
        return None
    ids = {name: _header(record, name) for name in ("tenant", "session", "request-id")}
    body = _readable(record.value)
    request_id = ids["request-id"] or _text(body, "request_id")
    if request_id is None or _reported_by(body) == stage:
        return None
    session = ids["session"] or _text(body, "session") or request_id
    known = error if isinstance(error, RuvllmError) else RuvllmError(f"{type(error).__name__} in stage {stage}")
    return Failed(
        tenant=ids["tenant"] or _text(body, "tenant") or "default",
        session=session,
        request_id=request_id,
        time=time,
        fault=Fault(code=known.code, message=known.message, hint=known.hint, stage=stage),
        origin=record.origin if stage == "intake" else None,
        reply_to=known.reply_to,
    )


def _header(record: Record, name: str) -> str | None:
    text = record.headers.get(name, b"").decode("utf-8", "replace")
    return text if _is_id(text) else None


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) and _is_id(value) else None


def _reported_by(body: Mapping[str, Any]) -> str | None:
    fault = body.get("fault")
    return _text(fault, "stage") if isinstance(fault, dict) else None


def _is_id(text: str) -> bool:
    """As `schemas.event.Identifier`: what passes there must be found again here."""
    return 0 < len(text) <= MAX_ID_CHARS and not any(c < " " or c == "\x7f" for c in text)


def _readable(value: bytes | None) -> Mapping[str, Any]:
    try:
        body = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}
