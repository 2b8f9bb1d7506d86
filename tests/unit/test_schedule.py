"""The schedule of faults: a pure function of its plan, with every kind in it, and as many kills as planned."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.streams import fault_points
from ruvllm.streams.fault_points import FaultPoint
from ruvllm.streams.proof.schedule import BROKER, DEADLY, KINDS, ODDITIES, POINTS, Plan, lanes, step

TIMEOUT_S = 3.0
few = settings(max_examples=25)
plans = st.builds(Plan, seed=st.integers(0, 10_000), kills=st.integers(0, 200), workers=st.integers(1, 4))


def faults_of(plan):
    return [fault for lane in lanes(plan, session_timeout_s=TIMEOUT_S).values() for fault in lane]


@few
@given(plans)
def test_the_same_plan_gives_the_same_faults_and_oddities(plan):
    # given a plan; when its schedule is made twice; then it is the same, request by request too
    assert lanes(plan, session_timeout_s=TIMEOUT_S) == lanes(plan, session_timeout_s=TIMEOUT_S)
    assert [step(plan, n) for n in range(30)] == [step(plan, n) for n in range(30)]


def test_another_seed_gives_other_faults_and_oddities():
    # given two seeds; when scheduled; then they differ
    one, other = Plan(seed=1), Plan(seed=2)
    assert lanes(one, session_timeout_s=TIMEOUT_S) != lanes(other, session_timeout_s=TIMEOUT_S)
    assert [step(one, n) for n in range(30)] != [step(other, n) for n in range(30)]


@few
@given(plans.filter(lambda plan: plan.kills >= 12))
def test_as_many_kills_as_planned_and_one_of_each_kind_at_least(plan):
    # given a plan of a dozen kills or more; when scheduled; then there are as many, and no kind is missing
    counts = Counter(fault.kind for fault in faults_of(plan))
    assert sum(counts[kind] for kind in DEADLY) == plan.kills
    assert set(counts) == set(KINDS)


def test_every_fault_point_gets_its_turn():
    # given forty kills; when scheduled; then some worker dies at each point that its process comes to
    found = {
        (name.partition("-")[0], fault.point)
        for name, lane in lanes(Plan(kills=40), session_timeout_s=TIMEOUT_S).items()
        for fault in lane
        if fault.kind == "aimed"
    }
    assert found == {(process, point) for process, points in POINTS.items() for point in points}
    assert {point for _, point in found} == set(fault_points.POINTS)


@few
@given(plans)
def test_what_is_armed_is_what_a_worker_understands(plan):
    # given any schedule; when its aimed faults are read as a worker does; then each is a fault
    for fault in faults_of(plan):
        if fault.armed is not None:
            assert FaultPoint(fault.armed).point in fault_points.POINTS


@few
@given(plans)
def test_zombies_sleep_longer_than_a_session_and_pauses_do_not(plan):
    # given any schedule; when looked at; then zombies and freezes outlast the session, and pauses end in it
    for fault in faults_of(plan):
        if fault.kind in ("zombie", "freeze"):
            assert fault.lasts_s > TIMEOUT_S
        if fault.kind == "pause":
            assert 0 < fault.lasts_s < TIMEOUT_S


@pytest.mark.parametrize("kind", KINDS)
def test_only_one_kind(kind):
    # given a plan of one kind; when scheduled; then there is nothing else, and no request is odd
    plan = replace(Plan(kills=10), only=frozenset({kind}))
    assert {fault.kind for fault in faults_of(plan)} == {kind}
    assert set(lanes(plan, session_timeout_s=TIMEOUT_S)) == {BROKER} or kind not in ("broker-restart", "broker-kill")
    steps = [step(plan, n) for n in range(200)]
    assert all(s.skew_s == 0 and s.again_after is None and not s.early and not s.poison for s in steps)


def test_every_oddity_comes_up():
    # given a run of five hundred requests; when looked at; then each oddity is among them
    steps = [step(Plan(), n) for n in range(500)]
    assert any(s.skew_s for s in steps) and any(s.again_after for s in steps) and any(s.early for s in steps)
    assert len({s.poison for s in steps}) == 7
    assert any(s.poison_feedback for s in steps)
    assert set(ODDITIES) <= Plan().only
