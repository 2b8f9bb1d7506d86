"""What a route is worth: bounds first, then quality less cost and waiting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruvllm.models.router.objective import Objective

# Sixty-fourths: exact in binary, so that what is equal in the formula is equal in the machine.
SHARE = st.integers(0, 64).map(lambda n: n / 64)
WEIGHT = st.integers(0, 128).map(lambda n: n / 64)
SECONDS = st.integers(0, 640).map(lambda n: n / 64)
OBJECTIVE = st.builds(Objective, WEIGHT, WEIGHT, SHARE, st.none() | st.integers(1, 4).map(float))


def kept(objective, quality, latency_s):
    return quality >= objective.minimum_quality and (objective.sla_s is None or latency_s <= objective.sla_s)


@given(OBJECTIVE, st.tuples(SHARE, SHARE, SECONDS), st.tuples(SHARE, SHARE, SECONDS))
def test_what_keeps_both_bounds_is_before_what_does_not(objective, one, other):
    # given two routes of which the first alone keeps the bounds; when scored; then it is better, whatever it costs
    for good, bad in ((one, other), (other, one)):
        if kept(objective, good[0], good[2]) and not kept(objective, bad[0], bad[2]):
            assert objective.score(*good) > objective.score(*bad)
    # and nothing is missed exactly where both are kept
    assert (objective.score(*one)[0] == 0) == kept(objective, one[0], one[2])


@given(OBJECTIVE, SHARE, SHARE, SHARE, SECONDS)
def test_a_greater_quality_never_scores_worse(objective, one, other, cost, latency_s):
    # given two qualities at the same cost and waiting; when scored; then the greater is not worse
    low, high = sorted((one, other))
    assert objective.score(high, cost, latency_s) >= objective.score(low, cost, latency_s)


@given(OBJECTIVE, SHARE, st.tuples(SHARE, SECONDS), st.tuples(SHARE, SECONDS))
def test_more_cost_or_more_waiting_never_scores_better(objective, quality, one, other):
    # given two routes of one quality, of which the second costs no less and takes no less; then it is not better
    if other[0] >= one[0] and other[1] >= one[1]:
        assert objective.score(quality, *other) <= objective.score(quality, *one)


@given(
    OBJECTIVE,
    st.integers(1, 5).flatmap(
        lambda arms: st.tuples(
            st.lists(st.lists(SHARE, min_size=arms, max_size=arms), min_size=1, max_size=4),
            st.lists(SHARE, min_size=arms, max_size=arms),
        )
    ),
)
def test_the_best_arm_is_the_one_that_scores_best_where_nobody_waits(objective, given_arms):
    # given qualities of arms for some requests, and what arms cost; when the best is asked for
    quality, cost = np.array(given_arms[0]), np.array(given_arms[1])
    found = objective.best(quality, cost)
    # then no arm of any row scores better, with costs told once or by row
    for row, arm in enumerate(found):
        scores = [objective.score(q, c, 0.0) for q, c in zip(quality[row], cost, strict=True)]
        assert scores[arm] == max(scores)
    np.testing.assert_array_equal(objective.best(quality, np.tile(cost, (len(quality), 1))), found)


def test_the_value_is_the_formula_s():
    # given weights; when a route is scored that takes twice the SLA; then it is the formula's
    objective = Objective(cost_weight=0.5, latency_weight=0.25, minimum_quality=0.75, sla_s=2.0)
    missed, value = objective.score(0.5, 0.5, 4.0)
    assert missed == pytest.approx(-(0.25 + 1.0))
    assert value == pytest.approx(0.5 - 0.25 - 0.25)
    # and without an SLA nobody is late
    assert Objective(latency_weight=1.0).score(0.5, 1.0, 1e6) == (0.0, 0.5)


def test_where_no_route_keeps_the_bounds_the_nearest_is_taken():
    # given a bound that no arm reaches, and a dear arm that comes nearest; then that is the best
    objective = Objective(cost_weight=1.0, minimum_quality=0.9)
    assert objective.best(np.array([[0.2, 0.5, 0.8]]), np.array([0.0, 0.1, 1.0])).tolist() == [2]
    # and where two reach it, the cheaper one
    assert objective.best(np.array([[0.2, 0.9, 1.0]]), np.array([0.0, 0.1, 1.0])).tolist() == [1]
