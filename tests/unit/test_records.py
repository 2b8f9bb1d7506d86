"""Records: what Kafka holds of an event, of a dead letter, and of a failure that headers alone can name."""

from types import SimpleNamespace

import orjson
import pytest

from ruvllm.agents.outbox import Emit
from ruvllm.errors import PromptTooLong, Undecodable
from ruvllm.schemas.wire import decode, kind_of
from ruvllm.streams.log_reader import record_of
from ruvllm.streams.records import KEPT_OF_TOO_LARGE, Record, cut_short, dead_letter, failure_of, outgoing
from ruvllm.streams.topology import Names, partition_of
from tests.unit.sample_events import BY_KIND, TIME

NAMES = Names("test", ("135m", "500m"), 16)
REQUESTS = "test.request.submitted.v1"


def failure(record, error=None, stage="intake"):
    return failure_of(record, error or Undecodable("not JSON"), stage=stage, time=TIME, names=NAMES)


def record(value=b"?", topic=REQUESTS, **headers):
    raw = {name.replace("_", "-"): v for name, v in headers.items()}
    return Record(topic, 3, b"key", value, raw, 41)


# --- outgoing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", BY_KIND.values(), ids=BY_KIND)
def test_an_event_goes_to_its_topic_and_its_keys_partition(event):
    # given any event; when it is made a record
    made = outgoing(Emit(event), NAMES, source="answer-1")
    # then its topic holds its kind, its partition follows from its key, and its kind can be read in the headers
    assert made.topic in {name for name, row in NAMES.every() if type(event) in row.events}
    assert made.partition == partition_of(event.partition_key, 16)
    assert made.key == event.record_key.encode()
    assert decode((type(event),), made.value, kind_of(made.headers)).model_dump() == event.model_dump()
    assert made.offset == -1


def test_a_routed_request_goes_to_its_tiers_topic():
    # given a routed request; when it is made a record; then its tier's topic is named
    assert outgoing(Emit(BY_KIND["request.routed"]), NAMES, source="s").topic == "test.request-135m.routed.v1"


def test_a_foreign_topic_chooses_its_own_partition():
    # given a copy for a user's reply-to; when it is made a record; then Kafka chooses the partition by key
    copy = outgoing(Emit(BY_KIND["response.completed"], topic="answers.harbour"), NAMES, source="s")
    assert (copy.topic, copy.partition, copy.key) == ("answers.harbour", None, b"harbour\x1ftour")


def test_a_tombstone_has_the_events_key_and_no_value():
    # given a state that is to be forgotten; when it is made a record; then compaction drops that key
    gone = outgoing(Emit(BY_KIND["session.answered"], tombstone=True), NAMES, source="s")
    assert (gone.value, gone.key) == (None, b"harbour\x1ftour\x1fr-1")
    assert gone.partition == partition_of("harbour\x1ftour", 16)


# --- dead letters -------------------------------------------------------------------------------------


def test_a_dead_letter_keeps_the_bytes_and_says_what_happened():
    # given a record that could not be handled; when it is put aside
    bad = record(b"\xff\x00", request_id=b"r-1")
    letter = dead_letter(bad, PromptTooLong("5,000 characters"), stage="intake", attempt=2, names=NAMES)
    # then key, bytes and headers are as they were, with error, source and attempts beside them
    assert letter.topic == f"{REQUESTS}.intake.dlq"
    assert (letter.key, letter.value) == (b"key", b"\xff\x00")
    assert letter.headers == {
        "request-id": b"r-1",
        "dlq-code": b"prompt_too_long",
        "dlq-error": f"PromptTooLong: 5,000 characters [prompt_too_long] {PromptTooLong.default_hint}".encode(),
        "dlq-stage": b"intake",
        "dlq-topic": REQUESTS.encode(),
        "dlq-partition": b"3",
        "dlq-offset": b"41",
        "dlq-attempt": b"2",
    }


def test_a_dead_letter_of_an_unknown_error_has_a_code_and_bounded_headers():
    # given an error that is not ours, with a message that no header should hold; when put aside
    letter = dead_letter(record(), ValueError("\udcff" * 10_000), stage="route", attempt=1, names=NAMES)
    # then it has the code of all such, and its headers stay small
    assert letter.headers["dlq-code"] == b"internal_error"
    assert len(letter.headers["dlq-error"]) == 2000


@pytest.mark.parametrize(("key", "kept"), [(None, f"{REQUESTS}/3/41".encode()), (b"", b""), (b"key", b"key")])
def test_a_dead_letter_has_a_key_in_any_case(key, kept):
    # given a record with neither key nor value, which Kafka delivers and does not take; when put aside
    letter = dead_letter(
        Record(REQUESTS, 3, key, None, {}, 41), Undecodable("empty"), stage="i", attempt=1, names=NAMES
    )
    # then the place it came from is its key
    assert (letter.key, letter.value) == (kept, None)


def test_a_dead_letter_that_is_too_large_keeps_the_start_and_says_where_the_rest_is():
    # given a record of which key, value and headers are as large as they like; when its letter is cut short
    large = Record(REQUESTS, 3, b"k" * 10**6, b"v" * 10**7, {"note": b"n" * 10**6}, 41)
    letter = dead_letter(large, Undecodable("?"), stage="intake", attempt=1, names=NAMES)
    cut = cut_short(letter, large)
    # then what is left fits anywhere, and leads to the whole
    assert cut.value == b"v" * KEPT_OF_TOO_LARGE
    assert len(cut.value) + len(cut.key) + sum(map(len, cut.headers.values())) < 1_000_000
    assert cut.headers["dlq-cut-from"] == b"10000000"
    assert (cut.headers["dlq-topic"], cut.headers["dlq-partition"], cut.headers["dlq-offset"]) == (
        REQUESTS.encode(),
        b"3",
        b"41",
    )


def test_a_header_without_a_value_is_empty():
    # given what a consumer delivers where a header has no value; when read; then its failure can still be named
    message = SimpleNamespace(
        topic=REQUESTS,
        partition=3,
        offset=41,
        key=None,
        value=b"?",
        timestamp=1_500,
        headers=(("request-id", None), ("session", b"s")),
    )
    read = record_of(message)
    assert read.time_ms == record_of(SimpleNamespace(**{**vars(message), "timestamp": 1.5})).time_ms == 1_500
    assert read.headers == {"request-id": b"", "session": b"s"}
    assert failure(read) is None
    assert kind_of(read.headers) is None


# --- failures -----------------------------------------------------------------------------------------


def test_a_failure_is_named_by_the_headers_alone():
    # given undecodable bytes with ids in the headers; when they fail
    failed = failure(record(b"\xff", tenant=b"harbour", session=b"tour", request_id=b"r-1"))
    # then the desk learns whose request it was, what happened and where the submission came in
    assert (failed.tenant, failed.session, failed.request_id) == ("harbour", "tour", "r-1")
    assert (failed.fault.code, failed.fault.stage) == ("undecodable", "intake")
    assert failed.fault.hint
    assert (failed.origin.topic, failed.origin.partition, failed.origin.offset) == (REQUESTS, 3, 41)


def test_a_failure_is_named_by_what_can_be_read_of_the_body():
    # given a body with a wrong field and no headers; when it fails; then its ids are found, headers first
    body = orjson.dumps({"tenant": "harbour", "session": "tour", "request_id": "r-1", "prompt": 5})
    assert failure(record(body)).partition_key == "harbour\x1ftour"
    assert failure(record(body, request_id=b"r-2")).request_id == "r-2"


def test_a_failure_without_session_and_tenant_takes_the_defaults():
    # given a body that names its request only; when it fails; then it is keyed as intake would have keyed it
    failed = failure(record(b'{"request_id": "r-1"}'))
    assert (failed.tenant, failed.session) == ("default", "r-1")


@pytest.mark.parametrize("request_id", ["a\u00a0b", "é" * 128, "👩‍🚒", "a\u2028b", "a\x80b", " "])
def test_an_id_that_passes_validation_is_found_again(request_id):
    # given an unusual but valid id, in the headers or in the body; when the request fails; then it is named
    body = orjson.dumps({"request_id": request_id, "session": request_id})
    assert failure(record(body)).session == failure(record(body)).request_id == request_id
    named = failure(record(request_id=request_id.encode(), session=request_id.encode()))
    assert (named.session, named.request_id) == (request_id, request_id)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        None,
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 5000,
        b'{"request_id": 5}',
        b'{"request_id": ""}',
        b'{"request_id": ["r"]}',
        b'{"request_id": "a\\nb"}',
        b'{"request_id": "%s"}' % (b"x" * 129),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_names_no_request_has_no_failure(value):
    # given bytes that name no request; when they fail; then nobody is told (the dead letter is kept)
    assert failure(record(value, request_id=b"")) is None


@pytest.mark.parametrize("topic", ["feedback.submitted", "document.submitted", "rating.accepted"])
def test_nobody_waits_for_feedback_or_documents(topic):
    # given bad feedback, which names the request that it is about; when it fails; then that request does not
    bad = record(b'{"request_id": "r-1", "rating": 9}', topic=NAMES.topic(topic), request_id=b"r-1")
    assert failure(bad) is None


def test_a_stages_failure_has_no_origin():
    # given a record between two stages; when a stage gives up; then the desk finds it by its id alone
    failed = failure(record(request_id=b"r-1", topic="test.request.admitted.v1"), stage="retrieve")
    assert failed.origin is None


def test_a_failure_that_its_own_stage_reported_is_not_reported_again():
    # given a failure that the desk cannot handle; when another stage reported it; then the desk tells it once more
    told = [
        orjson.dumps({"request_id": "r-1", "session": "s", "fault": {"stage": name}}) for name in ("retrieve", "desk")
    ]
    topic = NAMES.topic("request.failed")
    again, round_for_ever = [failure(record(body, topic=topic), stage="desk") for body in told]
    assert again.fault.stage == "desk"
    # and when the desk did; then it would go round for ever
    assert round_for_ever is None


def test_an_unknown_error_tells_the_user_its_class_only():
    # given an error that is not ours; when a request fails of it; then its message stays inside
    failed = failure(record(request_id=b"r-1"), ValueError("/secret/path"), stage="route")
    assert failed.fault.code == "internal_error"
    assert failed.fault.message == "ValueError in stage route"
