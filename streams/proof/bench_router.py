"""`ruvllm bench router`: what one routing decision takes, part by part.

The parts are timed in turns, so that a busy moment of the machine falls on all of them alike. `decision` is all that
the route stage does for a request: features, the past, one step, the policy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ruvllm.models.router.arms import Action, Arms
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.models.router.features import FORM, request_features, with_past
from ruvllm.models.router.past_outcomes import fit_table
from ruvllm.models.router.policy import Router
from ruvllm.models.router.signals import Hit, MemorySignals
from ruvllm.streams.proof.report import report

TIERS = ("small", "middle", "large")
QUESTION = "What is the capital of the country that exported the most coffee in 1990?"
HITS = [Hit(0.6 - 0.1 * n, "document", n > 1, 3600.0, 400) for n in range(4)]


def bench_router(*, rounds: int, past: int, seed: int) -> dict[str, Any]:
    """Medians and 95th percentiles in microseconds over `rounds`, with `past` judged answers to estimate from."""
    draws = np.random.default_rng(seed)
    vectors = draws.standard_normal((past, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    forms = draws.random((past, FORM.stop - FORM.start), np.float32)
    fitted, _ = fit_table(vectors, forms, draws.random((past, len(TIERS))))
    arms = Arms(TIERS)
    router = Router(
        Checkpoint.initial(arms, seed),
        arms,
        Action("middle", 2048, 0.0, 0.95),
        confidence_threshold=0.5,
        exploration=0.1,
    )
    hidden = draws.standard_normal(64).astype(np.float32)

    def features() -> Any:
        return request_features(QUESTION, query_vector=vectors[0], signals=MemorySignals.of(HITS), tiers=TIERS)

    whole = with_past(features(), fitted.outlook(vectors[0], features()[FORM]))

    def decision() -> Any:
        seen = features()
        seen = with_past(seen, fitted.outlook(vectors[0], seen[FORM]))
        return router.decide(seen, hidden, available_tiers=TIERS, seed=1)

    parts: dict[str, Callable[[], Any]] = {
        "cell": lambda: router.checkpoint.cell.step(whole, hidden),
        "forward": lambda: router.checkpoint.forward(whole, hidden),
        "features": features,
        "past": lambda: fitted.outlook(vectors[0], whole[FORM]),
        "policy": lambda: router.decide(whole, hidden, available_tiers=TIERS, seed=1),
        "decision": decision,
    }
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, part in parts.items():
            started = time.perf_counter()
            part()
            taken[name].append((time.perf_counter() - started) * 1e6)
    results = {
        name: {"p50_us": round(float(np.median(us)), 1), "p95_us": round(float(np.quantile(us, 0.95)), 1)}
        for name, us in taken.items()
    }
    return report("ruvllm bench router", seed=seed, sizes={"rounds": rounds, "past": past}, results={"parts": results})
