"""Events as bytes: nothing is lost on the way, and whatever comes in is read or refused with a known error."""

import base64
import os
import struct
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.errors import InvalidRequest, Undecodable, UnsupportedVersion
from ruvllm.schemas.flow import Admitted, Generated, Retrieved, SessionState, Turn
from ruvllm.schemas.memory import NodeAdded
from ruvllm.schemas.request import Ask, Rate, Response
from ruvllm.schemas.vector import decode_vector
from ruvllm.schemas.wire import EVENTS, decode, encode, event_id, headers, kind_of
from tests.unit.event_strategies import events
from tests.unit.sample_events import BY_KIND, SAMPLES, TIME, VECTOR

SNAPSHOTS = Path(__file__).parent / "snapshots"
KINDS = [pytest.param(cls, id=cls.kind) for cls in EVENTS]


def content(event):
    """Everything in an event; vectors are base64 there, so equal content is equal bit for bit."""
    return type(event), event.model_dump()


def refusal(raw, *kinds, kind=None):
    with pytest.raises(InvalidRequest) as caught:
        decode(kinds or (Ask,), raw, kind)
    return caught.value


# --- round trip ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", KINDS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_event_comes_back_as_it_was(cls, data):
    # given any event; when it is written and read, with its kind from the body or from a header
    event = data.draw(events(cls))
    raw = encode(event)
    # then it is the same
    assert content(decode(EVENTS, raw)) == content(event)
    assert content(decode((cls,), raw, cls.kind)) == content(event)


def test_vectors_come_back_bit_for_bit():
    # given the floats that text would spoil: negative zero, a subnormal, the largest, infinity
    vector = np.array([-0.0, 1e-45, 3.4028235e38, np.inf, 0.1], dtype=np.float32)
    node = BY_KIND["memory.node_added"].model_copy(update={"vector": vector})
    # when written and read; then the bytes are the same, and nobody can change what was read
    read = decode((NodeAdded,), encode(node)).vector
    assert read.tobytes() == vector.tobytes()
    assert read.dtype == np.dtype("<f4")
    with pytest.raises(ValueError, match="read-only"):
        read[0] = 1


def test_a_vector_copies_what_it_is_made_from():
    # given an array of the caller's; when it changes afterwards; then the event's does not, and cannot be changed
    mine = np.ones(3, np.float32)
    vector = decode_vector(mine)
    mine[0] = 7
    assert vector.tolist() == [1, 1, 1]
    assert not vector.flags.writeable


def test_absent_fields_take_their_defaults_and_none_is_not_written():
    # given a request with nothing but its prompt; when written
    body = orjson.loads(encode(Ask(request_id="r", prompt="Who?")))
    # then what is None is left out, and a body of the prompt alone can be read
    assert "reply_to" not in body and "time" not in body
    assert decode((Ask,), b'{"prompt": "Who?"}').constraints == Ask(prompt="Who?").constraints


# --- versions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", KINDS)
def test_snapshot_of_each_version_can_be_read(cls):
    # given the bytes that version 1 wrote; UPDATE_SNAPSHOTS=1 adds those of a new kind, and changes none
    file = SNAPSHOTS / f"{cls.kind}.v1.json"
    if os.environ.get("UPDATE_SNAPSHOTS") and not file.exists():
        file.write_bytes(encode(BY_KIND[cls.kind]) + b"\n")
    # when read today; then they say what was meant
    assert content(decode(EVENTS, file.read_bytes())) == content(BY_KIND[cls.kind])


def test_every_kind_has_a_sample_that_gives_every_field_and_no_snapshot_is_left_over():
    # given the samples behind the snapshots; then none is missing and each says all that its kind can say
    assert [type(s) for s in SAMPLES] == list(EVENTS)
    silent = [(s.kind, name) for s in SAMPLES for name in type(s).model_fields if name not in s.model_fields_set]
    assert {name for _, name in silent} <= {"version", "record"}
    assert sorted(f.name for f in SNAPSHOTS.iterdir()) == sorted(f"{cls.kind}.v1.json" for cls in EVENTS)


@pytest.mark.parametrize("cls", KINDS)
def test_unknown_fields_are_ignored(cls):
    # given a newer writer's fields, at the top and within; when read; then they change nothing
    body = orjson.loads(encode(BY_KIND[cls.kind])) | {"mood": "calm", "extra": {"deep": [1]}}
    for part in ("constraints", "request", "retrieval", "route", "generation", "usage", "fault", "response"):
        if part in body:
            body[part]["mood"] = "calm"
    assert content(decode((cls,), orjson.dumps(body))) == content(BY_KIND[cls.kind])


@pytest.mark.parametrize("version", ["2", '"2"', "2.0", "99", "9223372036854775807"])
def test_a_newer_version_is_refused(version):
    # given a version that this reader does not know, however it is written; when read; then it says so
    error = refusal(b'{"kind": "request.submitted", "prompt": "x", "version": %s}' % version.encode())
    assert isinstance(error, UnsupportedVersion)
    assert "request.submitted" in error.message


def test_a_newer_version_is_named_before_its_fields_are_judged():
    # given version 2 with fields that version 1 would refuse; when read; then the version is the reason
    assert isinstance(refusal(b'{"version": 2, "prompt": {"parts": []}}'), UnsupportedVersion)


# --- garbage ------------------------------------------------------------------------------------------


NO_OBJECTS = {
    "nothing": None,
    "empty": b"",
    "blank": b" ",
    "words": b"not json",
    "binary": b"\xff\xfe\x00",
    "a list": b"[1, 2]",
    "a text": b'"text"',
    "a number": b"5",
    "null": b"null",
    "true": b"true",
    "NaN": b'{"prompt": NaN}',
    "infinity": b'{"prompt": 1e999}',
    "cut": b'{"prompt": "x"',
    "too deep": b'{"prompt": ' + b"[" * 100_000,
    "half a surrogate pair": b'{"prompt": "\\ud800"}',
    "latin-1": '{"prompt": "é"}'.encode("latin-1"),
}


@pytest.mark.parametrize("raw", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_what_is_no_json_object_is_undecodable(raw):
    # given bytes that are no JSON object; when read; then that is what is said
    assert isinstance(refusal(raw), Undecodable)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ('{"request_id": ""}', "request_id"),
        ('{"request_id": "a\\nb"}', "request_id"),
        ('{"request_id": 7}', "request_id"),
        ('{"prompt": ["x"]}', "prompt"),
        ('{"prompt": ' + "[" * 1020 + "]" * 1020 + "}", "prompt"),
        ('{"tenant": null}', "tenant"),
        ('{"version": 0}', "version"),
        ('{"version": 1e30}', "version"),
        ('{"version": 99999999999999999999999}', "version"),
        ('{"time": "yesterday"}', "time"),
        ('{"time": "2031-05-17T09:00:00"}', "time"),
        ('{"time": "0001-01-01T00:00:00+14:00"}', "time"),
        ('{"time": "9999-12-31T23:00:00-14:00"}', "time"),
        ('{"time": 1e300}', "time"),
        ('{"constraints": {"temperature": "NaN"}}', "constraints.temperature"),
        ('{"constraints": {"seed": -1}}', "constraints.seed"),
        ('{"constraints": {"seed": 99999999999999999999999}}', "constraints.seed"),
        ('{"constraints": {"max_tokens": 0}}', "constraints.max_tokens"),
        ('{"constraints": {"allowed_tiers": []}}', "constraints.allowed_tiers"),
        ('{"constraints": {"grounding": "sometimes"}}', "constraints.grounding"),
        ('{"messages": [{"role": "wizard", "content": "x"}]}', "messages.0.role"),
        ('{"messages": [{"role": "user"}]}', "messages.0.content"),
        ('{"messages": "x"}', "messages"),
    ],
    ids=lambda text: text[:50],
)
def test_a_wrong_field_is_named(body, names):
    # given a field that does not fit; when read; then the error names it and stays short
    error = refusal(body.encode())
    assert f"field `{names}`" in error.message
    assert error.code == "invalid_request"
    assert len(error.message) < 400


def test_a_missing_field_is_named():
    # given feedback on nothing, and feedback without a verdict; when read; then the error says which is missing
    assert "field `request_id`: Field required" in refusal(b'{"rating": 5}', Rate).message
    assert "needs one of rating, score, passed, correction" in refusal(b'{"request_id": "r"}', Rate).message


@pytest.mark.parametrize("vector", ["!", "AAAA", {"a": 1}, [{}], [[1.0]], 5, None, True, [["a"], [1, 2]], ["x"]])
def test_what_is_no_vector_is_refused(vector):
    # given something else in a vector's place; when read; then the field is named
    body = orjson.loads(encode(BY_KIND["memory.node_added"])) | {"vector": vector}
    assert "field `vector`" in refusal(orjson.dumps(body), NodeAdded).message


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (None, {"kind": "request.lost"}),
        (None, {"kind": ["request.submitted"]}),
        (None, {"kind": 5}),
        (None, {}),
        ("request.lost", {"kind": "request.submitted"}),
        ("turn.accepted", {}),
    ],
)
def test_an_unknown_kind_is_refused_with_those_that_are_known(kind, body):
    # given a kind that is none of those expected (the header's counts before the body's); when read
    error = refusal(orjson.dumps({"request_id": "r", "prompt": "x", "rating": 5, **body}), Ask, Rate, kind=kind)
    # then the error says what was expected
    assert "expected one of: request.submitted, feedback.submitted" in error.message


def test_a_kind_of_any_depth_is_refused():
    # given a kind nested as deep as the parser allows; when read; then it is refused like any other
    assert "kind" in refusal(b'{"kind": ' + b"[" * 1020 + b"]" * 1020 + b"}", Ask, Rate).message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(raw=st.binary(max_size=64), cls=st.sampled_from(EVENTS))
def test_no_bytes_raise_anything_else(raw, cls):
    # given any bytes; when read; then they are an event or an error of InvalidRequest's family
    try:
        decode((cls,), raw)
    except InvalidRequest as error:
        assert error.message and error.hint


@settings(max_examples=250, deadline=None, derandomize=True)
@given(data=st.data(), cls=st.sampled_from(EVENTS))
def test_no_fields_raise_anything_else(data, cls):
    # given a sound event of which some fields hold any JSON at all; when read
    names = sorted({*cls.model_fields, "kind", "version"})
    damage = data.draw(st.dictionaries(st.sampled_from(names), JSON, min_size=1, max_size=3))
    raw = orjson.dumps({**orjson.loads(encode(BY_KIND[cls.kind])), **damage})
    # then it is an event that can be written again, or an error of InvalidRequest's family
    try:
        event = decode((cls,), raw)
    except InvalidRequest as error:
        assert error.message and error.hint
    else:
        assert content(decode((cls,), encode(event))) == content(event)


# --- headers ------------------------------------------------------------------------------------------


def test_headers_are_cloudevents_and_carry_the_ids():
    # given a turn caused by a record with a trace; when its headers are made
    turn = BY_KIND["turn.accepted"]
    found = dict(headers(turn, source="answer-1", parent={"traceparent": b"00-ab-cd-01", "ce_id": b"other"}))
    # then who, what and when can be read without its body
    assert found == {
        "ce_specversion": b"1.0",
        "ce_id": event_id(turn).encode(),
        "ce_type": b"ruvllm.turn.accepted.v1",
        "ce_source": b"answer-1",
        "ce_time": TIME.isoformat().encode(),
        "ce_subject": b"tour",
        "content-type": b"application/json",
        "tenant": b"harbour",
        "session": b"tour",
        "request-id": b"r-1",
        "correlation-id": b"r-1",
        "traceparent": b"00-ab-cd-01",
    }


def test_headers_leave_out_what_an_event_does_not_have():
    # given events without a time, or without a request; when their headers are made; then those are left out
    assert "ce_time" not in dict(headers(Ask(prompt="x"), source="s"))
    assert {"session", "request-id"}.isdisjoint(dict(headers(BY_KIND["memory.node_added"], source="s")))


@pytest.mark.parametrize("cls", KINDS)
def test_kind_can_be_read_from_the_headers(cls):
    # given the headers of any event; when asked for the kind; then it is the event's
    assert kind_of(dict(headers(BY_KIND[cls.kind], source="s"))) == cls.kind


@pytest.mark.parametrize("raw", [None, b"", b"com.example.thing", b"ruvllm.v1", b"ruvllm.turn.accepted", b"\xff\xfe"])
def test_a_foreign_type_has_no_kind(raw):
    # given headers of another program's events, or none; when asked for the kind; then there is none
    assert kind_of({} if raw is None else {"ce_type": raw}) is None


def test_event_ids_name_events():
    # given all samples; when their ids are made twice; then each has one of its own, always the same
    ids = [event_id(e) for e in SAMPLES]
    assert len(set(ids)) == len(ids)
    assert ids == [event_id(decode(EVENTS, encode(e))) for e in SAMPLES]


def test_two_requests_of_one_moment_in_one_session_have_two_event_ids():
    # given two questions asked at once in one session; when their ids are made; then they differ
    first, second = (Ask(request_id=i, session="tour", time=TIME, prompt="x") for i in ("r-1", "r-2"))
    assert event_id(first) != event_id(second)


# --- keys and values ----------------------------------------------------------------------------------


def test_events_of_one_session_share_a_partition_key_and_others_do_not():
    # given one session's events on their way, and the same session of another tenant; when keyed
    on_the_way = [BY_KIND[c.kind] for c in (Ask, Turn, Admitted, Retrieved, Generated, Response, SessionState)]
    # then the former meet on one partition
    assert {e.partition_key for e in on_the_way} == {"harbour\x1ftour"}
    stranger = BY_KIND["turn.accepted"].model_copy(update={"tenant": "harbou", "session": "rtour"})
    assert stranger.partition_key != BY_KIND["turn.accepted"].partition_key


def test_a_request_without_a_session_is_keyed_by_its_id():
    # given a request, and feedback on it, without a session; when keyed; then they meet
    ask, rate = Ask(request_id="r-1", prompt="x"), Rate(request_id="r-1", rating=5)
    assert ask.partition_key == rate.partition_key == "default\x1fr-1"


def test_vector_in_an_event_is_little_endian_base64():
    # given a vector; when written; then other languages can read it: base64 of little-endian float32
    written = orjson.loads(encode(BY_KIND["memory.node_added"]))["vector"]
    assert struct.unpack("<4f", base64.b64decode(written)) == tuple(VECTOR.tolist())
