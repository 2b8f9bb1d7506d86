"""`eval routing`: files that users bring, scores with answers known beforehand, and what is never looked at."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from ruvllm.errors import InvalidRequest
from ruvllm.models.embedding import HashingEmbedder
from ruvllm.models.router.baselines import Knn, baselines
from ruvllm.streams.proof import eval_routing
from ruvllm.streams.proof.eval_routing import Split, full, given_split, random_splits
from ruvllm.streams.proof.routing_forgetting import clusters, forgetting, sequence, told
from ruvllm.streams.proof.routing_plot import plot
from ruvllm.streams.proof.routing_run import Protocol, measure
from ruvllm.streams.proof.routing_scores import (
    apgr,
    best_single,
    chosen,
    cpt,
    curve,
    non_dominated,
    operating_weight,
    quality_at,
)
from ruvllm.streams.proof.routing_sets import Answered, RoutingSet, answered, load_routing
from ruvllm.streams.proof.routing_streams import drifted

NAMES = tuple(baselines(2, 0))
SUBJECTS = ("tides and harbours", "tax law", "cell biology")


def line(number: int, domain: str | None = "law", **outcomes: tuple[float, float]) -> dict[str, Any]:
    found = outcomes or {"small": (0.0, 1.0), "large": (1.0, 5.0)}
    rest = {} if domain is None else {"domain": domain}
    told_of = {model: {"quality": quality, "cost": cost} for model, (quality, cost) in found.items()}
    return {"id": f"q{number}", "prompt": f"What is clause {number}?", "outcomes": told_of, **rest}


def write(file: Path, rows: list[Any]) -> Path:
    content = b"\n".join(row if isinstance(row, bytes) else orjson.dumps(row) for row in rows)
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return file


def subjects(count: int, *, domain: bool = True, three: bool = False) -> list[dict[str, Any]]:
    """Questions of three subjects: the cheap model is right on the first, the dear one on all but the last."""
    rows = []
    for i in range(count):
        of = i % 3
        small, large = (1.0, 1.0) if of == 0 else (0.0, 1.0) if of == 1 else (0.5, 0.25)
        found = {"large": (large, 10.0), "small": (small, 1.0)}
        if three:
            found["middle"] = (0.6, 4.0)
        row = line(i, SUBJECTS[of] if domain else None, **found)
        rows.append(row | {"prompt": f"On {SUBJECTS[of]}: {SUBJECTS[of]} case {i * 7919 % 1000}?"})
    return rows


def loaded(folder: Path, rows: list[dict[str, Any]]) -> RoutingSet:
    return load_routing(write(folder / "set.jsonl.gz", rows))


def known(folder: Path, rows: list[dict[str, Any]]) -> Answered:
    return answered(loaded(folder, rows), HashingEmbedder(), folder / "cache")


def measured(folder: Path, rows: list[dict[str, Any]], protocol: Protocol = "full", **changed: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"labels": 60, "seeds": 2, "names": NAMES, "block": 20, "say": lambda _: None}
    first = loaded(folder, rows)
    return measure(first, None, HashingEmbedder(), folder / "cache", protocol=protocol, **(given | changed))


# --- files that users bring ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([line(0), b"{no json"], r"set\.jsonl:2: no JSON"),
        ([b"[1]"], r":1: a JSON object is expected, got \[1\]"),
        ([line(0) | {"prompt": " "}], r":1: field `prompt` must be a text, got ' '"),
        ([line(0) | {"id": 3}], r":1: field `id` must be a text, got 3"),
        ([line(0), line(0)], r":2: id 'q0' is there already"),
        ([line(0) | {"outcomes": {}}], r":1: field `outcomes` must name two models or more"),
        ([line(0, small=(1, 1))], r":1: field `outcomes` must name two models or more"),
        ([line(0) | {"outcomes": {"a": 1, "b": 2}}], r":1: the outcome of 'a' must be an object, got 1"),
        ([line(0), line(1, small=(0, 1), huge=(1, 5))], r":2: outcomes of \['huge', 'small'\], before of \['large'"),
        ([line(0, small=(1.5, 1), large=(1, 5))], r":1: quality 1\.5 of 'small' is outside 0 to 1"),
        ([line(0, small=(1, -1), large=(1, 5))], r":1: cost -1 of 'small' is negative"),
        ([line(0, small=("good", 1), large=(1, 5))], r":1: `quality` of 'small' must be a number, got 'good'"),  # type: ignore[arg-type]
        ([line(0, small=(True, 1), large=(1, 5))], r":1: `quality` of 'small' must be a number, got True"),
        ([b'{"id":"a","prompt":"x","outcomes":{"a":{"quality":1},"b":{"quality":1}}}'], r"`cost` of 'a' must be a num"),
        ([b"", b"  "], r"set\.jsonl has no lines"),
    ],
)
def test_what_cannot_be_used_is_named_by_file_and_line(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        load_routing(write(tmp_path / "set.jsonl", rows))


def test_a_file_that_is_not_there_and_a_torn_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"nowhere\.jsonl\.gz cannot be read"):
        load_routing(tmp_path / "nowhere.jsonl.gz")
    file = write(tmp_path / "set.jsonl.gz", [line(n) for n in range(50)])
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(InvalidRequest, match=r"set\.jsonl\.gz cannot be read"):
        load_routing(file)


def test_models_stand_by_their_mean_cost_and_a_second_file_follows_the_first(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl.gz", [line(0, dear=(1, 9), cheap=(0, 1)), line(1, cheap=(0.5, 2), dear=(0, 1))])
    found = load_routing(first)
    assert found.models == ("cheap", "dear")
    np.testing.assert_allclose(found.qualities, [[0, 1], [0.5, 0]])
    np.testing.assert_allclose(found.costs, [[1, 9], [2, 1]])
    # given another file in which the dear one happens to be cheaper
    second = write(tmp_path / "b.jsonl", [line(0, None, dear=(1, 1), cheap=(0, 3))])
    assert load_routing(second).models == ("dear", "cheap")
    again = load_routing(second, models=found.models)
    assert again.models == ("cheap", "dear")
    assert again.costs.tolist() == [[3, 1]]
    assert again.domains == ("all",)
    with pytest.raises(InvalidRequest, match=r":1: outcomes of \['large', 'small'\], before of \['cheap', 'dear'\]"):
        load_routing(write(tmp_path / "c.jsonl", [line(0)]), models=found.models)


def test_questions_are_embedded_once(tmp_path: Path) -> None:
    class Counted(HashingEmbedder):
        texts = 0

        def embed(self, texts: Any) -> Any:
            self.texts += len(texts)
            return super().embed(texts)

    embedder, routing = Counted(), loaded(tmp_path, subjects(70))
    first = answered(routing, embedder, tmp_path / "cache")
    again = answered(routing, embedder, tmp_path / "cache")
    assert embedder.texts == 70
    np.testing.assert_array_equal(first.questions.features, again.questions.features)
    assert first.questions.features.shape == (70, 128)
    assert len(set(first.questions.sessions.tolist())) == 70


# --- scores with known answers ------------------------------------------------------------------------


def test_an_oracle_recovers_the_gap_at_once_and_chance_recovers_half() -> None:
    # given 100 questions: on 20 only the strong model is right, on 80 both are
    qualities = np.ones((100, 2))
    qualities[:20, 0] = 0.0
    oracle = qualities.copy()
    # then PGR rises to 1 over the first fifth: the area is 1 - 0.2 / 2
    assert apgr(oracle, qualities) == pytest.approx(0.9)
    assert cpt(oracle, qualities, 0.5) == pytest.approx(0.1)
    assert cpt(oracle, qualities, 0.8) == pytest.approx(0.16)
    # and its opposite recovers nothing before the last fifth
    assert apgr(1 - oracle, qualities) == pytest.approx(0.1)
    assert cpt(1 - oracle, qualities, 0.5) == pytest.approx(0.9)
    draws = np.random.default_rng(1).random((300, 100, 2))
    assert np.mean([apgr(one, qualities) for one in draws]) == pytest.approx(0.5, abs=0.01)


def test_what_knows_no_difference_is_chance_exactly() -> None:
    qualities = np.random.default_rng(2).integers(2, size=(50, 2)).astype(float)
    qualities[:20, 1] = 1.0
    same = np.full((50, 2), 0.7)
    assert apgr(same, qualities) == pytest.approx(0.5)
    assert cpt(same, qualities, 0.5) == pytest.approx(0.5)
    assert cpt(same, qualities, 0.8) == pytest.approx(0.8)


def test_without_a_gap_there_is_nothing_to_recover() -> None:
    qualities = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert apgr(qualities, qualities) is None
    assert cpt(qualities, qualities, 0.5) is None


def test_the_curve_holds_what_no_other_policy_beats() -> None:
    # given three tiers of cost 1, 2 and 10 whose qualities are predicted exactly
    qualities = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    costs = np.tile([1.0, 2.0, 10.0], (4, 1))
    points = curve(qualities, qualities, costs, costs.mean(0))
    # then: the cheapest alone, one question up to the middle, one more to the dearest
    np.testing.assert_allclose(points, [[1.0, 0.25], [1.25, 0.5], [3.5, 0.75]])
    assert quality_at(points, 1.25) == 0.5
    assert quality_at(points, 2.375) == pytest.approx(0.625)
    assert quality_at(points, 99.0) == 0.75
    assert quality_at(points, 0.5) is None


def test_dominated_points_are_left_out() -> None:
    points = np.array([[2.0, 0.5], [1.0, 0.5], [1.0, 0.4], [3.0, 0.6], [4.0, 0.6]])
    assert non_dominated(points).tolist() == [[1.0, 0.5], [3.0, 0.6]]


def test_the_price_decides_and_equals_go_to_the_cheapest() -> None:
    predicted, costs = np.array([[0.5, 0.9], [0.5, 0.5]]), np.array([1.0, 4.0])
    assert chosen(predicted, costs, 0.0).tolist() == [1, 0]
    assert chosen(predicted, costs, 0.5).tolist() == [1, 0]
    assert chosen(predicted, costs, 0.6).tolist() == [0, 0]


def test_the_operating_point_costs_no_more_than_the_best_single_model() -> None:
    # given: the second model is the best alone; the third is better still where it is good, and is dearer
    qualities = np.array([[0.0, 0.9, 1.0]] * 3 + [[1.0, 0.5, 0.0]] * 2)
    costs = np.tile([1.0, 5.0, 20.0], (5, 1))
    assert best_single(qualities) == 1
    eager = np.array([[0.1, 0.8, 0.9]] * 3 + [[0.9, 0.6, 0.7]] * 2)
    # when the weight is chosen, then not the third is taken
    weight = operating_weight(eager, qualities, costs)
    tiers = chosen(eager, costs.mean(0), weight)
    assert tiers.tolist() == [1, 1, 1, 0, 0]
    assert weight > 0.0


# --- what is never looked at --------------------------------------------------------------------------


def test_the_outcomes_of_the_tested_part_choose_nothing(tmp_path: Path) -> None:
    data = known(tmp_path, subjects(150))
    split = random_splits(data, 90, 1)[0]
    # given the same split with all tested outcomes turned round
    turned = Answered(split.tested.questions, 1 - split.tested.qualities, split.tested.costs)
    names = ("knn", "logistic", "linucb", "domain_means")
    as_it_is = full([split], names, lambda _: None)["policies"]
    other = full([Split(split.labelled, turned, split.rows)], names, lambda _: None)["policies"]
    for name in names:
        assert as_it_is[name]["cost_weights"] == other[name]["cost_weights"]
        assert as_it_is[name]["cost"] == other[name]["cost"]
        assert as_it_is[name]["quality"] == pytest.approx(1 - other[name]["quality"], abs=1e-4)


def test_the_weight_comes_from_predictions_that_had_not_seen_the_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlaps: list[int] = []

    class Watched(Knn):
        seen: set[int]

        def learn(self, questions: Any, qualities: Any) -> None:
            self.seen = set(questions.sessions.tolist())
            super().learn(questions, qualities)

        def predict(self, questions: Any) -> Any:
            overlaps.append(len(self.seen & set(questions.sessions.tolist())))
            return super().predict(questions)

    monkeypatch.setattr(eval_routing, "learner", lambda name, tiers, seed: Watched(tiers))
    full(random_splits(known(tmp_path, subjects(90)), 50, 1), ("knn",), lambda _: None)
    assert overlaps == [0] * (1 + eval_routing.FOLDS)


def test_a_split_tests_what_is_not_labelled_and_needs_both(tmp_path: Path) -> None:
    data = known(tmp_path, subjects(40))
    for split in random_splits(data, 25, 3):
        assert len(split.labelled) == 25
        ids = {*split.labelled.questions.sessions.tolist(), *split.tested.questions.sessions.tolist()}
        assert ids == set(range(40))
        assert split.tested.questions.sessions.tolist() == split.rows.tolist()
    for labels in (9, 40):
        with pytest.raises(InvalidRequest, match=rf"{labels} labels of 40 questions: from 10 to 39"):
            random_splits(data, labels, 1)
    with pytest.raises(InvalidRequest, match="8 labelled questions: at least 10"):
        given_split(data.rows(slice(0, 8)), data, 1)


# --- the report ---------------------------------------------------------------------------------------


def test_the_report_has_the_keys_that_were_agreed(tmp_path: Path) -> None:
    found = measured(tmp_path, subjects(150))
    assert found["protocol"] == "full"
    assert (found["labels"], found["seeds"], found["reward_cost_weight"]) == (60, 2, 0.1)
    assert set(found["policies"]) == set(NAMES)
    for row in found["policies"].values():
        assert {"quality", "cost", "reward", "apgr", "cpt50", "cpt80", "ci95", "curve"} <= set(row)
        assert row["ci95"][0] <= row["ci95"][1]
        assert all(len(point) == 2 for point in row["curve"])
    assert found["fastgrnn_minus_knn"] == {"quality": None, "ci95": None}  # it did not run
    assert found["models"]["small"]["cost"] == 1.0
    orjson.dumps(found)
    # then who can tell the subjects apart gains over the best model alone at a lower cost; who cannot does not
    best, knn = found["best_single"], found["policies"]["knn"]
    assert knn["ci95"][0] > 0.0
    assert knn["cost"] < best["cost"]
    assert knn["quality"] == pytest.approx(found["oracle"], abs=0.01)
    assert knn["calibration_error"] < 0.1 and knn["cheapest_good"] > 0.95
    assert found["policies"]["random"]["cheapest_good"] < 0.8 < 1 - knn["calibration_error"]
    assert knn["reward"] == pytest.approx(knn["quality"] - 0.1 * knn["cost"] / 10.0, abs=1e-3)
    assert found["policies"]["always-largest"]["curve"] == [[10.0, best["quality"]]]
    assert found["policies"]["random"]["apgr"] == pytest.approx(0.5, abs=0.1)
    picture = tmp_path / "picture.png"
    plot(found, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_gaps_are_for_two_models_and_two_files_may_be_given(tmp_path: Path) -> None:
    first = loaded(tmp_path, subjects(60, three=True))
    second = loaded(tmp_path, subjects(45, three=True))
    given: dict[str, Any] = {"labels": 7, "seeds": 1, "names": NAMES, "block": 10, "say": lambda _: None}
    found = measure(first, second, HashingEmbedder(), tmp_path / "cache", protocol="full", **given)
    assert found["labels"] == 60
    assert list(found["models"]) == ["small", "middle", "large"]
    assert all(row["apgr"] is row["cpt50"] is row["cpt80"] is None for row in found["policies"].values())
    with pytest.raises(InvalidRequest, match="protocol `bandit` takes one file"):
        measure(first, second, HashingEmbedder(), tmp_path / "cache", protocol="bandit", **given)
    with pytest.raises(InvalidRequest, match="no learner is called 'oracle'"):
        measured(tmp_path, subjects(60), names=("oracle",))


def test_in_a_stream_regret_grows_slower_for_those_who_learn(tmp_path: Path) -> None:
    found = measured(tmp_path, subjects(600), "bandit", labels=600)
    regret = {name: row["regret"]["total"] for name, row in found["policies"].items()}
    assert set(regret) == {*NAMES, "linucb_bonus"}
    for name in ("knn", "linucb", "linucb_bonus", "logistic", "domain_means"):
        assert regret[name] < 0.6 * min(regret["random"], regret["always-smallest"], regret["always-largest"])
    # of each subject the small one loses 0, 0.91 and 0, the large one 0.09, 0 and 0.34 to the best route
    assert regret["always-smallest"] == pytest.approx(200 * 0.91, abs=0.01)
    assert regret["always-largest"] == pytest.approx(200 * (0.09 + 0.34), abs=0.01)
    curve_of = found["policies"]["knn"]["regret"]["curve"]
    assert [point[0] for point in curve_of] == list(range(20, 601, 20))
    assert curve_of[-1][1] == regret["knn"]
    low, high = found["policies"]["knn"]["regret"]["ci95"]
    assert low <= regret["knn"] <= high
    assert found["policies"]["knn"]["apgr"] is found["policies"]["knn"]["curve"] is None
    plot(found, tmp_path / "picture.png")
    with pytest.raises(InvalidRequest, match="a stream of 601 requests in blocks of 20, from 600 questions"):
        measured(tmp_path, subjects(600), "bandit", labels=601)


def test_in_a_stream_only_the_outcome_of_the_route_taken_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_of: list[Any] = []

    class Watched(Knn):
        def learn(self, questions: Any, qualities: Any) -> None:
            told_of.append(qualities)
            super().learn(questions, qualities)

    monkeypatch.setattr("ruvllm.streams.proof.routing_streams.learner", lambda name, tiers, seed: Watched(tiers))
    measured(tmp_path, subjects(200), "bandit", labels=200, names=("knn",), seeds=1)
    assert all(((~np.isnan(block)).sum(axis=1) == 1).all() for block in told_of)


def test_half_way_the_best_and_the_worst_change_places(tmp_path: Path) -> None:
    data = known(tmp_path, subjects(60))
    after = drifted(data)
    np.testing.assert_array_equal(after.qualities[:30], data.qualities[:30])
    np.testing.assert_array_equal(after.qualities[30:], data.qualities[30:, ::-1])
    found = measured(tmp_path, subjects(600), "drift", labels=600, names=("domain_means",), seeds=1)
    row = found["policies"]["domain_means"]["drift"]
    assert row["after"] < row["before"] - 0.1


def test_forgetting_is_the_best_earlier_score_less_the_last() -> None:
    nan = np.nan
    scores = np.array([[0.7, nan, nan], [0.9, 0.8, nan], [0.6, 0.75, 0.9]])
    assert forgetting(scores) == pytest.approx(100 * ((0.9 - 0.6) + (0.8 - 0.75)) / 2)
    scores[2, :2] = 1.0  # what came later helped
    assert forgetting(scores) == pytest.approx(-100 * (0.1 + 0.2) / 2)


def test_who_keeps_all_answers_forgets_nothing(tmp_path: Path) -> None:
    found = measured(tmp_path, subjects(240), "forget", labels=120, names=("knn", "domain_means"))
    assert found["domains"] == 3
    for row in found["policies"].values():
        assert abs(row["forgetting"]["points"]) < 3.0
        assert row["forgetting"]["newest"] > 0.7
    with pytest.raises(InvalidRequest, match="240 labels in a sequence of 3 domains with 240 questions"):
        measured(tmp_path, subjects(240), "forget", labels=240)


def test_domains_are_learnt_in_turn_and_clusters_stand_in_for_them(tmp_path: Path) -> None:
    data = known(tmp_path, subjects(120))
    parts = sequence(data, 60, 1)
    assert sorted(len(own) for own, _ in parts) == [20, 20, 20]
    for own, held in parts:
        assert not set(own.tolist()) & set(held.tolist())
        assert len(set(data.questions.domains[np.concatenate((own, held))].tolist())) == 1
    # given a file that names no domains, clusters of the vectors do: none holds two subjects
    silent = told(known(tmp_path, subjects(120, domain=False)), 0)
    for name in np.unique(silent.questions.domains):
        assert len(set((np.flatnonzero(silent.questions.domains == name) % 3).tolist())) == 1
    assert len(np.unique(clusters(data.questions.vectors, 3, np.random.default_rng(0)))) <= 3
