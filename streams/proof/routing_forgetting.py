"""What learning a new domain does to the old ones: domains in sequence, each learnt by one call.

After each domain the held-out questions of every domain so far are routed by the greatest predicted reward.
Forgetting of a domain is the best of its earlier scores less its last one (Chaudhry et al. 2018, Riemannian
Walk, section 3.2), averaged over all domains but the newest, in points (100 times quality or reward).

Domains are those of the file, the ten with the most questions; where it names only one, ten clusters of the
questions' vectors (k-means on the sphere, seeded).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ruvllm.errors import InvalidRequest
from ruvllm.models.router.learner import Float32s, Learner
from ruvllm.streams.proof.eval_routing import COST_WEIGHT, JUDGED, Say, Tally, fastgrnn, learner, minus, row
from ruvllm.streams.proof.routing_scores import Float64s, best_single, chosen, reward, taken
from ruvllm.streams.proof.routing_sets import Answered, Rows

DOMAINS: Final = 10
SMALLEST: Final = 4
"""Questions that a domain needs: half are learnt from at most."""
PLAIN: Final = "fastgrnn_plain"
"""FastGRNN without EWC and without the reservoir: the control."""
_ROUNDS: Final = 20


def forget(answered: Answered, names: Sequence[str], *, labels: int, seeds: int, say: Say) -> dict[str, Any]:
    """Results of protocol `forget`: `labels` questions are learnt from, the others of the domains are tested.

    Raises InvalidRequest if there are fewer than two domains, or nothing would be left to test.
    """
    names = [*names, PLAIN] if JUDGED in names else list(names)
    tallies = {name: Tally() for name in names}
    matrices: dict[str, list[tuple[Float64s, Float64s]]] = {name: [] for name in names}
    for seed in range(seeds):
        data = told(answered, seed)
        parts = sequence(data, labels, seed)
        learnt = data.rows(np.concatenate([own for own, _ in parts]))
        mean_costs, single = learnt.costs.mean(axis=0, dtype=np.float64), best_single(learnt.qualities)
        for name in names:
            tiers = answered.qualities.shape[1]
            router = fastgrnn(tiers, seed, remembers=False) if name == PLAIN else learner(name, tiers, seed)
            matrices[name].append(_learnt_in_turn(router, data, parts, mean_costs))
            tested = np.concatenate([held for _, held in parts])
            routes = chosen(router.predict(data.questions.rows(tested)), mean_costs, COST_WEIGHT)
            tallies[name].add(tested, data.rows(tested), routes, float(mean_costs.max()), single)
        say(f"seed {seed}: " + "  ".join(f"{n} {forgetting(matrices[n][-1][0]):.2f}" for n in names) + " points")
    return {
        "policies": {name: row(tally, 0.0) | {"forgetting": _row(matrices[name])} for name, tally in tallies.items()},
        "fastgrnn_minus_knn": minus(tallies, "knn"),
        "domains": len(matrices[names[0]][0][0]),
    }


def told(data: Answered, seed: int) -> Answered:
    """The same; where all questions are of one domain, clusters of their vectors take its place."""
    if len(np.unique(data.questions.domains)) > 1:
        return data
    found = clusters(data.questions.vectors, DOMAINS, np.random.default_rng(seed))
    return replace(data, questions=replace(data.questions, domains=np.char.mod("cluster-%d", found)))


def sequence(data: Answered, labels: int, seed: int) -> list[tuple[Rows, Rows]]:
    """Domains in a seeded order, each as rows to learn from and rows to test: the same share of every domain."""
    generator = np.random.default_rng((seed, 1))
    domain = data.questions.domains
    names, counts = np.unique(domain, return_counts=True)
    largest = names[np.lexsort((names, -counts))][:DOMAINS]
    rows = [np.flatnonzero(domain == name) for name in largest]
    rows = [generator.permutation(of_one) for of_one in rows if len(of_one) >= SMALLEST]
    questions = sum(map(len, rows))
    if len(rows) < 2 or not 2 * len(rows) <= labels < questions:
        raise InvalidRequest(
            f"{labels} labels in a sequence of {len(rows)} domains with {questions} questions",
            hint="Two domains are needed, two labels in each, and questions that are left to test: see --labels.",
        )
    cuts = [min(len(of_one) - 1, max(1, round(labels * len(of_one) / questions))) for of_one in rows]
    parts = [(of_one[:cut], of_one[cut:]) for of_one, cut in zip(rows, cuts, strict=True)]
    return [parts[i] for i in generator.permutation(len(parts))]


def forgetting(scores: Float64s) -> float:
    """(d, d): row i is after the i-th domain, column j the j-th domain's score, 0 to 1; nan before it was learnt.

    In points; below 0 where later domains helped the earlier ones.
    """
    best_before = np.array([scores[j:-1, j].max() for j in range(len(scores) - 1)])
    return float(100.0 * (best_before - scores[-1, :-1]).mean())


def clusters(vectors: Float32s, k: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """(n, d) unit vectors -> (n,): spherical k-means (Dhillon and Modha 2001), a fixed number of rounds."""
    centres = vectors[generator.choice(len(vectors), min(k, len(vectors)), replace=False)].copy()
    for _ in range(_ROUNDS):
        nearest = (vectors @ centres.T).argmax(axis=1)
        for one in np.unique(nearest):
            total = vectors[nearest == one].sum(axis=0)
            centres[one] = total / max(float(np.linalg.norm(total)), 1e-9)
    found: NDArray[np.int64] = (vectors @ centres.T).argmax(axis=1)
    return found


def _learnt_in_turn(
    router: Learner, data: Answered, parts: Sequence[tuple[Rows, Rows]], mean_costs: Float64s
) -> tuple[Float64s, Float64s]:
    """(d, d) mean quality and mean reward: after each domain (row), of each domain so far (column)."""
    quality, worth = np.full((2, len(parts), len(parts)), np.nan)
    for after, (own, _) in enumerate(parts):
        router.learn(data.questions.rows(own), data.qualities[own])
        for of, (_, held) in enumerate(parts[: after + 1]):
            asked = data.rows(held)
            routes = chosen(router.predict(asked.questions), mean_costs, COST_WEIGHT)
            got, paid = taken(asked.qualities, routes), taken(asked.costs, routes)
            quality[after, of] = got.mean()
            worth[after, of] = reward(got, paid, float(mean_costs.max()), COST_WEIGHT).mean()
    return quality, worth


def _row(matrices: Sequence[tuple[Float64s, Float64s]]) -> dict[str, Any]:
    """Means over seeds. `newest`: of each domain just after it was learnt."""
    return {
        "points": round(float(np.mean([forgetting(quality) for quality, _ in matrices])), 3),
        "reward_points": round(float(np.mean([forgetting(worth) for _, worth in matrices])), 3),
        "newest": round(float(np.mean([np.diag(quality).mean() for quality, _ in matrices])), 4),
        "newest_reward": round(float(np.mean([np.diag(worth).mean() for _, worth in matrices])), 4),
        "last": round(float(np.mean([quality[-1].mean() for quality, _ in matrices])), 4),
    }
