"""Estimates from a log of one policy of what another is worth, in a world whose truth is known."""

import math

import numpy as np
import pytest

from ruvllm.errors import InvalidRequest
from ruvllm.models.router.off_policy import (
    doubly_robust,
    doubly_robust_rows,
    effective_samples,
    importance_weights,
    inverse_propensity,
    self_normalised,
)

CHANCE = np.array([[0.9, 0.3, 0.5], [0.2, 0.6, 0.7]])
"""That an action (columns) is rewarded in a context (rows); both contexts come as often."""
LOGGED = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
"""The log's policy."""
POLICY = np.array([[0.7, 0.1, 0.2], [0.1, 0.3, 0.6]])
"""The new one."""
TRUTH = float((POLICY * CHANCE).sum(1).mean())
WORTHLESS = np.array([[0.1, 0.9, 0.2], [0.8, 0.1, 0.3]])
"""A model that is wrong of every action."""


def drawn(count, seed):
    """Contexts, actions by the log's policy, rewards of 0 or 1: (n,) each."""
    draws = np.random.default_rng(seed)
    context = draws.integers(2, size=count)
    action = (draws.random((count, 1)) > LOGGED[context].cumsum(1)).sum(1)
    return context, action, (draws.random(count) < CHANCE[context, action]).astype(float)


def estimated(count, seed, *, propensities=LOGGED, model=CHANCE):
    context, action, reward = drawn(count, seed)
    weight = importance_weights(POLICY[context, action], propensities[context, action])
    expected = (POLICY[context] * model[context]).sum(1)
    return doubly_robust(reward, weight, model[context, action], expected)


def bias(estimates):
    """How many standard errors the mean of independent estimates is from the truth."""
    return abs(np.mean(estimates) - TRUTH) / (np.std(estimates, ddof=1) / math.sqrt(len(estimates)))


def test_right_propensities_make_up_for_a_wrong_model():
    # given a model that is wrong of every action, and the propensities really used; when many logs are estimated
    found = [estimated(500, seed, model=WORTHLESS).value for seed in range(300)]
    # then their mean is the truth, within its error, though the model alone is far from it
    assert bias(found) < 3.5
    assert abs((POLICY * WORTHLESS).sum(1).mean() - TRUTH) > 0.2


def test_a_right_model_makes_up_for_wrong_propensities():
    # given the right model, and propensities as if each action had been as likely; when many logs are estimated
    even = np.full_like(LOGGED, 1 / 3)
    found = [estimated(500, seed, propensities=even).value for seed in range(300)]
    # then their mean is the truth, within its error
    assert bias(found) < 3.5
    # and where both are wrong it is not
    assert bias([estimated(500, seed, propensities=even, model=WORTHLESS).value for seed in range(300)]) > 10


def test_the_interval_holds_the_truth_as_often_as_it_says():
    # given a hundred logs; when estimated with a model that is half right; then 95 % intervals hold the truth
    half = (CHANCE + WORTHLESS) / 2
    intervals = [estimated(400, seed, model=half).interval for seed in range(100)]
    assert 90 <= sum(low <= TRUTH <= high for low, high in intervals) <= 99
    # and it is narrower than without a model
    plain = []
    for seed in range(100):
        context, action, reward = drawn(400, seed)
        weight = importance_weights(POLICY[context, action], LOGGED[context, action])
        plain.append(inverse_propensity(reward, weight))
    assert np.mean([high - low for low, high in intervals]) < np.mean([2 * 1.96 * e.error for e in plain])
    assert bias([e.value for e in plain]) < 3.5


def test_the_same_reward_for_all_is_what_any_policy_earns():
    # given a log in which every answer earned 0.7; when normalised by its weights; then that is the value, surely
    context, action, _ = drawn(200, seed=1)
    weight = importance_weights(POLICY[context, action], LOGGED[context, action])
    found = self_normalised(np.full(200, 0.7), weight)
    assert found.value == pytest.approx(0.7)
    assert found.error == pytest.approx(0.0, abs=1e-9)
    # which the plain mean does not give
    assert inverse_propensity(np.full(200, 0.7), weight).error > 0.01


def test_estimates_by_hand():
    # given three answers; then each estimate is its formula's
    reward, weight = np.array([1.0, 0.0, 0.5]), np.array([2.0, 1.0, 0.0])
    assert inverse_propensity(reward, weight).value == pytest.approx(2.0 / 3)
    assert inverse_propensity(reward, weight).error == pytest.approx(np.std([2.0, 0.0, 0.0], ddof=1) / math.sqrt(3))
    assert inverse_propensity(reward, weight).interval == pytest.approx((2 / 3 - 1.96 * 2 / 3, 2 / 3 + 1.96 * 2 / 3))
    assert self_normalised(reward, weight).value == pytest.approx(2.0 / 3.0)
    assert self_normalised(reward, weight).error == pytest.approx(math.sqrt(4 / 9 + 4 / 9) / 3)
    rows = doubly_robust_rows(reward, weight, np.array([0.5, 0.5, 0.5]), np.array([0.4, 0.4, 0.4]))
    assert rows.tolist() == pytest.approx([1.4, -0.1, 0.4])


def test_how_much_of_the_log_speaks_for_a_policy():
    # given weights; then Kish's sample size is n where all weigh the same, 1 where one has all, 0 where none has any
    assert effective_samples(np.array([1.0, 1.0, 1.0, 1.0])) == 4.0
    assert effective_samples(np.array([0.0, 3.0, 0.0])) == 1.0
    assert effective_samples(np.array([1.0, 2.0, 3.0])) == pytest.approx(36 / 14)
    assert effective_samples(np.zeros(3)) == 0.0
    assert effective_samples(np.array([])) == 0.0


def test_a_log_that_never_took_the_new_policy_s_actions_says_nothing():
    # given weights that are all 0; when normalised; then there is no value and no certainty
    found = self_normalised(np.ones(3), np.zeros(3))
    assert math.isnan(found.value)
    assert (found.error, found.effective_samples) == (math.inf, 0.0)
    # and of one answer a value, but no certainty
    assert inverse_propensity(np.array([0.5]), np.array([2.0])).error == math.inf


@pytest.mark.parametrize("propensity", [0.0, -0.1, 1.0001, math.nan, math.inf])
def test_a_propensity_that_is_none_is_refused(propensity):
    # given a log with one such propensity among sound ones; when weighed; then it is refused
    with pytest.raises(InvalidRequest, match="cannot be learnt from"):
        importance_weights(np.ones(3), np.array([0.5, propensity, 1.0]))


def test_sound_propensities_weigh_as_the_policies_differ():
    # given propensities up to 1; then weights are the ratio
    found = importance_weights(np.array([1.0, 0.0, 0.25]), np.array([1.0, 0.5, 0.5]))
    assert found.tolist() == [1.0, 0.0, 0.5]
