"""`ruvllm eval routing`: what a router makes of questions that it did not learn from, beside what it has to beat.

Protocol `full` (the outcomes of all routes are known for the labelled questions): each learner learns the
labelled part, predicts the rest, and is judged at one operating point, whose lambda comes from predictions
for the labelled part that had not seen the question (five folds: `routing_scores.operating_weight`).
The other protocols: `routing_streams.py` (bandit, drift) and `routing_forgetting.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ruvllm.errors import InvalidRequest, MissingRequirement
from ruvllm.models.router.baselines import Always, baselines
from ruvllm.models.router.calibration import expected_calibration_error
from ruvllm.models.router.learner import Float32s, Learner
from ruvllm.streams.proof.retrieval_scores import interval
from ruvllm.streams.proof.routing_scores import (
    Float64s,
    apgr,
    best_single,
    cheapest_good,
    chosen,
    cpt,
    non_dominated,
    operating_weight,
    quality_at,
    reward,
    sweep,
    taken,
)
from ruvllm.streams.proof.routing_sets import Answered, Rows

JUDGED: Final = "fastgrnn"
LEARNERS: Final = (JUDGED, *baselines(2, 0))
FOLDS: Final = 5
COST_WEIGHT: Final = 0.1
"""Of the reward: quality that is worth the dearest model's cost."""
GOOD: Final = 0.5
"""A quality that is good enough: where the cheapest tier that reaches it is to be found."""
FRACTION: Final = 0.4
"""Of the best single model's cost: where the curve is read once more."""
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Split:
    """A labelled and a tested part. `rows`: what each tested question is called in every seed."""

    labelled: Answered
    tested: Answered
    rows: Rows


@dataclass
class Tally:
    """What one policy did, seed by seed, on each tested question."""

    rows: list[Rows] = field(default_factory=list)
    quality: list[Float64s] = field(default_factory=list)
    cost: list[Float64s] = field(default_factory=list)
    reward: list[Float64s] = field(default_factory=list)
    gain: list[Float64s] = field(default_factory=list)
    points: list[Float64s] = field(default_factory=list)
    gap: list[tuple[float | None, float | None, float | None]] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    calibration_error: list[float] = field(default_factory=list)
    cheapest: list[float] = field(default_factory=list)

    def add(self, rows: Rows, tested: Answered, tiers: NDArray[np.int64], largest: float, single: int) -> None:
        """Count the tiers (n,) that were taken. `single`: the best single model, to compare with."""
        quality, cost = taken(tested.qualities, tiers), taken(tested.costs, tiers)
        self.rows.append(rows)
        self.quality.append(quality)
        self.cost.append(cost)
        self.reward.append(reward(quality, cost, largest, COST_WEIGHT))
        self.gain.append(quality - tested.qualities[:, single])

    def expect(self, predicted: Float32s, tested: Answered, tiers: NDArray[np.int64]) -> None:
        """Compare predictions (n, T) with what came of it: of the tiers taken, and of which would have done."""
        expected = np.clip(taken(predicted, tiers), 0.0, 1.0)
        self.calibration_error.append(expected_calibration_error(expected, taken(tested.qualities, tiers)))
        agreed = cheapest_good(predicted, GOOD) == cheapest_good(tested.qualities, GOOD)
        self.cheapest.append(float(agreed.mean()))


def learner(name: str, tiers: int, seed: int) -> Learner:
    """A new one by name. Raises InvalidRequest for an unknown name, MissingRequirement without torch."""
    known = baselines(tiers, seed)
    if name in known:
        return known[name]
    if name != JUDGED:
        raise InvalidRequest(f"no learner is called {name!r}", hint=f"There are {', '.join(LEARNERS)}.")
    return fastgrnn(tiers, seed)


def fastgrnn(tiers: int, seed: int, *, remembers: bool = True) -> Learner:
    """The router that is judged. `remembers`: with EWC and reservoir. Raises MissingRequirement without torch."""
    try:
        from ruvllm.models.router.fastgrnn_learner import FastGrnnLearner  # noqa: PLC0415
    except ImportError as error:
        raise MissingRequirement(
            f"the router learns with torch: {error}", hint="Install `ruvllm[train]`, or name other --learners."
        ) from error
    return FastGrnnLearner(tiers, seed, elastic=remembers, reservoir=remembers)


def random_splits(data: Answered, labels: int, seeds: int) -> list[Split]:
    """`labels` questions at random, the rest tested, once a seed. Raises InvalidRequest if none would be left."""
    if not 2 * FOLDS <= labels < len(data):
        raise InvalidRequest(
            f"{labels} labels of {len(data)} questions: from {2 * FOLDS} to {len(data) - 1} are possible",
            hint="Take fewer --labels; what is not labelled is tested.",
        )
    splits = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(data))
        splits.append(Split(data.rows(order[:labels]), data.rows(order[labels:]), order[labels:]))
    return splits


def given_split(labelled: Answered, tested: Answered, seeds: int) -> list[Split]:
    """The same two parts in every seed: only the learners differ. The labelled come in the seed's order."""
    if len(labelled) < 2 * FOLDS:
        raise InvalidRequest(f"{len(labelled)} labelled questions: at least {2 * FOLDS} are needed")
    rows = np.arange(len(tested))
    orders = (np.random.default_rng(seed).permutation(len(labelled)) for seed in range(seeds))
    return [Split(labelled.rows(order), tested, rows) for order in orders]


def full(splits: Sequence[Split], names: Sequence[str], say: Say) -> dict[str, Any]:
    """Results of protocol `full`, as the report has them."""
    tallies = {name: Tally() for name in names}
    singles, oracle = Tally(), []
    for seed, split in enumerate(splits):
        tiers = split.labelled.qualities.shape[1]
        mean_costs = split.labelled.costs.mean(axis=0, dtype=np.float64)
        single, largest = best_single(split.labelled.qualities), float(mean_costs.max())
        singles.add(split.rows, split.tested, np.full(len(split.tested), single), largest, single)
        oracle.append(float(split.tested.qualities.max(axis=1).mean()))
        for name in names:
            predicted, weight = _learnt(name, tiers, seed, split.labelled, split.tested)
            tally, tested = tallies[name], split.tested
            tally.add(split.rows, tested, chosen(predicted, mean_costs, weight), largest, single)
            tally.weight.append(weight)
            tally.expect(predicted, tested, chosen(predicted, mean_costs, weight))
            points = sweep(predicted, tested.qualities, tested.costs, mean_costs)
            tally.points.append(points[:1] if _is_fixed(name) else points)
            if tiers == 2:
                q = tested.qualities
                tally.gap.append((apgr(predicted, q), cpt(predicted, q, 0.5), cpt(predicted, q, 0.8)))
        say(f"seed {seed}: " + "  ".join(f"{name} {tallies[name].quality[-1].mean():.4f}" for name in names))
    budget = mean_of(singles.cost)
    return {
        "policies": {name: row(tally, budget) for name, tally in tallies.items()},
        "fastgrnn_minus_knn": minus(tallies, "knn"),
        "best_single": {"quality": mean_of(singles.quality), "cost": budget, "reward": mean_of(singles.reward)},
        "oracle": round(float(np.mean(oracle)), 4),
    }


def row(tally: Tally, budget: float) -> dict[str, Any]:
    """One policy's figures: means over seeds; the interval is of the gain over the best single model."""
    points = non_dominated(np.mean(tally.points, axis=0)) if tally.points else None
    gap = [_mean([seed[i] for seed in tally.gap]) for i in range(3)]
    at = quality_at(points, FRACTION * budget) if points is not None else None
    return {
        "quality": mean_of(tally.quality),
        "cost": mean_of(tally.cost),
        "reward": mean_of(tally.reward),
        "apgr": gap[0],
        "cpt50": gap[1],
        "cpt80": gap[2],
        "ci95": paired(tally.rows, tally.gain),
        "curve": None if points is None else np.round(points, 4).tolist(),
        "quality_at_40_percent_cost": None if at is None else round(at, 4),
        "calibration_error": _mean(tally.calibration_error),
        "cheapest_good": _mean(tally.cheapest),
        "cost_weights": [round(weight, 5) for weight in tally.weight],
    }


def minus(tallies: dict[str, Tally], other: str) -> dict[str, Any]:
    """FastGRNN's quality less another's, each at its operating point, paired by question; null without both."""
    if JUDGED not in tallies or other not in tallies:
        return {"quality": None, "ci95": None}
    ours, theirs = tallies[JUDGED], tallies[other]
    difference = [a - b for a, b in zip(ours.quality, theirs.quality, strict=True)]
    return {"quality": mean_of(difference), "ci95": paired(ours.rows, difference)}


def paired(rows: Sequence[Rows], values: Sequence[Float64s]) -> list[float]:
    """95 % bootstrap interval of a mean over questions; the seeds of one question are averaged first."""
    names = np.concatenate(rows)
    sums = np.bincount(names, np.concatenate(values))
    counts = np.bincount(names)
    return interval(sums[counts > 0] / counts[counts > 0])


def mean_of(seeds: Sequence[Float64s]) -> float:
    return round(float(np.mean([values.mean() for values in seeds])), 4)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else None


def _is_fixed(name: str) -> bool:
    """It is one route, whatever the price: it has no lambda and no curve, and may cost more than the best single."""
    return isinstance(baselines(2, 0).get(name), Always)


def _learnt(name: str, tiers: int, seed: int, labelled: Answered, tested: Answered) -> tuple[Float32s, float]:
    """Predictions (n, T) for the tested part, and the lambda of the operating point, from the labelled part alone."""
    whole = learner(name, tiers, seed)
    whole.learn(labelled.questions, labelled.qualities)
    predicted = whole.predict(tested.questions)
    if _is_fixed(name):
        return predicted, 0.0
    held_out = np.empty_like(labelled.qualities)
    fold = np.arange(len(labelled)) % FOLDS  # the labelled part is in a random order
    for one in range(FOLDS):
        part = learner(name, tiers, seed)
        others, own = np.flatnonzero(fold != one), np.flatnonzero(fold == one)
        part.learn(labelled.questions.rows(others), labelled.qualities[others])
        held_out[own] = part.predict(labelled.questions.rows(own))
    return predicted, operating_weight(held_out, labelled.qualities, labelled.costs)
