"""What past outcomes say of a question: better than a tier's mean, honest of what it was fitted on, and repeatable."""

import numpy as np
import pytest

from ruvllm.errors import InvalidConfiguration
from ruvllm.models.router.past_outcomes import INDUCING, PRIOR, RIDGES, TAU, PastOutcome, _Ridge, fit, fit_table

TIERS = 3
RIGHT = np.array([[0.9, 0.2, 0.6], [0.2, 0.8, 0.6]])
"""How often each tier (columns) is right on each of two subjects (rows)."""


def asked(count, seed):
    """Vectors (n, 384) of unit length about two subjects, forms (n, 30) that say nothing, and the subjects (n,)."""
    draws = np.random.default_rng(seed)
    subject = draws.integers(2, size=count)
    vectors = 0.05 * draws.standard_normal((count, 384))
    vectors[np.arange(count), subject] += 1.0
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), draws.random((count, 30), np.float32), subject


def past(count, seed=0):
    """One answer to each question, by a tier at random, right or wrong as that tier is on the subject."""
    draws = np.random.default_rng(seed + 1000)
    vectors, forms, subjects = asked(count, seed)
    tiers = draws.integers(TIERS, size=count)
    right = draws.random(count) < RIGHT[subjects, tiers]
    return [PastOutcome(*row) for row in zip(vectors, forms, tiers.tolist(), right.astype(float), strict=True)]


def test_estimates_of_questions_never_seen_are_nearer_the_truth_than_the_tier_s_mean():
    # given single outcomes, right or wrong, of tiers that are each good at one of two subjects; when fitted
    told = past(300)
    found, _ = fit(told, TIERS)
    # then what it says of other questions is less than half as far from how often each tier is right as its mean
    vectors, forms, subjects = asked(200, seed=7)
    truth = RIGHT[subjects]
    means = [np.mean([o.quality for o in told if o.tier == tier]) for tier in range(TIERS)]
    error = np.mean((found.outlooks(vectors, forms).quality - truth) ** 2)
    assert error < 0.5 * np.mean((means - truth) ** 2)
    # and it names the tier that is best at the subject
    assert np.mean(found.outlooks(vectors, forms).quality.argmax(1) == truth.argmax(1)) > 0.95


def test_leave_one_out_estimates_and_weights_are_those_of_solving_again():
    # given a small design; when solved
    draws = np.random.default_rng(3)
    design, y = draws.standard_normal((25, 6)), draws.standard_normal(25)
    errors, weights, estimates = _Ridge(design).solve(y)

    # then for each ridge the weights, and what is said of each row, are what solving the normal equations gives,
    # with that row and without it
    def brute(rows, ridge):
        given = design[rows]
        return np.linalg.solve(given.T @ given + ridge * np.eye(6), given.T @ y[rows])

    for place, ridge in enumerate(RIDGES):
        np.testing.assert_allclose(weights[place], brute(np.arange(25), ridge), atol=1e-9)
        left_out = [design[i] @ brute(np.delete(np.arange(25), i), ridge) for i in range(25)]
        np.testing.assert_allclose(estimates[place], left_out, atol=1e-9)
        assert errors[place] == pytest.approx(np.sum((left_out - y) ** 2))


def test_what_is_left_out_tells_less_of_its_own_outcome_than_the_fit_does():
    # given outcomes that follow from nothing; when fitted
    vectors, forms, _ = asked(150, seed=5)
    coins = np.random.default_rng(6).integers(2, size=(150, 1)).astype(float)
    found, left_out = fit_table(vectors, forms, coins)
    # then the fit follows them, and the leave-one-out estimates do not
    fitted = found.outlooks(vectors, forms).quality
    assert np.corrcoef(fitted[:, 0], coins[:, 0])[0, 1] > 0.2
    assert np.corrcoef(left_out[:, 0], coins[:, 0])[0, 1] < 0.1


def test_a_tier_that_was_not_tried_on_a_question_is_estimated_plainly():
    # given a table in which each question was answered by one tier; when fitted
    vectors, forms, _ = asked(60, seed=8)
    draws = np.random.default_rng(9)
    table = np.full((60, TIERS), np.nan)
    taken = draws.integers(TIERS, size=60)
    table[np.arange(60), taken] = draws.random(60)
    found, left_out = fit_table(vectors, forms, table)
    # then for the others it gives what the fit says, and of the one that it was fitted on something else
    plain = found.outlooks(vectors, forms).quality
    np.testing.assert_allclose(left_out[np.isnan(table)], plain[np.isnan(table)], atol=1e-4)
    assert np.abs(left_out - plain)[~np.isnan(table)].max() > 1e-3
    assert left_out.shape == (60, TIERS)


def test_a_tier_without_a_past_has_no_estimate():
    # given outcomes of the first tier only; when asked of three; then the others are not a number
    told = [o._replace(tier=0) for o in past(40)]
    found, left_out = fit(told, TIERS)
    outlook = found.outlook(told[0].vector, told[0].form)
    assert np.isnan(outlook.quality).tolist() == [False, True, True]
    assert np.isnan(found.outlooks(*asked(5, 1)[:2]).quality).tolist() == [[False, True, True]] * 5
    assert not np.isnan(left_out).any()


def test_a_tier_with_one_outcome_is_drawn_to_the_mean_over_all():
    # given forty outcomes of one tier that are all bad, and one good one of another; when fitted
    told = [o._replace(tier=0, quality=0.1) for o in past(40)]
    told.append(told[7]._replace(tier=1, quality=1.0))
    found, _ = fit(told, 2)
    # then its mean is that of its own one and of as many as the prior counts for, which are like all
    overall = (40 * 0.1 + 1.0) / 41
    assert found.means[1] == pytest.approx((1.0 + PRIOR * overall) / (1 + PRIOR), abs=1e-6)
    # and of that very question it is not said that it will be as good again, of a strange one it is that mean
    assert found.means[1] < found.outlook(told[7].vector, told[7].form).quality[1] < 0.8
    strange = found.outlook(-told[7].vector, np.full(30, 100.0, np.float32))
    assert strange.quality[1] == pytest.approx(found.means[1], abs=0.01)


def test_the_same_outcomes_give_the_same_fit():
    # given the same outcomes, twice; when fitted; then all is equal bit for bit; and one other outcome changes it
    (one, left_out), (two, again) = fit(past(80), TIERS), fit(past(80), TIERS)
    for name in ("points", "offsets", "form_mean", "form_scale", "weights", "means"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(left_out, again)
    changed = past(80)
    changed[0] = changed[0]._replace(quality=1.0 - changed[0].quality)
    assert not np.array_equal(fit(changed, TIERS)[0].weights, one.weights)


def test_many_questions_get_what_each_gets_alone():
    # given a fit; when asked of many at once; then each row is what it says of that question
    found, _ = fit(past(100), TIERS)
    vectors, forms, _ = asked(30, seed=11)
    together = found.outlooks(vectors, forms)
    for row in range(30):
        alone = found.outlook(vectors[row], forms[row])
        np.testing.assert_allclose(together.quality[row], alone.quality, atol=1e-5)
        assert together.similarity[row] == pytest.approx(alone.similarity, abs=1e-5)
        assert together.evidence[row] == pytest.approx(alone.evidence, rel=1e-4)


@pytest.mark.parametrize("quality", [0.0, 1.0])
def test_estimates_lie_between_0_and_1(quality):
    # given outcomes that are nearly all at one end, and questions like them, unlike them, and of no content
    told = [o._replace(quality=quality) for o in past(100)]
    told[3] = told[3]._replace(quality=1.0 - quality)
    found, left_out = fit(told, TIERS)
    vectors, forms, _ = asked(50, seed=12)
    for given in (vectors, -vectors, np.zeros_like(vectors)):
        for shape in (forms, 1000.0 * forms):
            outlook = found.outlooks(given, shape)
            # then estimates, likeness and evidence are in their ranges
            assert ((outlook.quality >= 0) & (outlook.quality <= 1)).all()
            assert ((outlook.similarity >= 0) & (outlook.similarity <= 1)).all()
            assert (outlook.evidence >= outlook.similarity).all()
    assert ((left_out >= 0) & (left_out <= 1)).all()


def test_what_the_regression_says_beyond_0_and_1_is_cut_off():
    # given a tier that is always right on one subject and never on the other, asked of both at their plainest
    vectors, forms, subjects = asked(200, seed=13)
    vectors[:2], forms[:2], subjects[:2] = np.eye(2, 384), forms.mean(0), (0, 1)
    found, left_out = fit_table(vectors, forms, (1.0 - subjects)[:, None])
    # then what the regression makes of those is more than sure, and what is said is sure
    assert found.outlooks(vectors[:2], forms[:2]).quality[:, 0].tolist() == [1.0, 0.0]
    assert [found.outlook(vectors[n], forms[n]).quality[0] for n in (0, 1)] == [1.0, 0.0]
    assert left_out[:2, 0].tolist() == [1.0, 0.0]


def test_a_question_asked_before_is_like_itself_and_a_strange_one_is_like_none():
    # given a fit; when asked of a question that it holds, and of one of another subject and form
    told = past(50)
    found, _ = fit(told, TIERS)
    stranger = np.zeros(384, np.float32)
    stranger[200] = -1.0
    # then the one is as like as can be, and the other hardly
    assert found.outlook(told[0].vector, told[0].form).similarity == pytest.approx(1.0, abs=1e-3)
    assert found.outlook(stranger, np.full(30, 100.0, np.float32)).similarity < 0.01


def test_no_question_is_more_like_another_than_itself():
    # given a fit; when asked of all that it holds; then each is found, and none is more alike than alike
    told = past(300)
    found, _ = fit(told, TIERS)
    likeness = found.outlooks(np.array([o.vector for o in told]), np.array([o.form for o in told])).similarity
    assert likeness.max() <= 1.0
    assert likeness.min() > 0.999


def test_a_form_never_seen_is_far_and_not_infinitely_far():
    # given a question in words that are known, of which one measure of form is beyond anything; when asked
    told = past(50)
    found, _ = fit(told, TIERS)
    middle = np.mean([o.form for o in told], axis=0)
    odd, odder = middle.copy(), middle.copy()
    odd[4], odder[4] = 10.0, 1e6
    # then it is less alike than in the usual form, and no less however far that measure goes
    usual, far, farther = (found.outlook(told[0].vector, form).similarity for form in (middle, odd, odder))
    assert usual > far == farther > 0.3 * usual


def test_of_many_outcomes_old_and_new_ones_stand_for_all():
    # given more outcomes than there may be inducing questions; when fitted
    told = past(INDUCING + 88)
    found, left_out = fit(told, TIERS)
    # then there are that many and no more, the oldest, the newest and those between
    assert (len(found.points), found.weights.shape) == (INDUCING, (TIERS, INDUCING))
    assert left_out.shape == (INDUCING + 88,)
    vectors = np.array([o.vector for o in told])
    held = [int(np.argmin(np.abs(vectors - point[:384] * TAU).sum(1))) for point in found.points]
    assert (held[0], held[-1]) == (0, INDUCING + 87)
    assert np.diff(held).min() >= 1
    assert np.diff(held).max() <= 2
    # and of no more outcomes than that, all are
    assert len(fit(told[:20], TIERS)[0].points) == 20


def test_one_question_asked_over_and_over_is_fitted():
    # given a hundred answers to the same words, three in four of them right; when fitted; then that is said
    one = past(1)[0]
    told = [one._replace(tier=0, quality=float(n % 4 > 0)) for n in range(100)]
    found, left_out = fit(told, 1)
    assert found.outlook(one.vector, one.form).quality[0] == pytest.approx(0.75, abs=0.02)
    assert left_out.max() < 0.8


def test_nothing_to_fit_is_an_error():
    # given no outcome, or one of a tier that is not there; when fitted; then that is said
    with pytest.raises(InvalidConfiguration, match="0 past outcomes of 3 tiers"):
        fit([], TIERS)
    for tier in (TIERS, -1):
        with pytest.raises(InvalidConfiguration, match="nothing to fit"):
            fit([past(1)[0]._replace(tier=tier)], TIERS)


def test_a_leave_one_out_estimate_is_that_of_fitting_without_that_outcome():
    # given few outcomes that follow from nothing; when each is taken out and all is fitted again
    told = past(30)
    vectors, forms = np.array([o.vector for o in told]), np.array([o.form for o in told])
    table = np.full((30, 3), np.nan)
    table[np.arange(30), [o.tier for o in told]] = [o.quality for o in told]
    _, left_out = fit_table(vectors, forms, table)
    for row, outcome in enumerate(told):
        without = table.copy()
        without[row] = np.nan
        _, again = fit_table(vectors, forms, without)
        # then what is said of it is what was said
        assert left_out[row, outcome.tier] == pytest.approx(again[row, outcome.tier], abs=1e-3)
