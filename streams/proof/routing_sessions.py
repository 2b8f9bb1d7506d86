"""What the hidden state that runs along a session is worth: the same router with it and without it.

Questions are dealt into sessions of one domain each, labelled and tested ones apart, as conversations stay with a
subject. One router learns and predicts along the sessions; the ablation sees the same questions in the same order,
each as a session of its own. Neither is told the domain. Where a file has one domain, clusters of the questions'
vectors take its place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from ruvllm.errors import InvalidRequest
from ruvllm.models.router.learner import Float32s
from ruvllm.streams.proof.eval_routing import COST_WEIGHT, Say, fastgrnn, paired, random_splits
from ruvllm.streams.proof.routing_forgetting import told
from ruvllm.streams.proof.routing_scores import Float64s, apgr, chosen, reward, taken
from ruvllm.streams.proof.routing_sets import Answered

TURNS: Final = 5


def sessions(data: Answered, *, labels: int, seeds: int, say: Say) -> dict[str, Any]:
    """Results of protocol `sessions`. Raises InvalidRequest where no session of so many turns can be made."""
    found: dict[str, list[dict[str, Any]]] = {"along_sessions": [], "each_alone": []}
    rows, rewards, squares = [], [], []
    for seed, split in enumerate(random_splits(told(data, 0), labels, seeds)):
        draws = np.random.default_rng(seed)
        labelled, _ = dealt(split.labelled, draws)
        tested, order = dealt(split.tested, draws)
        mean_costs = labelled.costs.mean(axis=0, dtype=np.float64)
        by_row: dict[str, tuple[Float64s, Float64s]] = {}
        for name, runs in found.items():
            part, asked = (labelled, tested) if name == "along_sessions" else (apart(labelled), apart(tested))
            router = fastgrnn(tested.qualities.shape[1], seed)
            router.learn(part.questions, part.qualities)
            predicted = router.predict(asked.questions)
            routes = chosen(predicted, mean_costs, COST_WEIGHT)
            quality, cost = taken(tested.qualities, routes), taken(tested.costs, routes)
            earned = reward(quality, cost, float(mean_costs.max()), COST_WEIGHT)
            by_row[name] = earned, _brier(predicted, tested.qualities)
            runs.append({"reward": earned.mean(), "brier": by_row[name][1].mean()} | _gap(predicted, tested))
        rows.append(split.rows[order])
        rewards.append(by_row["along_sessions"][0] - by_row["each_alone"][0])
        squares.append(by_row["along_sessions"][1] - by_row["each_alone"][1])
        say(f"seed {seed}: Brier score less {np.mean(squares[-1]):+.4f}, reward {np.mean(rewards[-1]):+.4f}")
    means = {
        name: {key: round(float(np.mean([of_seed[key] for of_seed in runs])), 4) for key in runs[0]}
        for name, runs in found.items()
    }
    difference = {"reward_ci95": paired(rows, rewards), "brier_ci95": paired(rows, squares)}
    return {"turns": TURNS, "sessions": means | {"difference": difference}}


def dealt(part: Answered, draws: np.random.Generator) -> tuple[Answered, np.ndarray]:
    """The questions in sessions of `TURNS` of one domain, and the rows they are; what is left over is left out."""
    found = []
    for domain in np.unique(part.questions.domains):
        own = draws.permutation(np.flatnonzero(part.questions.domains == domain))
        found += list(own[: len(own) // TURNS * TURNS].reshape(-1, TURNS))
    if not found:
        raise InvalidRequest(
            f"no domain has {TURNS} questions in a part of {len(part)}", hint="Take more --labels, or another file."
        )
    order = np.concatenate([found[i] for i in draws.permutation(len(found))])
    chosen_part = part.rows(order)
    session = np.repeat(np.arange(len(found), dtype=np.int64), TURNS)
    return replace(chosen_part, questions=replace(chosen_part.questions, sessions=session)), order


def apart(part: Answered) -> Answered:
    """Each question a session of its own."""
    alone = np.arange(len(part), dtype=np.int64)
    return replace(part, questions=replace(part.questions, sessions=alone))


def _brier(predicted: Float32s, qualities: Float32s) -> Float64s:
    squares: Float64s = ((predicted - qualities) ** 2).mean(axis=1, dtype=np.float64)
    return squares


def _gap(predicted: Float32s, tested: Answered) -> dict[str, float]:
    found = apgr(predicted, tested.qualities) if predicted.shape[1] == 2 else None
    return {} if found is None else {"apgr": found}
