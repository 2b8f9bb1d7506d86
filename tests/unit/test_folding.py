"""Folding in batches: the same memory, and the same left out, as one by one, however the log is cut."""

import base64

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.agents.memory_fold import CHANGES, fold
from ruvllm.errors import RuvllmError
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.vector import decode_vector, decode_vectors, encode_vector
from ruvllm.schemas.wire import decode, decode_all, kind_of
from ruvllm.streams import folding
from ruvllm.streams.folding import fold_records
from ruvllm.streams.guard import read
from ruvllm.streams.records import Record

WIDE = 8
UNIT = np.eye(WIDE, dtype=np.float32)
BEFORE = {"tenant": "t", "time": "2026-11-21T10:00:00+00:00", "change_id": "c"}
WRONG = {
    "vector": [
        encode_vector(UNIT[0][:5]),
        encode_vector(np.full(WIDE, np.nan, np.float32)),
        encode_vector(2 * UNIT[0]),
        encode_vector(UNIT[0])[:-1],
        encode_vector(UNIT[0]).rstrip("="),
        base64.urlsafe_b64encode(np.full(WIDE, -1e-20, np.float32).tobytes()).decode(),
        "not base64",
        7,
        None,
        [[1.0]],
    ],
    "weight": [1.0, -0.1, "heavy", 1e999],
    "relation": ["likes", None],
    "tenant": ["", "x" * 129, "a\nb", 3],
    "time": ["yesterday", "2026-11-21T10:00:00", "2026-W47-6T10:00:00+00:00"],
    "version": [2, 0, "2", 2.0],
    "outcomes": [2, "one"],
    "embedder": ["another"],
}


def body(kind, ids, step):
    """A change of one kind; `ids` choose which node or edge it is about."""
    one, other = ids
    fields = {**BEFORE, "kind": f"memory.{kind}", "time": f"2026-11-21T10:00:{step % 60:02d}.5+00:00"}
    ends = {"source": f"n{one}", "target": f"n{other}", "relation": "co_retrieved"}
    return (
        fields
        | {
            "node_added": {
                "node_id": f"n{one}",
                "title": "T",
                "text": f"text {other}",
                "embedder": "e",
                "vector": encode_vector(UNIT[other % WIDE]),
                "made_by": "" if one % 2 else f"i{other}",
            },
            "node_removed": {"node_id": f"n{one}", "reason": "r"},
            "node_retracted": {"node_id": f"n{one}", "made_by": f"i{other}", "reason": "r"},
            "edge_added": {"edge_id": f"e{one}", "weight": 0.1 * (other % 9), **ends},
            "edge_removed": {"edge_id": f"e{one}", "reason": "r"},
            "edge_contributed": {
                "edge_id": f"e{one}",
                "made_by": "i",
                "client": f"c{other % 3}",
                "amount": 0.3 - 0.1 * other,
                "outcomes": 1,
                **ends,
            },
            "edge_pruned": {"edge_id": f"e{one}", "reason": "r"},
        }[kind]
    )


KINDS = [
    "node_added",
    "edge_contributed",
    "node_removed",
    "node_retracted",
    "edge_added",
    "edge_removed",
    "edge_pruned",
]
small = st.integers(0, 4)
harm = st.sampled_from([None] * 12 + [(name, value) for name, values in WRONG.items() for value in values])
changes = st.lists(st.tuples(st.sampled_from(KINDS), st.tuples(small, small), harm, st.booleans()), max_size=40)


def records_of(given):
    records = []
    for step, (kind, ids, wrong, twice) in enumerate(given):
        fields = body(kind, ids, step)
        if wrong is not None:
            fields[wrong[0]] = wrong[1]
        record = Record("memory.changed", ids[0] % 2, None, orjson.dumps(fields), {}, step)
        records += [record] * (1 + twice)
    return records


def one_by_one(memory, records):
    left_out = []
    for record in records:
        try:
            fold(memory, read(record, CHANGES), record.offset)
        except RuvllmError as error:
            left_out.append(f"partition {record.partition}, offset {record.offset}: {error}")
    return left_out


def found(memory, vector):
    return [(hit.node.record(), hit.similarity) for hit in memory.search("t", vector, 9)]


@given(changes, st.integers(1, 9), st.integers(0, 40))
@settings(derandomize=True, deadline=None, max_examples=80)
def test_batches_fold_to_what_one_by_one_does(given, at_once, cut):
    # given changes of all kinds, some wrong, some twice; when folded one by one, and in batches with a stop between
    records, alone, together = records_of(given), Memory("e", WIDE), Memory("e", WIDE)
    expected = one_by_one(alone, records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding, "READ_AT_ONCE", at_once)
        left_out = fold_records(together, records[:cut]) + fold_records(together, records[cut:])
    # then memory is the same to the bit, and so is what was left out, word by word
    assert together.contents().edges == alone.contents().edges
    assert together.digest() == alone.digest()
    assert left_out == expected
    for vector in UNIT:
        assert found(together, vector) == found(alone, vector)


@pytest.mark.parametrize(
    ("field", "value"), [(f, v) for f, vs in WRONG.items() for v in vs], ids=lambda x: repr(x)[:20]
)
def test_one_that_is_wrong_is_named_and_spoils_no_other(field, value):
    # given a change that is wrong among good ones of every kind; when decoded together
    good = [orjson.dumps(body(kind, (1, 2), 3)) for kind in KINDS]
    bad = [orjson.dumps(body(kind, (1, 2), 3) | {field: value}) for kind in KINDS]
    found = decode_all(CHANGES, [(raw, None) for raw in [*good, *bad, *good]])
    # then each is what it is alone
    for raw, event in zip([*good, *bad, *good], found, strict=True):
        try:
            alone = decode(CHANGES, raw)
        except RuvllmError as error:
            assert (type(event), str(event)) == (type(error), str(error))
        else:
            assert event.model_dump() == alone.model_dump()


def test_records_that_are_no_events_are_named_in_their_places():
    given = [b"", None, b"[]", b'{"kind": "no.such"}', b'{"kind": 5}', b'{"kind": ["memory.edge_removed"]}']
    found = decode_all(CHANGES, [(raw, None) for raw in given])
    for raw, error in zip(given, found, strict=True):
        with pytest.raises(RuvllmError) as alone:
            decode(CHANGES, raw)
        assert str(error) == str(alone.value)


@given(
    st.lists(st.binary(max_size=24).map(lambda raw: base64.b64encode(raw).decode()) | st.text(max_size=8), max_size=5)
)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_vectors_are_read_together_as_alone_or_not_at_all(texts):
    # given texts, most of them base64; when read together; then as each is alone, and None only if one is not plain
    together = decode_vectors(texts)
    if together is not None:
        assert [v.tobytes() for v in together] == [decode_vector(text).tobytes() for text in texts]
    elif texts:
        assert any(not _is_plain(text) for text in texts)


def _is_plain(text):
    try:
        return base64.b64encode(decode_vector(text).tobytes()).decode() == text
    except ValueError:
        return False


def test_the_kind_in_a_header_is_read_whoever_wrote_it():
    assert kind_of({"ce_type": b"ruvllm.memory.node_added.v1"}) == "memory.node_added"
    assert kind_of({"ce_type": b"ruvllm.memory.node_added.v9"}) == "memory.node_added"
    assert kind_of({"ce_type": b"other.memory.node_added.v1"}) is kind_of({}) is None
