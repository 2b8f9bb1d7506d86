"""What every learner of routes must keep, whoever wrote it: one set of checks over all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from ruvllm.errors import InvalidConfiguration
from ruvllm.models.router.baselines import DomainMeans, Knn, LinUcb, Logistic, Random, baselines
from ruvllm.models.router.features import request_features
from ruvllm.models.router.learner import Float32s, Learner, Questions
from ruvllm.models.router.signals import MemorySignals
from ruvllm.streams.proof.eval_routing import fastgrnn

Make = Callable[[int, int], Learner]


def baseline(name: str) -> Make:
    return lambda tiers, seed: baselines(tiers, seed)[name]


LEARNERS: dict[str, Make] = {name: baseline(name) for name in baselines(2, 0)} | {"fastgrnn": fastgrnn}
"""Name -> a new one from the number of tiers and a seed."""
LEARNING = [name for name in LEARNERS if name not in ("always-smallest", "always-largest", "random")]
EXACT = list(baselines(2, 0))
"""Of these, learning in two calls is learning in one."""

every = pytest.mark.parametrize("name", LEARNERS)


def asked(count: int, seed: int) -> tuple[Questions, NDArray[np.int64]]:
    """Questions of two subjects, told apart by meaning; and which subject each is of."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((2, 384))
    subject = generator.integers(2, size=count)
    vectors = centres[subject] + 0.5 * generator.standard_normal((count, 384))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    features = [
        request_features(f"What is number {i} of {s}?", query_vector=vector, signals=MemorySignals())
        for i, (s, vector) in enumerate(zip(subject, vectors, strict=True))
    ]
    questions = Questions(np.array(features), vectors, np.array([f"subject-{s}" for s in subject]), np.arange(count))
    return questions, subject


def outcomes(subject: NDArray[np.int64], tiers: int = 2) -> Float32s:
    """Subject 0 is for the smallest tier alone, subject 1 for the largest alone; others get half of it right."""
    qualities = np.full((len(subject), tiers), 0.5, np.float32)
    qualities[:, 0], qualities[:, -1] = subject == 0, subject == 1
    return qualities


@every
@pytest.mark.parametrize("tiers", [2, 3, 9])
def test_an_estimate_is_a_quality_for_each_question_and_tier(name: str, tiers: int) -> None:
    learner = LEARNERS[name](tiers, 1)
    questions, subject = asked(60, 1)
    learner.learn(questions, outcomes(subject, tiers))
    for count in (1, 17):
        found = learner.predict(asked(count, 2)[0])
        assert found.shape == (count, tiers)
        assert np.isfinite(found).all()
        assert found.min() >= 0.0
        assert found.max() <= 1.0


@every
def test_before_the_first_answer_all_questions_are_alike(name: str) -> None:
    learner = LEARNERS[name](3, 1)
    found = learner.predict(asked(20, 3)[0])
    assert found.shape == (20, 3)
    np.testing.assert_array_equal(found, np.tile(found[0], (20, 1)))


@every
def test_asking_changes_nothing(name: str) -> None:
    questions, subject = asked(80, 4)
    other, _ = asked(30, 5)
    quiet, asked_often = LEARNERS[name](2, 1), LEARNERS[name](2, 1)
    for half in (slice(0, 40), slice(40, 80)):
        for learner in (quiet, asked_often):
            learner.learn(questions.rows(half), outcomes(subject)[half])
        for _ in range(3):
            asked_often.predict(other)
    np.testing.assert_array_equal(asked_often.predict(other), quiet.predict(other))


@every
def test_an_estimate_does_not_depend_on_what_else_is_asked(name: str) -> None:
    questions, subject = asked(80, 4)
    learner = LEARNERS[name](2, 1)
    learner.learn(questions, outcomes(subject))
    other, _ = asked(12, 6)
    one_by_one = np.concatenate([learner.predict(other.rows(slice(i, i + 1))) for i in range(12)])
    np.testing.assert_allclose(learner.predict(other), one_by_one, atol=1e-5)


@every
def test_the_same_answers_and_seed_make_the_same_learner(name: str) -> None:
    questions, subject = asked(80, 7)
    other, _ = asked(30, 8)
    found = []
    for _ in range(2):
        learner = LEARNERS[name](2, 3)
        learner.learn(questions, outcomes(subject))
        found.append(learner.predict(other))
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("name", LEARNING)
def test_what_can_be_told_apart_is_learnt(name: str) -> None:
    questions, subject = asked(400, 9)
    learner = LEARNERS[name](2, 1)
    learner.learn(questions, outcomes(subject))
    other, truth = asked(200, 10)
    taken = learner.predict(other).argmax(axis=1)
    assert (taken == truth).mean() > 0.95


@pytest.mark.parametrize("name", LEARNING)
def test_a_second_lesson_adds_to_the_first(name: str) -> None:
    # given a learner that was taught one subject only
    questions, subject = asked(400, 11)
    other, truth = asked(200, 12)
    learner = LEARNERS[name](2, 1)
    for one in (0, 1):
        rows = np.flatnonzero(subject == one)
        learner.learn(questions.rows(rows), outcomes(subject)[rows])
    # when it was taught the other one too, then it knows both
    assert (learner.predict(other).argmax(axis=1) == truth).mean() > 0.95


@pytest.mark.parametrize("name", EXACT)
def test_learning_in_two_calls_is_learning_in_one(name: str) -> None:
    questions, subject = asked(90, 13)
    other, _ = asked(30, 14)
    at_once, in_parts = LEARNERS[name](2, 1), LEARNERS[name](2, 1)
    at_once.learn(questions, outcomes(subject))
    in_parts.learn(questions.rows(slice(0, 33)), outcomes(subject)[:33])
    in_parts.learn(questions.rows(slice(33, 90)), outcomes(subject)[33:])
    np.testing.assert_allclose(in_parts.predict(other), at_once.predict(other), atol=1e-6)


@every
def test_a_tier_that_was_never_tried_is_borne(name: str) -> None:
    questions, subject = asked(60, 15)
    qualities = outcomes(subject, 3)
    qualities[:, 1] = np.nan
    learner = LEARNERS[name](3, 1)
    learner.learn(questions, qualities)
    found = learner.predict(asked(25, 16)[0])
    assert np.isfinite(found).all()
    assert found.min() >= 0.0
    assert found.max() <= 1.0


@pytest.mark.parametrize("name", ["knn", "logistic", "domain_means"])
def test_of_a_tier_that_was_never_tried_the_mean_of_all_is_expected(name: str) -> None:
    questions, _ = asked(60, 15)
    qualities = np.full((60, 3), 0.9, np.float32)
    qualities[:, 1] = np.nan
    learner = LEARNERS[name](3, 1)
    learner.learn(questions, qualities)
    np.testing.assert_allclose(learner.predict(asked(25, 16)[0])[:, 1], 0.9, atol=1e-5)


@pytest.mark.parametrize("name", LEARNING)
def test_one_known_outcome_a_question_is_enough(name: str) -> None:
    # given a log that holds only the outcome of a route taken at random
    questions, subject = asked(600, 17)
    qualities = outcomes(subject)
    qualities[np.arange(600), np.random.default_rng(1).integers(2, size=600)] = np.nan
    learner = LEARNERS[name](2, 1)
    learner.learn(questions, qualities)
    other, truth = asked(200, 18)
    assert (learner.predict(other).argmax(axis=1) == truth).mean() > 0.95


@every
def test_answers_that_belong_to_no_question_are_refused(name: str) -> None:
    if name not in baselines(2, 0):
        pytest.skip("checked where it is served")
    questions, subject = asked(10, 19)
    with pytest.raises(InvalidConfiguration, match=r"qualities of shape \(9, 2\) for 10 questions and 2 tiers"):
        LEARNERS[name](2, 1).learn(questions, outcomes(subject)[:9])


# --- what each is -------------------------------------------------------------------------------------


def test_models_alone_take_one_tier_and_random_takes_each() -> None:
    questions, subject = asked(300, 20)
    taken = {}
    for name in ("always-smallest", "always-largest", "random"):
        learner = LEARNERS[name](3, 5)
        learner.learn(questions, outcomes(subject, 3))
        taken[name] = np.bincount(learner.predict(questions).argmax(axis=1), minlength=3)
    assert taken["always-smallest"].tolist() == [300, 0, 0]
    assert taken["always-largest"].tolist() == [0, 0, 300]
    assert taken["random"].min() > 60
    one, other = Random(3, 1), Random(3, 2)
    for learner in (one, other):
        learner.learn(questions, outcomes(subject, 3))
    assert not np.array_equal(one.predict(questions), other.predict(questions))


def test_knn_is_the_mean_of_the_nearest_and_chooses_how_many() -> None:
    # given outcomes that are noise about a mean: the more neighbours the better
    questions, _ = asked(401, 21)
    noise = np.random.default_rng(2).integers(2, size=(400, 2)).astype(np.float32)
    many, few = Knn(2), Knn(2)
    many.learn(questions.rows(slice(0, 400)), noise)
    assert many.k == 200
    # and outcomes that follow 24 tight groups
    group = np.arange(400) % 24
    vectors = np.eye(384, dtype=np.float32)[group]
    features = questions.features[:400]
    tight = Questions(features, vectors, questions.domains[:400], np.arange(400))
    by_group = np.stack((group % 2, 1 - group % 2), axis=1).astype(np.float32)
    few.learn(tight, by_group)
    assert few.k == 20
    # then an estimate is the mean over the k nearest by cosine
    last = questions.rows(slice(400, 401))
    nearest = np.argsort(-(questions.vectors[:400] @ last.vectors[0]))[:200]
    np.testing.assert_allclose(many.predict(last)[0], noise[nearest].mean(axis=0), atol=1e-6)


def test_linucb_is_ridge_regression_and_less_sure_of_what_it_has_not_seen() -> None:
    questions, subject = asked(200, 22)
    learner = LinUcb(2, ridge=2.0, alpha=0.5)
    seen = questions.rows(np.flatnonzero(subject == 0))
    before = learner.bonus(questions)
    learner.learn(seen, outcomes(subject)[subject == 0])
    x = seen.features.astype(np.float64)
    weights = np.linalg.solve(2.0 * np.eye(128) + x.T @ x, x.T @ (outcomes(subject)[subject == 0] - 0.5))
    np.testing.assert_allclose(learner.predict(seen), np.clip(0.5 + x @ weights, 0, 1), atol=1e-5)
    bonus = learner.bonus(questions)
    assert (bonus < before).all()
    assert bonus[subject == 1].mean() > 1.5 * bonus[subject == 0].mean()


def test_logistic_finds_the_least_penalised_loss() -> None:
    questions, subject = asked(150, 23)
    soft = (0.2 + 0.6 * outcomes(subject)).astype(np.float32)
    learner = Logistic(2, ridge=10.0)
    learner.learn(questions, soft)
    # then the gradient of sum(log loss) + penalty vanishes: X^T (p - y) = -penalty * w
    x = questions.features.astype(np.float64)
    w = learner._weights[0]
    p = 1 / (1 + np.exp(-x @ w))
    np.testing.assert_allclose(x.T @ (p - soft[:, 0]) + learner._penalty * w, 0.0, atol=1e-4)


def test_domain_means_are_shrunk_to_the_mean_of_the_tier() -> None:
    questions, _ = asked(4, 24)
    told = Questions(questions.features, questions.vectors, np.array(["law", "law", "art", "sea"]), np.arange(4))
    learner = DomainMeans(2)
    learner.learn(told.rows(slice(0, 3)), np.array([[1, 0], [1, 0], [0, 1]], np.float32))
    found = learner.predict(told)
    mean = np.array([2 / 3, 1 / 3])
    np.testing.assert_allclose(found[0], (np.array([2, 0]) + 3 * mean) / 5, atol=1e-6)
    np.testing.assert_allclose(found[2], (np.array([0, 1]) + 3 * mean) / 4, atol=1e-6)
    np.testing.assert_allclose(found[3], mean, atol=1e-6)


def test_there_is_nothing_to_route_with_one_tier() -> None:
    with pytest.raises(InvalidConfiguration, match="two tiers or more, got 1"):
        baselines(1, 0)
