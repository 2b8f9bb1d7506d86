"""Events as bytes: nothing is lost on the way, from version to version, and the headers say whose it is."""

import base64
import os
import struct
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.errors import UnsupportedVersion
from ruvllm.schemas.flow import Admitted, Generated, Retrieved, SessionState, Turn
from ruvllm.schemas.memory import NodeAdded
from ruvllm.schemas.request import Ask, Rate, Response
from ruvllm.schemas.vector import decode_vector
from ruvllm.schemas.wire import EVENTS, decode, encode, event_id, headers, kind_of
from tests.unit.event_strategies import events
from tests.unit.sample_events import BY_KIND, SAMPLES, TIME, VECTOR, content

SNAPSHOTS = Path(__file__).parent / "snapshots"
KINDS = [pytest.param(cls, id=cls.kind) for cls in EVENTS]


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
    body = b'{"kind": "request.submitted", "prompt": "x", "version": %s}' % version.encode()
    with pytest.raises(UnsupportedVersion, match=r"request\.submitted version"):
        decode((Ask,), body)


def test_a_newer_version_is_named_before_its_fields_are_judged():
    # given version 2 with fields that version 1 would refuse; when read; then the version is the reason
    with pytest.raises(UnsupportedVersion):
        decode((Ask,), b'{"version": 2, "prompt": {"parts": []}}')


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


def test_a_trace_goes_on_within_a_request_and_in_what_is_nobodys_but_not_in_another_request():
    # given the record of a request; when events are made because of it; then those of other requests have no part
    # in its trace: a turn that waited for it was not caused by it
    turn = BY_KIND["turn.accepted"]
    other = turn.model_copy(update={"request_id": "r-2"})
    cause = {**dict(headers(turn, source="s")), "traceparent": b"00-ab-cd-01"}
    assert "traceparent" in dict(headers(turn, source="s", parent=cause))
    assert "traceparent" not in dict(headers(other, source="s", parent=cause))
    assert "traceparent" in dict(headers(BY_KIND["memory.node_added"], source="s", parent=cause))
    # and nobody can make our records large by a header
    assert "traceparent" not in dict(headers(turn, source="s", parent={"traceparent": b"0" * 10_000}))


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
