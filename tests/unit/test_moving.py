"""Places of a log in those of its copy."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from ruvllm.streams.history.moving import Moved
from ruvllm.streams.records import Record
from ruvllm.streams.topology import Names

OLD, NEW = Names("old", ("small",), 2), Names("new", ("small",), 2)
KEPT = {
    "request.submitted": {0: np.array([0, 2, 3])},
    "document.submitted": {0: np.array([1, 5]), 1: np.array([2])},
    "outcome.judged": {1: np.array([4, 6, 9])},
    "memory.changed": {0: np.array([0, 3]), 1: np.array([1, 7, 8])},
    "training.recorded": {},
}


@pytest.fixture
def moved() -> Moved:
    return Moved(OLD, NEW, KEPT, {"outcome.judged": {1: 100}}, in_one_order=False)


def body(moved: Moved, name: str, given: object) -> object:
    return orjson.loads(moved.record(name, Record(OLD.topic(name), 0, b"k", orjson.dumps(given))).value or b"")


def test_a_place_counts_what_came_along(moved: Moved) -> None:
    # given offsets with gaps, one topic that starts at 100; when places are moved; then they are before the same record
    assert [moved.offset("outcome.judged", 1, at) for at in (0, 4, 5, 9, 10)] == [100, 100, 101, 102, 103]
    assert moved.end("outcome.judged", 1) == 103
    assert moved.moves["document.submitted"] == {0: -4, 1: -2}


def test_events_that_name_places_keep_their_meaning(moved: Moved) -> None:
    # given events that name offsets; when they are copied; then they name those of the same records
    run = {"run_id": "r", "offsets": {"outcome.judged": {"1": 7}}, "measures": {"x": 0.1}}
    assert body(moved, "training.recorded", run) == {**run, "offsets": {"outcome.judged": {"1": 102}}}
    assert body(moved, "document.state", {"handled": {"0": 6, "1": 2}}) == {"handled": {"0": 2, "1": 0}}
    asked = {"request": {"origin": {"topic": "old.request.submitted.v1", "partition": 0, "offset": 3}}}
    came = {"request": {"origin": {"topic": "new.request.submitted.v1", "partition": 0, "offset": 2}}}
    seen = {**asked, "retrieval": {"memory_offsets": {"0": 4, "1": 7}}}
    assert body(moved, "interaction.recorded", seen) == {**came, "retrieval": {"memory_offsets": {"0": 2, "1": 1}}}
    assert body(moved, "session.state", {"repeats": {"r": [asked["request"]["origin"]]}}) == {
        "repeats": {"r": [came["request"]["origin"]]}
    }


def test_what_names_no_place_keeps_its_bytes(moved: Moved) -> None:
    # given what a user wrote, an event without places, and what is no JSON; when copied; then the bytes are the same
    users = b'{"tags": {"offsets": "9"},  "origin": {"topic":"old.request.submitted.v1","partition":0,"offset":3}}'
    for name, value in (("request.submitted", users), ("interaction.recorded", b'{"a":  1}'), ("session.state", b"?")):
        assert moved.record(name, Record(OLD.topic(name), 0, b"k", value)).value == value


def test_a_moment_of_a_log_in_one_order_is_one_offset() -> None:
    # given a serial log's copy; when a moment of it is moved; then it is told in every partition
    moved = Moved(OLD, NEW, KEPT, {}, in_one_order=True)
    assert moved.moment("memory.changed", {"0": 8}) == {"0": 2, "1": 2}
