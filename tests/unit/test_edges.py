"""Learnt edges: a sum of outcomes in any order, bounded by client, that can be taken back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruvllm.models.memory.edge_strength import CLIENT_BOUND
from ruvllm.models.memory.edges import Edges
from ruvllm.models.memory.node import Edge

DAY = 86_400.0
HALF_LIFE = 30 * DAY
NOW = 1_000 * DAY
KNOWN = {"a", "b"}


def edge(applied=-1):
    return Edge("e", "default", "a", "b", "co_retrieved", applied=applied)


def learnt(contributions):
    """Edges after (client, amount, at[, outcomes[, evidence]]) contributions, in this order."""
    edges = Edges(HALF_LIFE)
    for client, amount, at, *facts in contributions:
        edges.contribute(edge(), client, amount, at, *(facts or (1,)))
    return edges


def weight(edges, now=NOW):
    return edges.weight(edges.get("e"), now)


def test_one_outcome_makes_an_edge_and_another_strengthens_it():
    # given nothing; when two clients' outcomes contribute; then the weight follows from their sum
    first = learnt([("x", math.log(2), NOW)])
    both = learnt([("x", math.log(2), NOW), ("y", math.log(2), NOW)])
    assert weight(first) == pytest.approx(0.5)
    assert weight(both) == pytest.approx(0.75)


def test_what_was_learnt_halves_in_a_half_life_and_what_a_text_states_does_not():
    # given an edge that a text states and an outcome strengthened; when a half-life passes
    edges = Edges(HALF_LIFE)
    edges.put(Edge("e", "default", "a", "b", "follows", 0.5, NOW))
    edges.contribute(Edge("e", "default", "a", "b", "follows"), "x", 1.0, NOW, 1)
    # then half of what was learnt is left, and all that is stated
    assert weight(edges) == pytest.approx(1 - math.exp(-(math.log(2) + 1.0)))
    assert weight(edges, NOW + HALF_LIFE) == pytest.approx(1 - math.exp(-(math.log(2) + 0.5)))


CONTRIBUTIONS = st.lists(
    st.tuples(st.sampled_from(["", "x", "y"]), st.floats(-1, 1), st.floats(NOW - 100 * DAY, NOW)),
    min_size=1,
    max_size=8,
)


@given(CONTRIBUTIONS, st.randoms(use_true_random=False))
def test_any_order_of_contributions_gives_the_same_weight(contributions, draws):
    # given contributions of several clients and times; when they come in another order; then the weight is the same
    shuffled = draws.sample(contributions, len(contributions))
    assert weight(learnt(shuffled)) == pytest.approx(weight(learnt(contributions)), abs=1e-9)


@given(CONTRIBUTIONS, st.tuples(st.just("x"), st.floats(-1, 1), st.floats(NOW - 100 * DAY, NOW)))
def test_what_is_taken_back_leaves_no_trace(contributions, mistaken):
    # given an outcome that was a mistake; when it is taken back; then the weight is as if it had not been
    client, amount, at = mistaken
    undone = learnt([*contributions, mistaken, (client, -amount, at, -1)])
    assert weight(undone) == pytest.approx(weight(learnt(contributions)), abs=1e-9)


@given(CONTRIBUTIONS, st.tuples(st.just("x"), st.floats(-1, 1), st.floats(NOW - 100 * DAY, NOW)), st.floats(-1, 1))
def test_a_revision_has_the_effect_of_the_difference(contributions, first, second):
    # given an outcome; when it is revised by the difference; then the weight is as if it had been so at once
    client, amount, at = first
    revision = (client, second - amount, at, 0, abs(second) - abs(amount))
    at_once = learnt([*contributions, (client, second, at)])
    assert weight(learnt([first, *contributions, revision])) == pytest.approx(weight(at_once), abs=1e-9)


def test_one_client_can_move_an_edge_so_far_and_no_further():
    # given a client that praises an edge a hundred times, and one that damns it as often; when weighed
    praised = learnt([("x", 1.0, NOW)] * 100)
    assert weight(praised) == pytest.approx(1 - math.exp(-CLIENT_BOUND))
    # then another client's word still counts
    assert weight(learnt([("x", -1.0, NOW)] * 100 + [("y", CLIENT_BOUND, NOW), ("z", 1.0, NOW)])) > 0.6


def test_a_client_that_was_heard_often_is_heard_still():
    # given fifty good outcomes of one client; when bad ones follow; then each of them tells, in proportion
    good = [("x", math.log(2), NOW)] * 50
    weights = [weight(learnt([*good, *[("x", -math.log(2), NOW)] * bad])) for bad in (0, 1, 5, 25, 50)]
    assert weights == pytest.approx([1 - math.exp(-CLIENT_BOUND * (50 - b) / (50 + b)) for b in (0, 1, 5, 25, 50)])
    # and time takes from the old ones: after two half-lives a quarter as many outweigh them
    later = NOW + 2 * HALF_LIFE
    assert weight(learnt([*good, *[("x", -math.log(2), later)] * 13]), later) == 0.0


@given(CONTRIBUTIONS, st.floats(0.01, 1))
def test_a_good_outcome_never_weakens_and_a_bad_one_never_strengthens(contributions, amount):
    # given an edge and what it has learnt; when one more outcome comes; then it tells its way or not at all
    before = weight(learnt(contributions))
    assert weight(learnt([*contributions, ("x", amount, NOW)])) >= before - 1e-9
    assert weight(learnt([*contributions, ("x", -amount, NOW)])) <= before + 1e-9


def test_what_was_logged_before_evidence_was_keeps_the_bound():
    # given a revision that says nothing of evidence, as version 1 began; when weighed; then no client goes further
    assert weight(learnt([("x", 0.1, NOW), ("x", 5.0, NOW, 0)])) == pytest.approx(1 - math.exp(-CLIENT_BOUND))


def test_a_contribution_that_is_delivered_again_changes_nothing():
    # given a contribution at offset 7; when it comes again, and an older one after it; then nothing changes
    edges = Edges(HALF_LIFE)
    for offset in (7, 7, 3):
        edges.contribute(edge(applied=offset), "x", math.log(2), NOW, 1)
    assert weight(edges) == pytest.approx(0.5)
    assert edges.get("e").outcomes == 1


def test_an_edge_that_its_outcomes_wore_out_leads_nowhere_and_comes_back_with_what_it_had():
    # given a stated edge and three bad outcomes; when looked at; then it is there and leads nowhere
    edges = Edges(HALF_LIFE)
    edges.put(Edge("e", "default", "a", "b", "follows", 0.5, NOW))
    for client in "xyz":
        edges.contribute(edge(), client, -0.4, NOW, 1)
    worn = edges.get("e")
    assert not edges.leads(worn, NOW)
    # and when it is pruned and then strengthened, it leads again
    edges.prune("default", "e", NOW)
    assert edges.pruned(edges.get("e"))
    edges.contribute(edge(), "w", 1.2, NOW, 1)
    assert edges.leads(edges.get("e"), NOW)
    assert weight(edges) == pytest.approx(1 - math.exp(-(math.log(2) - 1.2 + 1.2)))


def test_two_bad_outcomes_are_too_few_to_hide_an_edge():
    # given an edge with little weight after two outcomes; when looked at; then it still leads
    edges = learnt([("x", 0.02, NOW), ("y", 0.02, NOW)])
    assert edges.leads(edges.get("e"), NOW)


def test_a_birth_after_contributions_is_added_to_them():
    # given an edge that was learnt before its birth came; when born; then it has both strengths
    edges = learnt([("x", math.log(2), NOW)])
    edges.put(Edge("e", "default", "a", "b", "co_retrieved", 0.5, NOW))
    assert weight(edges) == pytest.approx(0.75)
    assert [e.edge_id for e in edges.at("a", KNOWN)] == ["e"]
