"""`eval routing --protocol estimate` and `sessions`: what a log says of another policy, and how sessions are dealt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ruvllm.errors import InvalidRequest
from ruvllm.models.router.off_policy import Estimate
from ruvllm.streams.proof import routing_estimates
from ruvllm.streams.proof.routing_estimates import estimate
from ruvllm.streams.proof.routing_sessions import TURNS, apart, dealt, sessions
from tests.unit.test_eval_routing import known, subjects


def test_an_honest_estimate_holds_the_truth_and_a_wrong_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given questions of which all outcomes are known, and beside the estimators one that always says 0.9
    data = known(tmp_path, subjects(600))
    wrong = {"wrong": lambda *_: Estimate(0.9, 0.001, 1.0)}
    monkeypatch.setattr(routing_estimates, "ESTIMATORS", routing_estimates.ESTIMATORS | wrong)
    # when a learner's policy is valued from logs of another one
    found = estimate(data, ["knn"], labels=200, seeds=2, say=lambda _: None)["estimates"]["knn"]
    # then the truth lies in the intervals, nearer with a model of the reward, and not in the wrong one's
    assert found["doubly_robust"]["coverage"] >= 0.85
    assert found["inverse_propensity"]["coverage"] >= 0.85
    assert abs(found["doubly_robust"]["bias"]) < 0.01
    assert found["doubly_robust"]["standard_error"] <= found["inverse_propensity"]["standard_error"]
    assert found["wrong"]["coverage"] == 0.0
    with pytest.raises(InvalidRequest, match="550 of 600"):
        estimate(data, ["knn"], labels=550, seeds=1, say=lambda _: None)


def test_sessions_stay_with_one_subject_and_leave_the_questions_as_they_are(tmp_path: Path) -> None:
    # given questions of three subjects; when they are dealt into sessions
    data = known(tmp_path, subjects(62))
    part, order = dealt(data, np.random.default_rng(1))
    # then each session has its turns of one subject, and its rows are those named
    assert len(part) == len(order) == 60
    for session in np.unique(part.questions.sessions):
        rows = part.questions.sessions == session
        assert rows.sum() == TURNS
        assert len(set(part.questions.domains[rows])) == 1
    np.testing.assert_array_equal(part.questions.vectors, data.questions.vectors[order])
    np.testing.assert_array_equal(part.qualities, data.qualities[order])
    # and apart they are the same questions, each alone
    alone = apart(part)
    np.testing.assert_array_equal(alone.questions.features, part.questions.features)
    assert len(set(alone.questions.sessions)) == 60
    with pytest.raises(InvalidRequest, match="no domain has 5 questions"):
        dealt(data.rows(slice(0, 3)), np.random.default_rng(1))


def test_the_session_s_state_is_measured_beside_the_same_router_without_it(tmp_path: Path) -> None:
    # given questions; when the ablation runs; then both have their figures and the difference its interval
    pytest.importorskip("torch")
    found = sessions(known(tmp_path, subjects(200)), labels=120, seeds=1, say=lambda _: None)["sessions"]
    assert set(found) == {"along_sessions", "each_alone", "difference"}
    for name in ("along_sessions", "each_alone"):
        assert set(found[name]) == {"reward", "brier", "apgr"}
        assert 0 <= found[name]["brier"] <= 1
    low, high = found["difference"]["brier_ci95"]
    assert low <= found["along_sessions"]["brier"] - found["each_alone"]["brier"] + 1e-3
    assert high >= found["along_sessions"]["brier"] - found["each_alone"]["brier"] - 1e-3
