"""Intake: what passes is valid, timed and keyed; what does not is refused with a code of its own."""

from datetime import timedelta

import pytest

from ruvllm.agents.desk import DeskRules
from ruvllm.agents.intake import Limits, accept_feedback, accept_request
from ruvllm.errors import (
    DeadlinePassed,
    EmptyPrompt,
    InvalidRequest,
    PromptTooLong,
    ReplyToNotAllowed,
    TenantNotAllowed,
    UnknownTier,
)
from ruvllm.schemas.flow import Admitted, Origin, SessionState
from ruvllm.schemas.request import Ask, Constraints, Message, Rate
from ruvllm.schemas.wire import decode, encode
from ruvllm.streams.topics import MAX_RECORD_BYTES
from tests.manual_clock import START, ManualClock

LIMITS = Limits(
    tiers=("135m", "500m"),
    tenants=("default", "harbour"),
    reply_to=("answers.harbour",),
    prompt_chars=100,
    messages=4,
    default_deadline_s=120,
    longest_deadline_s=900,
    oldest_event_s=3600,
)
ORIGIN = Origin(topic="ruvllm.request.submitted.v1", partition=2, offset=17)


async def accept(ask, limits=LIMITS, origin=ORIGIN):
    return await accept_request(ask, origin, limits, ManualClock())


def ask(**fields):
    return Ask(**{"request_id": "r-1", "prompt": "Who keeps the lamp?", **fields})


def in_s(seconds):
    return START + timedelta(seconds=seconds)


def said(role, content="Who keeps the lamp?"):
    return Message(role=role, content=content)


# --- what passes --------------------------------------------------------------------------------------


async def test_a_request_becomes_a_turn_of_its_session():
    # given a request with everything; when accepted
    wanted = ask(
        tenant="harbour",
        session="tour",
        time=in_s(-5),
        constraints=Constraints(allowed_tiers=("500m",), deadline=in_s(30), grounding="open"),
        tags={"channel": "desk"},
        reply_to="answers.harbour",
        retry_of="r-0",
    )
    turn = await accept(wanted)
    # then the turn is the session's, with the question as its last message, and knows where it came in
    assert (turn.tenant, turn.session, turn.request_id) == ("harbour", "tour", "r-1")
    assert (turn.time, turn.deadline) == (START, in_s(30))
    request = turn.request
    assert request.question == "Who keeps the lamp?"
    assert request.messages == (said("user"),)
    assert request.origin == ORIGIN
    assert request.submitted_at == in_s(-5)
    assert (request.constraints, request.tags) == (wanted.constraints, wanted.tags)
    assert (request.reply_to, request.retry_of) == ("answers.harbour", "r-0")


async def test_the_session_defaults_to_the_request_id():
    # given a request without a session; when accepted; then it is a session of its own
    assert (await accept(ask())).session == "r-1"


async def test_a_conversation_may_be_given_whole():
    # given messages that end with the user's; when accepted; then they are kept in order
    messages = (said("system", "Be brief."), said("user", "Hi"), said("assistant", "Yes?"), said("user"))
    turn = await accept(ask(prompt=None, messages=messages))
    assert turn.request.messages == messages
    assert turn.request.question == "Who keeps the lamp?"


@pytest.mark.parametrize("command", [Ask(prompt="x"), Ask(prompt="x", session="tour")])
async def test_a_request_without_an_id_gets_the_same_one_at_each_delivery(command):
    # given the bytes of a program that names no id, read twice (each reading fills in another id)
    raw = encode(command).replace(command.request_id.encode(), b"")
    body = raw.replace(b'"request_id":"",', b"")
    first, again = decode((Ask,), body), decode((Ask,), body)
    assert first.request_id != again.request_id
    # when both deliveries, and another record of the same bytes, are accepted
    one, two = await accept(first), await accept(again)
    other = await accept(first, origin=Origin(topic=ORIGIN.topic, partition=2, offset=18))
    # then the id follows from the record
    assert one == two
    assert one.request_id != other.request_id
    assert one.session == (command.session or one.request_id)


@pytest.mark.parametrize("prompt", ["x" * 100, " x ", "\u200b?", "灯" * 100])
async def test_a_prompt_up_to_the_limit_passes(prompt):
    # given prompts of up to 100 characters, whatever their bytes; when accepted; then they pass unchanged
    assert (await accept(ask(prompt=prompt))).request.question == prompt


# --- event time and deadline --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claimed", "taken"),
    [(None, 0), (0, 0), (-10, -10), (-3600, -3600), (-3601, -3600), (-1e9, -3600), (1, 0), (1e9, 0)],
)
async def test_event_time_is_clamped_once(claimed, taken):
    # given a client's clock, right or wrong; when accepted
    time = None if claimed is None else in_s(claimed)
    turn = await accept(ask(time=time))
    rating = await accept_feedback(Rate(request_id="r-1", rating=5, time=time), ORIGIN, LIMITS, ManualClock())
    # then its event lies neither in the future nor further back than an hour
    assert turn.request.submitted_at == rating.time == in_s(taken)
    assert turn.time == START


@pytest.mark.parametrize(("wanted", "given_s"), [(None, 120), (0.001, 0.001), (30, 30), (900, 900), (901, 900)])
async def test_deadline_is_the_asked_one_within_bounds(wanted, given_s):
    # given a deadline, none, or one too far; when accepted; then there is one, at most 900 s away
    deadline = None if wanted is None else in_s(wanted)
    assert (await accept(ask(constraints=Constraints(deadline=deadline)))).deadline == in_s(given_s)


@pytest.mark.parametrize("late_s", [0, 0.001, 3600])
async def test_a_deadline_already_past_is_refused(late_s):
    # given a deadline that is now or was; when offered; then it is refused with how late it is
    with pytest.raises(DeadlinePassed, match=rf"passed {late_s:.3f} s ago"):
        await accept(ask(constraints=Constraints(deadline=in_s(-late_s))))


# --- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "code", "names"),
    [
        ({"prompt": ""}, EmptyPrompt, "empty_prompt", "empty"),
        ({"prompt": " \n\t"}, EmptyPrompt, "empty_prompt", "empty"),
        ({"prompt": None}, EmptyPrompt, "empty_prompt", "empty"),
        ({"prompt": None, "messages": (said("user", " "),)}, EmptyPrompt, "empty_prompt", "empty"),
        ({"prompt": None, "messages": (said("user"), said("assistant"))}, EmptyPrompt, "empty_prompt", "'assistant'"),
        ({"messages": (said("user"),)}, InvalidRequest, "invalid_request", "not both"),
        ({"prompt": "x" * 101}, PromptTooLong, "prompt_too_long", "101 characters, the limit is 100"),
        ({"prompt": None, "messages": (said("user"),) * 5}, PromptTooLong, "prompt_too_long", "5 messages"),
        ({"prompt": None, "messages": (said("user", "x" * 51),) * 2}, PromptTooLong, "prompt_too_long", "102"),
        ({"constraints": Constraints(allowed_tiers=("7b",))}, UnknownTier, "unknown_tier", "'7b'"),
        ({"constraints": Constraints(allowed_tiers=("135m", "7b"))}, UnknownTier, "unknown_tier", "135m, 500m"),
        ({"reply_to": "answers.elsewhere"}, ReplyToNotAllowed, "reply_to_not_allowed", "'answers.elsewhere'"),
        ({"reply_to": ""}, ReplyToNotAllowed, "reply_to_not_allowed", "''"),
        ({"tenant": "stranger"}, TenantNotAllowed, "tenant_not_allowed", "'stranger'"),
    ],
)
async def test_what_is_refused_has_a_code_and_names_the_value(fields, error, code, names):
    # given one thing wrong; when offered; then the error's code is stable and it names the value
    with pytest.raises(error) as caught:
        await accept(ask(**fields))
    assert caught.value.code == code
    assert names in caught.value.message
    assert caught.value.hint


async def test_an_unknown_tenant_learns_nothing_else():
    # given a stranger with other faults too; when offered; then the tenant is the reason
    with pytest.raises(TenantNotAllowed):
        await accept(ask(tenant="stranger", prompt="", reply_to="x"))


# --- feedback -----------------------------------------------------------------------------------------


async def test_feedback_is_keyed_to_its_requests_session():
    # given feedback with every verdict; when accepted
    rate = Rate(
        tenant="harbour",
        session="tour",
        request_id="r-1",
        feedback_id="f-1",
        rating=4,
        score=0.5,
        passed=False,
        correction="Osk.",
        comment="late",
    )
    rating = await accept_feedback(rate, ORIGIN, LIMITS, ManualClock())
    # then it travels with its request's session and keeps all of them
    assert rating.partition_key == "harbour\x1ftour"
    given = {name: getattr(rating, name) for name in ("rating", "score", "passed", "correction", "comment")}
    assert given == {"rating": 4, "score": 0.5, "passed": False, "correction": "Osk.", "comment": "late"}
    assert rating.feedback_id == "f-1"


async def test_feedback_without_a_session_is_keyed_as_its_request():
    # given feedback on a request that had no session; when accepted; then both are keyed alike
    rating = await accept_feedback(Rate(request_id="r-1", rating=1), ORIGIN, LIMITS, ManualClock())
    assert rating.partition_key == (await accept(ask())).partition_key


async def test_feedback_without_an_id_counts_once_when_redelivered():
    # given the bytes of a program that names no feedback id, read at two deliveries; when accepted
    body = b'{"request_id": "r-1", "rating": 1}'
    first = await accept_feedback(decode((Rate,), body), ORIGIN, LIMITS, ManualClock())
    again = await accept_feedback(decode((Rate,), body), ORIGIN, LIMITS, ManualClock())
    # then both have the id that follows from the record
    assert first == again


async def test_feedback_of_an_unknown_tenant_is_refused():
    # given feedback of a tenant that is not known; when offered; then it is refused
    with pytest.raises(TenantNotAllowed):
        await accept_feedback(Rate(tenant="stranger", request_id="r", rating=1), ORIGIN, LIMITS, ManualClock())


# --- size ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("tags", {"tags": {"note": "x" * 20_000}}),
        ("tags", {"tags": {f"k{n}": "v" for n in range(5_000)}}),
        ("constraints", {"constraints": Constraints(stop=("x" * 20_000,))}),
        ("constraints", {"constraints": Constraints(memory_filter={"kind": "x" * 20_000})}),
        ("constraints", {"constraints": Constraints(allowed_tiers=("135m",) * 5_000)}),
        ("reply_to", {"reply_to": "x" * 20_000}),
    ],
    ids=["long tag", "many tags", "stop", "filter", "tiers", "reply_to"],
)
async def test_what_stands_beside_the_messages_is_bounded(name, fields):
    # given a request that is large in anything but its prompt; when accepted; then it is refused, and told in what
    with pytest.raises(InvalidRequest, match=f"`{name}`") as refused:
        await accept(ask(**fields))
    assert len(refused.value.message) < 500


async def test_a_refusal_does_not_repeat_a_long_value():
    # given a name of 10,000 characters where a short one is meant; when refused; then the message stays short
    for fields in ({"reply_to": "x" * 10_000}, {"constraints": Constraints(allowed_tiers=("x" * 10_000,))}):
        with pytest.raises(InvalidRequest) as refused:
            await accept(ask(**fields))
        assert len(refused.value.message) < 300


async def test_the_largest_session_that_the_defaults_let_in_fits_into_one_record():
    # given requests as large as they may be, in characters that take most room
    limits, rules = Limits(tiers=("135m",)), DeskRules()
    length = limits.prompt_chars // limits.messages
    largest = ask(
        prompt=None,
        messages=tuple(Message(role="user", content="\x01" * length) for _ in range(limits.messages)),
        tags={"note": "x" * (limits.other_bytes - 500)},
    )
    turn = await accept(largest, limits)
    # when one is in flight and as many as may wait are waiting; then the session's state is one record still
    flight = Admitted.model_validate(
        {**dict(turn), "interaction_id": "ix", "history": turn.request.messages[:-1], "deadline": turn.deadline}
    )
    state = SessionState(
        **{name: getattr(turn, name) for name in ("tenant", "session", "request_id", "time")},
        in_flight=flight,
        waiting=(turn,) * rules.waiting_turns,
    )
    assert len(encode(state)) < MAX_RECORD_BYTES
