"""What rankers scored, question by question, and the summary of it: means, intervals, paired gains.

Intervals are over questions: the seeds of one question are averaged first, for they are not independent.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ruvllm.streams.proof.retrieval_sets import Query

CUTS = (2, 5, 10)
AT_5 = 1
RESAMPLES = 2000


@dataclass
class Scores:
    """Of each ranker and question: recall at each cut, reciprocal rank, milliseconds; a row each time it was asked."""

    of: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)

    def add(self, ranker: str, query: Query, order: Sequence[str], ms: float) -> None:
        found = [len(query.gold & set(order[:cut])) / len(query.gold) for cut in CUTS]
        first = next((position for position, node_id in enumerate(order, start=1) if node_id in query.gold), None)
        row = [*found, 1 / first if first else 0.0, ms]
        self.of.setdefault(ranker, {}).setdefault(query.query_id, []).append(row)

    def merge(self, other: Scores) -> None:
        for ranker, questions in other.of.items():
            for query_id, rows in questions.items():
                self.of.setdefault(ranker, {}).setdefault(query_id, []).extend(rows)

    def measured(self, queries: Sequence[Query]) -> list[Query]:
        """Those of the questions that were asked."""
        return [query for query in queries if query.query_id in self.of.get("learned", {})]

    def means(self, ranker: str, queries: Sequence[Query]) -> NDArray[np.float64]:
        """(n, 5): r@2, r@5, r@10, reciprocal rank, ms of each question, mean over the times it was asked."""
        return np.array([np.mean(self.of[ranker][query.query_id], axis=0) for query in queries])


def summary(
    scores: Scores, curve: Mapping[int | str, Scores], axis: str, sets: Sequence[str], queries: Sequence[Query]
) -> dict[str, Any]:
    """By set: of each ranker r@2, r@5, r@10, mrr, ms, and the 95 % interval of r@5; learned less hybrid; the curve."""
    result: dict[str, Any] = {}
    for name in sets:
        of_set = [query for query in queries if query.of_set == name]
        if measured := scores.measured(of_set):
            rankers = {ranker: _row(scores.means(ranker, measured)) for ranker in scores.of}
            gain = learned_minus_hybrid(scores, measured)
            result[name] = {"n": len(measured), "rankers": rankers, "learned_minus_hybrid": gain}
            if curve:
                result[name]["curve"] = curve_of(curve, axis, of_set)
    return result


def curve_of(curve: Mapping[int | str, Scores], axis: str, queries: Sequence[Query]) -> list[dict[str, Any]]:
    """For each place on the axis: r@5 of learned and hybrid, and the paired gain."""
    points = []
    for at, scores in curve.items():
        if measured := scores.measured(queries):
            point: dict[str, Any] = {axis: at, "n": len(measured)}
            for ranker in ("learned", "hybrid"):
                point[ranker] = round(float(scores.means(ranker, measured)[:, AT_5].mean()), 4)
            points.append(point | {"learned_minus_hybrid": learned_minus_hybrid(scores, measured)})
    return points


def learned_minus_hybrid(scores: Scores, queries: Sequence[Query]) -> dict[str, Any]:
    """The gain in r@5, paired by question, with its 95 % interval."""
    gain = (scores.means("learned", queries) - scores.means("hybrid", queries))[:, AT_5]
    return {"r@5": round(float(gain.mean()), 4), "ci95": interval(gain)}


def _row(rows: NDArray[np.float64]) -> dict[str, Any]:
    mean = rows.mean(0)
    return {
        **{f"r@{cut}": round(float(value), 4) for cut, value in zip(CUTS, mean, strict=False)},
        "mrr": round(float(mean[3]), 4),
        "ci95": interval(rows[:, AT_5]),
        "ms": round(statistics.median(rows[:, 4]), 2),
    }


def interval(values: NDArray[np.float64], seed: int = 1) -> list[float]:
    """95 % bootstrap interval of the mean (percentiles of 2,000 resamples of the questions)."""
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return [round(float(low), 4), round(float(high), 4)]
