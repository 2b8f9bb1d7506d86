"""The figures of several runs of faults, as one report and as one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ruvllm.streams.proof.report import machine

COLUMNS = (
    "seed", "kills", "requests", "lost", "answered_twice", "effects_lost", "effects_doubled",
    "order_inversions", "errors", "fold_equal", "poison", "seconds",
)  # fmt: skip
SUMMED = tuple(c for c in COLUMNS if c not in ("seed", "fold_equal"))


def totals(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sums over all runs; `fold_equal` if it was in each of them."""
    found: dict[str, Any] = {name: round(sum(run[name] for run in runs), 1) for name in SUMMED}
    return {"seed": "all", **found, "fold_equal": all(run["fold_equal"] for run in runs)}


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One report of many runs: the sums, then each of them."""
    return {
        "command": "ruvllm faults",
        "machine": machine(),
        **totals(runs),
        "seeds": [run["seed"] for run in runs],
        "findings": [f"seed {run['seed']}: {finding}" for run in runs for finding in run["findings"]],
        "runs": list(runs),
    }


def as_markdown(runs: Sequence[dict[str, Any]]) -> str:
    """A table with one row a seed, and their sums."""
    rows = [*runs, *([totals(runs)] if len(runs) > 1 else [])]
    lines = ["| " + " | ".join(name.replace("_", " ") for name in COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in COLUMNS) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.0f}" if isinstance(value, float) else str(value)
