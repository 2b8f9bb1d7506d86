"""Intake: the gate. Whatever passes here is valid, has an event time and a deadline, and is keyed
to its session; the later stages check nothing twice. What passes is also bounded in size, in each of its
parts: a session's state holds it several times over, and Kafka bounds a record.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson

from ruvllm.agents.clock import Clock
from ruvllm.errors import (
    DeadlinePassed,
    EmptyPrompt,
    InvalidRequest,
    PromptTooLong,
    ReplyToNotAllowed,
    TenantNotAllowed,
    UnknownTier,
)
from ruvllm.schemas.flow import Origin, RatingAccepted, Request, Turn
from ruvllm.schemas.ids import content_id
from ruvllm.schemas.request import Ask, Message, Rate


@dataclass(frozen=True)
class Limits:
    """What intake lets in. Times in seconds, sizes in characters; `other_bytes`: of all but the messages, as JSON."""

    tiers: tuple[str, ...]
    tenants: tuple[str, ...] = ("default",)
    reply_to: tuple[str, ...] = ()
    prompt_chars: int = 32_000
    messages: int = 64
    other_bytes: int = 16_384
    default_deadline_s: float = 120.0
    longest_deadline_s: float = 900.0
    oldest_event_s: float = 86_400.0


async def accept_request(ask: Ask, origin: Origin, limits: Limits, clock: Clock) -> Turn:
    """Validate a request and give it its event time and deadline. Raises InvalidRequest's kinds."""
    now = clock.now()
    _check_tenant(ask.tenant, limits)
    _check_reply_to(ask, limits)
    try:
        messages = _messages(ask, limits)
        _check_tiers(ask, limits)
        _check_size(ask, limits)
        deadline = _deadline(ask, now, limits)
    except InvalidRequest as error:
        error.reply_to = ask.reply_to
        raise
    request_id = _given_id(ask, "request_id") or _id_from(origin)
    return Turn(
        tenant=ask.tenant,
        session=ask.session or request_id,
        request_id=request_id,
        time=now,
        deadline=deadline,
        request=Request(
            messages=messages,
            constraints=ask.constraints,
            tags=ask.tags,
            client=ask.client,
            reply_to=ask.reply_to,
            retry_of=ask.retry_of,
            submitted_at=_event_time(ask.time, now, limits),
            origin=origin,
        ),
    )


async def accept_feedback(rate: Rate, origin: Origin, limits: Limits, clock: Clock) -> RatingAccepted:
    """Validate feedback and key it to its request's session. Whether the request exists is judged later."""
    _check_tenant(rate.tenant, limits)
    return RatingAccepted(
        tenant=rate.tenant,
        session=rate.session or rate.request_id,
        request_id=rate.request_id,
        time=_event_time(rate.time, clock.now(), limits),
        feedback_id=_given_id(rate, "feedback_id") or _id_from(origin),
        rating=rate.rating,
        score=rate.score,
        passed=rate.passed,
        expected=rate.expected,
        correction=rate.correction,
        comment=rate.comment,
    )


def _given_id(command: Ask | Rate, name: str) -> str | None:
    """The id if the sender gave one. What reading filled in would be another at each delivery."""
    return getattr(command, name) if name in command.model_fields_set else None


def _id_from(origin: Origin) -> str:
    """An id for a record that came without one: redelivered, it is the same."""
    return content_id("at", origin.topic, str(origin.partition), str(origin.offset))


def _check_tenant(tenant: str, limits: Limits) -> None:
    if tenant not in limits.tenants:
        raise TenantNotAllowed(f"tenant {tenant!r} is not known here")


def _check_reply_to(ask: Ask, limits: Limits) -> None:
    if ask.reply_to is not None and ask.reply_to not in limits.reply_to:
        raise ReplyToNotAllowed(f"`reply_to` is {reprlib.repr(ask.reply_to)}, which is not on the list")


def _messages(ask: Ask, limits: Limits) -> tuple[Message, ...]:
    if ask.prompt is not None and ask.messages:
        raise InvalidRequest("give either `prompt` or `messages`, not both")
    messages = ask.messages or ((Message(role="user", content=ask.prompt),) if ask.prompt is not None else ())
    if not messages or not messages[-1].content.strip():
        raise EmptyPrompt("the prompt is empty")
    if messages[-1].role != "user":
        raise EmptyPrompt(f"the last message has role {messages[-1].role!r}, so nothing is asked")
    if len(messages) > limits.messages:
        raise PromptTooLong(f"{len(messages)} messages, the limit is {limits.messages}")
    length = sum(len(m.content) for m in messages)
    if length > limits.prompt_chars:
        raise PromptTooLong(f"the prompt has {length} characters, the limit is {limits.prompt_chars}")
    return messages


def _check_size(ask: Ask, limits: Limits) -> None:
    rest = ask.model_dump(exclude={"prompt", "messages"}, exclude_none=True)
    size = len(orjson.dumps(rest))
    if size > limits.other_bytes:
        largest = max(rest, key=lambda name: len(orjson.dumps(rest[name])))
        raise InvalidRequest(
            f"what stands beside the messages takes {size} bytes, most of them in `{largest}`; "
            f"the limit is {limits.other_bytes}",
            hint="Shorten it: tags, stop words and filters go along with the request wherever it goes.",
        )


def _check_tiers(ask: Ask, limits: Limits) -> None:
    unknown = [t for t in ask.constraints.allowed_tiers or () if t not in limits.tiers]
    if unknown:
        raise UnknownTier(f"`allowed_tiers` names {reprlib.repr(unknown[0])}; there are: {', '.join(limits.tiers)}")


def _deadline(ask: Ask, now: datetime, limits: Limits) -> datetime:
    wanted = ask.constraints.deadline
    if wanted is None:
        return now + timedelta(seconds=limits.default_deadline_s)
    if wanted <= now:
        raise DeadlinePassed(f"the deadline {wanted.isoformat()} passed {(now - wanted).total_seconds():.3f} s ago")
    return min(wanted, now + timedelta(seconds=limits.longest_deadline_s))


def _event_time(claimed: datetime | None, now: datetime, limits: Limits) -> datetime:
    """Clamp once, here: nobody's clock may put an event into the future or far into the past."""
    if claimed is None:
        return now
    return max(min(claimed, now), now - timedelta(seconds=limits.oldest_event_s))
