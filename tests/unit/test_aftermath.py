"""What is counted after a run of faults: it finds each harm, and nothing else."""

from collections import defaultdict
from datetime import UTC, datetime

import pytest

from ruvllm.schemas.request import Fault, Response
from ruvllm.streams.proof.aftermath import count_responses
from ruvllm.streams.proof.dead_letters import same_bytes, source_of
from ruvllm.streams.proof.fault_table import COLUMNS, as_markdown, summary
from ruvllm.streams.proof.load import HUGE_BYTES, Sent, poison
from ruvllm.streams.proof.outage import Course
from ruvllm.streams.proof.schedule import POISON
from ruvllm.streams.records import Record, cut_short, dead_letter
from ruvllm.streams.topology import Names

NOW = datetime(2026, 11, 21, tzinfo=UTC)
SOUND = {"lost": 0, "answered_twice": 0, "order_inversions": 0, "errors": 0, "findings": []}


def answer(request_id, *, session="s", repeated=False, code=None):
    fault = Fault(code=code, message="", hint="", stage="intake") if code else None
    return Response(
        session=session, request_id=request_id, time=NOW, interaction_id=request_id,
        finish_reason="stop", repeated=repeated, error=fault,
    )  # fmt: skip


def sent(*ids, again=(), refused=()):
    order = [("s", i) for i in ids]
    return Sent(order, defaultdict(int, {s: 1 + (s[1] in again) for s in order}), set(refused))


def test_one_response_for_each_id_is_sound():
    # given two requests, one of them sent twice; when each is answered and the second copy once more; then all is well
    assert count_responses([answer("a"), answer("b"), answer("a", repeated=True)], sent("a", "b", again="a")) == SOUND


@pytest.mark.parametrize(
    ("responses", "count"),
    [
        ([answer("a")], "lost"),
        ([answer("a"), answer("b"), answer("b")], "answered_twice"),
        ([answer("a"), answer("b"), answer("b", repeated=True)], "answered_twice"),
        ([answer("b"), answer("a")], "order_inversions"),
        ([answer("a"), answer("b", code="internal_error")], "errors"),
    ],
)
def test_each_harm_is_counted_once_and_said(responses, count):
    # given requests a and b; when answered like this; then this count is one, the others are none, and it is said
    found = count_responses(responses, sent("a", "b"))
    assert {n: v for n, v in found.items() if v and n != "findings"} == {count: 1}
    assert len(found["findings"]) == 1


def test_poison_that_names_a_request_is_to_be_refused_once():
    # given poison with an id; when refused; then that is no error; when not, it is lost
    wanted = sent("a", refused=[("p", "x")])
    assert count_responses([answer("a"), answer("x", session="p", code="undecodable")], wanted) == SOUND
    assert count_responses([answer("a")], wanted)["lost"] == 1


def test_a_dead_letter_has_the_bytes_and_the_place_of_its_record():
    # given each kind of poison; when its dead letter is made, cut if it must be; then it is recognised, others are not
    names = Names("t", ("small",), 4)
    for kind in POISON:
        record = Record("t.request.submitted.v1", 2, b"k", poison(kind, "p-1"), {}, 7)
        letter = dead_letter(record, ValueError("no"), stage="intake", attempt=1, names=names)
        assert source_of(letter) == ("t.request.submitted.v1", 2, 7)
        other = Record(record.topic, 2, b"k", poison(kind, "p-2"), {}, 8)
        for kept in (letter, cut_short(letter, record)):
            assert same_bytes(record, kept)
            assert not same_bytes(other, kept)
    assert len(poison("huge", "p-1")) == HUGE_BYTES


def test_many_runs_are_summed_in_report_and_table():
    # given two runs, one with a finding; when summed; then counts add up, the finding names its seed
    run = dict.fromkeys(COLUMNS, 1) | {"fold_equal": True, "findings": []}
    other = run | {"seed": 2, "kills": 39, "fold_equal": False, "findings": ["lost: 1"]}
    found = summary([run, other])
    assert (found["kills"], found["fold_equal"], found["findings"]) == (40, False, ["seed 2: lost: 1"])
    table = as_markdown([run, other]).splitlines()
    assert len(table) == 5 and table[-1].startswith("| all | 40 |") and "NO" in table[-1]


def test_an_outage_is_over_when_the_pace_is_back_and_later_its_backlog_is_gone():
    # given one request a second, an outage from 10 to 70, and answers again from 74 on, two a second
    sent = {("s", str(n)): float(n) for n in range(90)}
    answered = {s: at + 0.1 if at < 10 else 74 + (at - 10) / 2 for s, at in sent.items()}
    course = Course(10.0, 70.0, sent, answered)
    # when looked over; then it was normal 4 s after the return, and the last late answer came 43.5 s after it
    assert course.back_to_normal_s() == pytest.approx(4.0)
    assert course.backlog_gone_s() == pytest.approx(43.5)
    assert {row["second"]: row["answers"] for row in course.by_second()}[65] == 2
    assert Course(10.0, 70.0, sent, {}).back_to_normal_s() is None
    assert Course(10.0, 70.0, sent, {}).backlog_gone_s() is None
