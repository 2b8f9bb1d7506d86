"""Another policy on logged traffic: its interval covers the truth, and without support there is none."""

import dataclasses

import numpy as np
import pytest

from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.models.router.off_policy import mean_by_cluster
from ruvllm.models.router.policy import Router
from ruvllm.models.router.what_if import LEAST_EFFECTIVE, suppose
from tests.unit.full_information import ARMS, DEFAULT, OBJECTIVE, PRICES, TIERS, World, router

LOGS = 100


@pytest.fixture(scope="module")
def world():
    return World(400, seed=3)


def always(tier, *, exploration=0.0):
    untrained = Checkpoint.initial(ARMS, 1, PRICES)
    default = dataclasses.replace(DEFAULT, tier=tier)
    return Router(untrained, ARMS, default, confidence_threshold=1.0, objective=OBJECTIVE, exploration=exploration)


def test_the_interval_covers_the_truth_of_a_world_whose_outcomes_are_all_known(world):
    # given the value of a policy over every outcome, and what the log's policy earns
    policy = router(exploration=0.05)
    quality, reward = world.value(policy)
    difference = reward - world.value(always("1.5b", exploration=0.9))[1]
    # when it is estimated from many logs, each with one outcome a question
    found = [suppose(world.log(220, seed, exploration=0.9), policy) for seed in range(LOGS)]
    assert all(one.supported for one in found)
    # then the 95 % intervals hold it in at least 90 of 100
    for truth, intervals in (
        (quality, [one.quality.ci95 for one in found]),
        (reward, [one.reward.ci95 for one in found]),
        (difference, [one.difference.ci95 for one in found]),
    ):
        covered = sum(low <= truth <= high for low, high in intervals)
        assert 90 <= covered <= 100, covered
    # and are no wider than is needed: some miss it
    assert sum(not low <= quality <= high for low, high in (one.quality.ci95 for one in found)) > 0


def test_the_estimate_says_which_of_two_policies_is_better(world):
    # given a log; when the smallest tier and the largest are tried; then the order of their values is the truth's
    log = world.log(1_000, 1, exploration=0.6)
    small, large = (suppose(log, always(tier)) for tier in (TIERS[0], TIERS[-1]))
    assert world.value(always(TIERS[0]))[0] < world.value(always(TIERS[-1]))[0]
    assert small.quality.estimated < large.quality.estimated
    # and what a route costs is known: the largest always costs 1
    assert (large.cost.estimated, large.cost.ci95) == (pytest.approx(1.0), pytest.approx((1.0, 1.0)))


def test_a_policy_like_the_log_s_is_worth_what_the_log_has(world):
    # given the very policy of the log; when it is tried; then every weight is 1, and it earns what was earned
    found = suppose(world.log(200, 3, exploration=0.6), always("1.5b", exploration=0.6))
    assert found.ess == pytest.approx(200)
    for name in ("quality", "cost", "reward"):
        figure = getattr(found, name)
        assert figure.estimated == pytest.approx(figure.logged, abs=0.1)
    low, high = found.difference.ci95
    assert low <= 0 <= high


def test_without_exploration_or_with_too_little_of_it_there_is_no_estimate(world):
    # given a log without exploration; when any policy is tried; then nothing is said, not even of the log's own
    for policy in (router(), always("1.5b")):
        found = suppose(world.log(500, 1, exploration=0.0), policy)
        assert (found.answers, found.ess, found.supported, found.quality) == (0, 0.0, False, None)
    # and a policy that hardly any of the log speaks for is refused as well
    found = suppose(world.log(300, 1, exploration=0.05), always(TIERS[0]))
    assert 0 < found.ess < LEAST_EFFECTIVE
    assert not found.supported


def test_answers_of_one_session_count_as_one_draw():
    # given the same hundred rows as a hundred sessions, and as ten of ten equal rows; when their error is asked for
    draws = np.random.default_rng(1).standard_normal(10)
    rows = np.repeat(draws, 10)
    mean, apart = mean_by_cluster(rows, [str(n) for n in range(100)])
    same, together = mean_by_cluster(rows, [str(n // 10) for n in range(100)])
    # then the mean is the same, and the error that of ten draws
    assert mean == same == pytest.approx(draws.mean())
    assert together == pytest.approx(draws.std(ddof=1) / np.sqrt(10))
    assert together > 3 * apart
    # and of one session nothing can be said
    assert mean_by_cluster(rows, ["s"] * 100)[1] == np.inf
