"""One run of `eval routing`, from files that were read to the report.

Invariant: whatever the protocol, each policy has the same keys; what a protocol does not measure is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ruvllm.errors import InvalidRequest
from ruvllm.models.embedding import Embedder
from ruvllm.streams.proof.eval_routing import COST_WEIGHT, Say, full, given_split, learner, random_splits
from ruvllm.streams.proof.report import report
from ruvllm.streams.proof.routing_estimates import estimate
from ruvllm.streams.proof.routing_forgetting import forget
from ruvllm.streams.proof.routing_sessions import sessions
from ruvllm.streams.proof.routing_sets import Answered, RoutingSet, answered
from ruvllm.streams.proof.routing_streams import stream

Protocol = Literal["full", "bandit", "drift", "forget", "estimate", "sessions"]


def measure(
    data: RoutingSet,
    test: RoutingSet | None,
    embedder: Embedder,
    cache: Path,
    *,
    protocol: Protocol,
    labels: int,
    seeds: int,
    names: Sequence[str],
    block: int,
    say: Say,
) -> dict[str, Any]:
    """The report. `test`: the tested part, if it is a file of its own; then all of `data` is labelled.

    Raises InvalidRequest for what cannot be measured, MissingRequirement if FastGRNN is asked for without torch.
    """
    for name in names:
        learner(name, len(data.models), 0)  # before minutes of embedding
    if test is not None and protocol != "full":
        raise InvalidRequest(f"protocol `{protocol}` takes one file", hint="Give --data instead of --train and --test.")
    known = answered(data, embedder, cache)
    if test is not None:
        labels, tested = len(known), answered(test, embedder, cache)
        results = full(given_split(known, tested, seeds), names, say)
    elif protocol == "full":
        tested = known
        results = full(random_splits(known, labels, seeds), names, say)
    elif protocol == "forget":
        tested = known
        results = forget(known, names, labels=labels, seeds=seeds, say=say)
    elif protocol == "sessions":
        tested = known
        results = sessions(known, labels=labels, seeds=seeds, say=say)
    elif protocol == "estimate":
        tested = known
        results = estimate(known, names, labels=labels, seeds=seeds, say=say)
    else:
        tested = known
        results = stream(known, names, requests=labels, seeds=seeds, block=block, drift=protocol == "drift", say=say)
    sizes = {"questions": len(data), "tested_file": len(test) if test else None, "embedder": embedder.name}
    return report(
        "ruvllm eval routing",
        seed=0,
        sizes=sizes,
        results={
            "protocol": protocol,
            "labels": labels,
            "seeds": seeds,
            "reward_cost_weight": COST_WEIGHT,
            "models": _models(data.models, tested),
            **results,
        },
    )


def _models(names: Sequence[str], tested: Answered) -> dict[str, dict[str, float]]:
    """Each model alone on all questions of the tested file."""
    qualities = np.round(tested.qualities.mean(axis=0, dtype=np.float64), 4).tolist()
    costs = np.round(tested.costs.mean(axis=0, dtype=np.float64), 4).tolist()
    return {name: {"quality": q, "cost": c} for name, q, c in zip(names, qualities, costs, strict=True)}
