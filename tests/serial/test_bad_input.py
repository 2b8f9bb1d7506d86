"""Everything that can be wrong with what comes in: each ends in a response that says so, and the service goes on."""

from datetime import timedelta

import orjson
import pytest

from ruvllm.errors import error_codes
from ruvllm.schemas.request import Ask, Constraints, Rate
from ruvllm.streams.topology import STAGES
from tests.manual_clock import START
from tests.serial.island import LAMPS, dead_letters, ingest, outcomes, produce, put, told

GOOD = {"request_id": "r-1", "session": "tour", "prompt": "Who keeps the great lamp?"}
IDS = {"tenant": "default", "session": "tour", "request_id": "r-1"}

BAD_REQUESTS = {
    "bytes that are no text": (b"\xff\xfe\x00", "undecodable"),
    "no JSON": (b'{"request_id": "r-1", ', "undecodable"),
    "no object": (b"[1, 2]", "undecodable"),
    "an empty record": (b"", "undecodable"),
    "another kind of event": ({**GOOD, "kind": "feedback.submitted", "rating": 5}, "invalid_request"),
    "a newer version": ({**GOOD, "version": 2}, "unsupported_version"),
    "no prompt": ({"request_id": "r-1", "session": "tour"}, "empty_prompt"),
    "an empty prompt": ({**GOOD, "prompt": " \n"}, "empty_prompt"),
    "a wrong field": ({**GOOD, "prompt": 5}, "invalid_request"),
    "a wrong constraint": ({**GOOD, "constraints": {"top_p": 2}}, "invalid_request"),
    "a message without content": ({**GOOD, "prompt": None, "messages": [{"role": "user"}]}, "invalid_request"),
    "prompt and messages": ({**GOOD, "messages": [{"role": "user", "content": "?"}]}, "invalid_request"),
    "a prompt above the limit": ({**GOOD, "prompt": "x" * 401}, "prompt_too_long"),
    "an unknown tier": ({**GOOD, "constraints": {"allowed_tiers": ["135m", "7b"]}}, "unknown_tier"),
    "a deadline already past": (
        {**GOOD, "constraints": {"deadline": (START - timedelta(seconds=1)).isoformat()}},
        "deadline_passed",
    ),
    "a reply-to that is not allowed": ({**GOOD, "reply_to": "answers.elsewhere"}, "reply_to_not_allowed"),
    "an unknown tenant": ({**GOOD, "tenant": "stranger"}, "tenant_not_allowed"),
}


@pytest.mark.parametrize(("body", "code"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
async def test_error_handling_returns_graceful_response(system, body, code):
    # given a request with one thing wrong, its ids in the headers as our client writes them
    tenant = body.get("tenant", "default") if isinstance(body, dict) else "default"
    record = produce(system, body, **{**IDS, "tenant": tenant})
    # when the flow has run
    await system.run()
    # then it has one terminal response, with a stable code and what to do
    (response,) = system.responses()
    assert (response.tenant, response.session, response.request_id) == (tenant, "tour", "r-1")
    assert (response.finish_reason, response.text, response.error.stage) == ("error", "", "intake")
    assert response.error.code == code
    assert code in error_codes()
    assert response.error.message and response.error.hint
    # and its bytes are kept with the reason
    (letter,) = dead_letters(system)
    assert letter.value == record.value
    assert letter.headers["dlq-code"] == code.encode()
    assert (letter.headers["dlq-topic"], letter.headers["dlq-offset"]) == (record.topic.encode(), b"0")
    # and the session goes on
    await ingest(system, lamps=LAMPS)
    assert (await system.ask(GOOD["prompt"], session="tour")).sources


@pytest.mark.parametrize("name", [n for n, (body, _) in BAD_REQUESTS.items() if isinstance(body, dict)])
async def test_a_plain_body_is_answered_by_the_ids_in_it(system, name):
    # given a request with one thing wrong, of a program that writes no headers
    body, code = BAD_REQUESTS[name]
    produce(system, body)
    # when the flow has run; then its ids are found in the body
    await system.run()
    assert told(system) == [("tour", "r-1", code)]


async def test_what_names_no_request_is_kept_and_answered_to_nobody(system):
    # given bytes without any id; when the flow has run; then the dead letter is all there is
    produce(system, b"\xff\xfe\x00")
    await system.run()
    assert told(system) == []
    assert [letter.value for letter in dead_letters(system)] == [b"\xff\xfe\x00"]


async def test_the_plainest_request_is_answered(system):
    # given a body of nothing but a prompt; when the flow has run; then it is answered under an id of its own
    produce(system, {"prompt": "Who keeps the great lamp?"})
    await system.run()
    (response,) = system.responses()
    assert response.ok
    assert response.session == response.request_id
    assert dead_letters(system) == []


async def test_a_refused_request_is_answered_once_however_often_it_comes(system):
    # given a bad request that is submitted twice, and then corrected under the same id
    bad, _ = BAD_REQUESTS["a prompt above the limit"]
    for body in (bad, bad, GOOD):
        produce(system, body)
        await system.run()
    # then each submission has its response, and all but the first are repetitions
    assert told(system) == [
        ("tour", "r-1", "prompt_too_long"),
        ("tour", "r-1", "prompt_too_long", "again"),
        ("tour", "r-1", "prompt_too_long", "again"),
    ]


# --- repeated ids -------------------------------------------------------------------------------------


async def test_a_repeated_id_in_flight_is_answered_once(system):
    # given the same id submitted three times before it is answered, once with another prompt
    for prompt in ("Who keeps the great lamp?", "Who keeps the great lamp?", "Who keeps the goats?"):
        await system.send(Ask(request_id="r-1", session="tour", prompt=prompt))
    await system.run()
    # then there is one answer, to the first
    assert len(system.responses()) == len(system.events("request.admitted")) == 1
    assert system.events("interaction.recorded")[0].request.question == "Who keeps the great lamp?"


async def test_a_repeated_id_after_its_answer_is_answered_from_the_store(system):
    # given an answered id; when it is submitted again; then the stored answer comes, marked, and no model is asked
    await ingest(system, lamps=LAMPS)
    for prompt in ("Who keeps the great lamp?", "Something else?"):
        await system.send(Ask(request_id="r-1", session="tour", prompt=prompt))
        await system.run()
    first, second = system.responses()
    assert (first.repeated, second.repeated) == (False, True)
    assert second.model_copy(update={"repeated": False}) == first
    assert len(system.events("answer.generated")) == len(system.events("interaction.recorded")) == 1


async def test_a_repeated_id_in_another_session_or_of_another_tenant_is_another_request(system):
    # given the same id in two sessions and of two tenants; when the flow has run; then each is answered on its own
    await system.send(
        Ask(request_id="r-1", session="tour", prompt="Who?"),
        Ask(request_id="r-1", session="quay", prompt="Who?"),
        Ask(request_id="r-1", session="tour", prompt="Who?", tenant="harbour"),
    )
    await system.run()
    assert [(r.tenant, r.session, r.repeated) for r in system.responses()] == [
        ("default", "tour", False),
        ("default", "quay", False),
        ("harbour", "tour", False),
    ]
    assert len({r.interaction_id for r in system.responses()}) == 3


async def test_a_session_of_more_than_its_queue_is_refused_by_turns(open_system):
    # given a session that may let two wait; when four come at once; then the fourth is refused, the others answered
    async with open_system(flags={"limits.waiting_turns": "2"}) as system:
        await system.send(*(Ask(request_id=f"r-{n}", session="tour", prompt="Who?") for n in range(4)))
        await system.run()
        assert told(system)[0] == ("tour", "r-3", "session_queue_full")
        assert sorted(i for _, i, _ in told(system)) == ["r-0", "r-1", "r-2", "r-3"]
        # and that is nobody's fault: nothing is put aside
        assert not any(".dlq" in name for name in system.log.topics)


# --- nobody serves ------------------------------------------------------------------------------------


async def test_a_tier_that_nobody_serves_is_answered_at_the_deadline(system, clock, monkeypatch):
    # given a flow without the pool, and a session with two requests
    monkeypatch.setattr(system, "_stages", tuple(s for s in STAGES if s.name != "generate"))
    within = Constraints(deadline=START + timedelta(seconds=30))
    await system.send(Ask(request_id="r-1", session="tour", prompt="Who?", constraints=within))
    await system.send(Ask(request_id="r-2", session="tour", prompt="Who?"))
    await system.run()
    assert told(system) == []
    # when its deadline passes; then it has its terminal error, and the next is let in
    clock.advance(30)
    await system.run()
    assert told(system) == [("tour", "r-1", "deadline_exceeded")]
    assert [e.request_id for e in system.events("request.routed")] == ["r-1", "r-2"]
    # and when the pool is back too late for the one; then that one is not answered again, the other is
    monkeypatch.setattr(system, "_stages", STAGES)
    await system.run()
    assert [i for _, i, *_ in told(system)] == ["r-1", "r-2"]
    assert system.responses("r-2")[0].ok
    assert system.responses("r-1")[0].error.hint
    # and the log has both, the failed one with what was asked
    assert [bool(e.fault) for e in system.events("interaction.recorded")] == [True, False]


async def test_a_deadline_is_kept_in_the_default_too(system, clock, monkeypatch):
    # given a request without a deadline and no pool; when the default has passed; then it is answered
    monkeypatch.setattr(system, "_stages", tuple(s for s in STAGES if s.name != "generate"))
    await system.send(Ask(request_id="r-1", prompt="Who?"))
    await system.run()
    clock.advance(119)
    await system.run()
    assert told(system) == []
    clock.advance(1)
    await system.run()
    assert told(system) == [("r-1", "r-1", "deadline_exceeded")]


async def test_a_prompt_that_no_context_holds_is_an_error_of_that_request(open_system):
    # given a prompt within the limit of characters but above what any context holds; when asked; then it says so
    async with open_system(flags={"limits.prompt_chars": "100000"}) as system:
        await system.send(
            Ask(request_id="r-1", prompt="lamp " * 10_000, constraints=Constraints(grounding="none")),
        )
        await system.run()
        assert told(system) == [("r-1", "r-1", "prompt_too_long")]
        assert system.responses()[0].error.stage == "generate"
        routed = system.names.topic("request.routed", "135m")
        assert len(system.log.topics[system.names.dead_letters(routed, "generate")]) == 1


# --- feedback and documents ---------------------------------------------------------------------------


async def test_bad_feedback_is_put_aside_and_changes_no_response(system):
    # given an answered request and one that never was; when bad feedback on both comes
    await system.send(Ask(request_id="r-1", session="tour", prompt="Who?"))
    await system.run()
    for request_id in ("r-1", "r-2"):
        produce(
            system,
            {"request_id": request_id, "session": "tour", "rating": 9},
            topic="feedback.submitted",
            session="tour",
            request_id=request_id,
        )
    await system.send(Rate(request_id="r-1", session="tour", tenant="stranger", rating=1))
    await system.run()
    # then it is kept aside, and nobody is answered for it
    assert [i for _, i, *_ in told(system)] == ["r-1"]
    assert [letter.headers["dlq-code"] for letter in dead_letters(system, topic="feedback.submitted")] == [
        b"invalid_request",
        b"invalid_request",
        b"tenant_not_allowed",
    ]
    # and the second id can still be asked
    await system.send(Ask(request_id="r-2", session="tour", prompt="Who?"))
    await system.run()
    assert system.responses("r-2")[0].ok


@pytest.mark.parametrize(
    ("fields", "code", "names"),
    [
        ({"content": '{"text": "good"}\n{"text": ', "media_type": "application/jsonl"}, "invalid_document", "line 2"),
        ({"content": '{"title": "x"}', "media_type": "application/jsonl"}, "invalid_document", "no `text`"),
        ({"content": "x" * 20_001}, "invalid_document", "20001 characters, the limit is 20000"),
        ({"content": "x", "tenant": "stranger"}, "tenant_not_allowed", "'stranger'"),
    ],
)
async def test_a_document_that_cannot_be_read_changes_nothing(system, fields, code, names):
    # given a memory, and a document that cannot be read under the name of one that is known
    await ingest(system, lamps=LAMPS)
    before = system.memory.digest()
    # when it comes
    await system.send(put("lamps", **fields))
    await system.run()
    # then what became of it is said, and the document stands as it was
    processed = system.events("document.processed")[-1]
    assert (processed.outcome, processed.fault.code) == ("failed", code)
    assert names in processed.fault.message
    assert system.memory.digest() == before
    assert (await ingest(system, lamps=LAMPS)) == ["unchanged"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\xff\x00", b"undecodable"),
        ({"kind": "document.put", "document_id": "lamps.md"}, b"invalid_request"),
        ({"kind": "document.put", "document_id": "a.pdf", "content": "x", "media_type": "application/pdf"}, None),
        ({"document_id": "lamps.md", "content": "x"}, b"invalid_request"),
        ({"kind": "document.put", "document_id": "x", "content": "x", "request_id": "r-1", "tenant": 5}, None),
    ],
)
async def test_a_document_command_that_cannot_be_decoded_is_put_aside(system, body, code):
    # given bytes that are no document command (one of them names a request); when they come
    record = produce(system, body, topic="document.submitted")
    await system.run()
    # then they are kept, nothing is answered, and the next document is read
    (letter,) = dead_letters(system, "documents", "document.submitted")
    assert letter.value == record.value
    assert letter.headers["dlq-code"] == (code or b"invalid_request")
    assert told(system) == outcomes(system) == []
    assert await ingest(system, lamps=LAMPS) == ["added"]


async def test_a_document_in_which_nothing_can_be_read_is_known_and_never_found(system):
    # given documents that are empty, blank or symbols only; when ingested and asked for; then nothing is found
    assert await ingest(system, empty="", blank=" \n\n", symbols="\x00\x01 \u200b") == ["added"] * 3
    assert (await system.ask("symbols?")).finish_reason == "abstained"


async def test_everything_at_once_leaves_no_request_unanswered(system):
    # given all bad requests under ids of their own, with good ones between them, in one session
    for number, (body, _) in enumerate(BAD_REQUESTS.values()):
        raw = body if isinstance(body, bytes) else orjson.dumps({**body, "request_id": f"bad-{number}"})
        produce(system, raw, tenant="default", session="tour", request_id=f"bad-{number}")
        produce(system, {**GOOD, "request_id": f"good-{number}"})
    # when the flow has run
    await system.run()
    # then every id has exactly one response, of which those of the good are answers in order
    ids = [r.request_id for r in system.responses()]
    assert sorted(ids) == sorted(f"{kind}-{n}" for kind in ("bad", "good") for n in range(len(BAD_REQUESTS)))
    assert [r.request_id for r in system.responses() if r.ok] == [f"good-{n}" for n in range(len(BAD_REQUESTS))]
