"""Whatever bytes come in: they are an event, or an error of InvalidRequest's family that names what is wrong."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.errors import InvalidRequest, Undecodable
from ruvllm.schemas.memory import NodeAdded
from ruvllm.schemas.request import Ask, Rate
from ruvllm.schemas.wire import EVENTS, decode, encode
from tests.unit.sample_events import BY_KIND, content


def refusal(raw, *kinds, kind=None):
    with pytest.raises(InvalidRequest) as caught:
        decode(kinds or (Ask,), raw, kind)
    return caught.value


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
    assert "needs one of rating, score, passed, expected, correction" in refusal(b'{"request_id": "r"}', Rate).message


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


@pytest.mark.parametrize("value", ["null", "7", "[1]", '"not base64"'])
def test_bytes_that_are_no_base64_are_refused(value):
    # given a checkpoint whose bytes are no text of base64; when read; then the field is named
    fields = orjson.loads(encode(BY_KIND["checkpoint.published"])) | {"parameters": orjson.loads(value)}
    assert "`parameters`" in str(refusal(orjson.dumps(fields), type(BY_KIND["checkpoint.published"])))
