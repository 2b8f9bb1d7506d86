"""What an operator sees of the router: the cost-quality curve, what each tier promises, and the way back."""

import dataclasses
import itertools

import numpy as np
import pytest

from ruvllm.agents.routers import Routers
from ruvllm.errors import InvalidRequest
from ruvllm.models.router.answer import Answer
from ruvllm.models.router.arms import Action, Arms
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.models.router.objective import Objective
from ruvllm.models.router.policy import Router
from ruvllm.schemas.training import CheckpointChosen, CheckpointPublished
from ruvllm.streams.router_tools import WEIGHTS, by_tier, curve, roll_back
from ruvllm.streams.settings import load_settings
from ruvllm.streams.wiring import Wiring
from tests.manual_clock import START, ManualClock
from tests.unit.sample_events import BY_KIND, ROUTE

TIERS = ("135m", "0.5b", "1.5b")
ARMS = Arms(TIERS, (2048,), (0.0,), (1.0,))
DEFAULT = Action("1.5b", 2048, 0.0, 1.0)
PRICES = (0.25, 0.5, 2.0)


def router(objective=None, *, threshold=0.0):
    """One that expects more of a larger tier, by how much hangs on the question."""
    draws = np.random.default_rng(1)
    first = Checkpoint.initial(ARMS, 1, PRICES)
    heads = np.zeros_like(first.parameters.heads)
    heads[: len(TIERS)] = 0.5 * draws.standard_normal((len(TIERS), heads.shape[1]))
    bias = np.zeros_like(first.parameters.head_bias)
    bias[: len(TIERS)] = (-0.5, 0.3, 1.0)
    learnt = Checkpoint(ARMS, dataclasses.replace(first.parameters, heads=heads, head_bias=bias))
    return Router(learnt, ARMS, DEFAULT, confidence_threshold=threshold, objective=objective)


def answers(count, *, permitted=ARMS, minimum_quality=None):
    draws = np.random.default_rng(2)
    return [
        Answer(
            session=f"s-{n}",
            features=draws.standard_normal(128).astype(np.float32),
            action=DEFAULT,
            permitted=permitted,
            minimum_quality=minimum_quality,
            propensity=1.0,
            explored=False,
            quality=0.5,
            latency_s=1.0,
            cost=1.0,
        )
        for n in range(count)
    ]


# --- the curve ------------------------------------------------------------------------------------


@pytest.mark.parametrize("minimum_quality", [None, 0.6])
def test_quality_and_cost_fall_or_stay_as_the_weight_of_cost_grows(minimum_quality):
    # given logged requests of different questions, with a bound on quality or without; when the curve is drawn
    points = curve(router(), answers(60, minimum_quality=minimum_quality))
    assert tuple(point.cost_weight for point in points) == WEIGHTS
    # then from weight to weight neither grows, and over all of them both fall
    for before, after in itertools.pairwise(points):
        assert after.quality <= before.quality + 1e-12
        assert after.cost <= before.cost + 1e-12
    assert points[-1].cost < 0.9 * points[0].cost
    assert points[-1].quality < points[0].quality
    # and shares are of all requests
    assert all(sum(point.shares.values()) == pytest.approx(1.0) for point in points)
    assert all(tuple(point.shares) == TIERS for point in points)


def test_the_ends_of_the_curve_are_the_best_and_the_cheapest():
    # given weights of nothing and of more than any quality; when the curve is drawn
    log = answers(40)
    free, dear = curve(router(), log, (0.0, 100.0))
    # then the one end has the best tier of each question, and the other the cheapest tier
    best = []
    for answer in log:
        logits = router().checkpoint.forward(answer.features).logits["tier"]
        best.append(TIERS[int(np.argmax(logits))])
    assert free.shares == {tier: best.count(tier) / 40 for tier in TIERS}
    assert dear.shares == {"135m": 1.0, "0.5b": 0.0, "1.5b": 0.0}
    assert dear.cost == pytest.approx(PRICES[0] / PRICES[-1])


def test_the_curve_keeps_to_what_was_permitted_and_to_the_asker_s_bound():
    # given requests that only two tiers were permitted to, and a weight that would take the cheapest
    narrow = dataclasses.replace(ARMS, tiers=("0.5b", "1.5b"))
    (point,) = curve(router(), answers(20, permitted=narrow), (100.0,))
    assert point.shares == {"135m": 0.0, "0.5b": 1.0, "1.5b": 0.0}
    # and with a bound that no tier reaches; then each has its best one, whatever it costs
    (bound,) = curve(router(), answers(20, minimum_quality=1.0), (100.0,))
    (free,) = curve(router(), answers(20), (0.0,))
    assert (bound.shares, bound.quality) == (free.shares, free.quality)


def test_the_curve_is_of_the_router_s_other_rules_and_leaves_it_as_it_is():
    # given a router with an objective of its own; when the curve is drawn
    given = router(Objective(cost_weight=0.1, minimum_quality=0.9))
    (point,) = curve(given, answers(20), (100.0,))
    # then its bound stays in force, only the weight of cost changes, and the router itself does not
    (loose,) = curve(router(), answers(20), (100.0,))
    assert point.quality > loose.quality
    assert given.objective == Objective(cost_weight=0.1, minimum_quality=0.9)
    # and where it is not sure of anything, it is the default at any weight
    assert [p.shares["1.5b"] for p in curve(router(threshold=0.5), answers(20))] == [1.0] * len(WEIGHTS)


def test_a_curve_over_nothing_is_an_error_that_says_what_to_do():
    # given a log without a judged answer; when the curve is asked for; then that is said
    with pytest.raises(InvalidRequest, match="no judged answer") as raised:
        curve(router(), [])
    assert "Ask a few questions" in raised.value.hint


# --- what each tier promises ----------------------------------------------------------------------


def routed(available):
    features = answers(1)[0].features
    route = ROUTE.model_copy(update={"features": features, "available_tiers": available})
    return BY_KIND["request.routed"].model_copy(update={"route": route})


def test_each_tier_that_is_served_is_told_with_what_is_expected_of_it():
    # given a decision among two of three tiers; when asked what each promises
    serving = router(Objective(cost_weight=100.0))
    decision = routed(("0.5b", "1.5b"))
    expected, preferred = by_tier(serving, decision)
    # then it is told of those, as the checkpoint has it, and the preferred one is the decision without exploration
    assert tuple(expected) == ("0.5b", "1.5b")
    logits = serving.checkpoint.forward(decision.route.features).logits["tier"]
    for tier, found in expected.items():
        assert found.quality == pytest.approx(1 / (1 + np.exp(-logits[TIERS.index(tier)])))
        assert found.cost == pytest.approx(PRICES[TIERS.index(tier)] / PRICES[-1])
        assert found.latency_s == pytest.approx(1.0)
    taken = serving.decide(decision.route.features, None, available_tiers=("0.5b", "1.5b"), explore=False, seed=0)
    assert preferred.action == taken.action == Action("0.5b", 2048, 0.0, 1.0)
    # and under a threshold it is the default, which is said
    _, careful = by_tier(router(threshold=0.5), decision)
    assert (careful.action, careful.fallback) == (DEFAULT, True)


# --- the way back ---------------------------------------------------------------------------------


@pytest.fixture
def wiring(tmp_path):
    given = {"home": str(tmp_path), "profile": "small", "retrieval.embedder": "hashing"}
    return Wiring(load_settings(given, environ={}), ManualClock())


def history(*names):
    """Routers of a log in which these were published once and chosen in this order."""
    routers = Routers(router())
    facts = {"time": START, "learner": "router"}
    for name in dict.fromkeys(name for name in names if name is not None):
        routers.apply(CheckpointPublished(**facts, checkpoint=name, run_id="run", parameters=b"?"))
    for name in names:
        routers.apply(CheckpointChosen(**facts, checkpoint=name, reason="it passed"))
    return routers


@pytest.mark.parametrize(
    ("chosen", "target"),
    [
        (("a", "b"), "a"),
        (("a", "b", "c"), "b"),
        (("a",), None),  # before the first the untrained one was in force
        (("a", None, "b"), None),
        (("a", "b", "b"), "a"),  # chosen again: it is still the one in force
        (("a", "b", "a"), "b"),  # after a roll-back: what was rolled back from
    ],
)
def test_a_roll_back_is_to_the_one_in_force_before(wiring, chosen, target):
    # given what was in force, one after the other; when rolled back; then it is to the one before the present one
    found = roll_back(wiring, history(*chosen), None)
    assert (found.checkpoint, found.learner, found.time) == (target, "router", START)
    assert found.reason == f"rolled back from {chosen[-1]}"


def test_a_roll_back_may_name_any_that_was_published(wiring):
    # given three; when one of them is named; then it is that one, and from the untrained one as well
    assert roll_back(wiring, history("a", "b", "c"), "a").checkpoint == "a"
    forward = roll_back(wiring, history("a", None), "a")
    assert (forward.checkpoint, forward.reason) == ("a", "rolled back from the untrained one")


def test_a_roll_back_to_what_was_never_published_is_refused(wiring):
    # given a name that the log does not hold; when named; then that is said, and where names are
    with pytest.raises(InvalidRequest, match="no checkpoint router-x was published") as raised:
        roll_back(wiring, history("a", "b"), "router-x")
    assert "history" in raised.value.hint


@pytest.mark.parametrize("chosen", [(), ("a", None)])
def test_where_nothing_was_learnt_there_is_nothing_to_go_back_to(wiring, chosen):
    # given that the untrained router serves; when rolled back; then that is said
    with pytest.raises(InvalidRequest, match="nothing to go back to"):
        roll_back(wiring, history(*chosen), None)


def test_the_event_of_a_roll_back_does_it(wiring):
    # given a fold of the log with two checkpoints; when it is rolled back and the event is folded
    first, second = (Checkpoint.initial(ARMS, seed, PRICES) for seed in (5, 6))
    routers = Routers(router())
    for checkpoint in (first, second):
        facts = {"time": START, "learner": "router", "checkpoint": checkpoint.id}
        routers.apply(CheckpointPublished(**facts, run_id="run", parameters=checkpoint.packed()))
        routers.apply(CheckpointChosen(**facts, reason="it passed"))
    routers.apply(roll_back(wiring, routers, None))
    # then the first one serves
    assert routers.current().checkpoint == first
