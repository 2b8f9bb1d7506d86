"""The picture of a routing report: quality against cost, and beside it what a stream showed, if it was one.

Lines are the cost-quality curves, large marks the operating points, dots the models alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # the backend must be chosen first

COLOURS = {
    "fastgrnn": "#d2603a",
    "fastgrnn_plain": "#e8b09c",
    "knn": "#4c6f96",
    "linucb": "#6f9e6f",
    "linucb_bonus": "#a9cfa9",
    "logistic": "#8d6fa8",
    "domain_means": "#b59a3c",
    "random": "#c9c9c9",
    "always-smallest": "#8a8a8a",
    "always-largest": "#5a5a5a",
}


def plot(report: dict[str, Any], file: Path) -> None:
    """Write a PNG."""
    regret = {name: row["regret"]["curve"] for name, row in report["policies"].items() if row.get("regret")}
    figure, axes = plt.subplots(1, 1 + bool(regret), figsize=(7 + 6 * bool(regret), 4.8), squeeze=False)
    _costs(axes[0][0], report)
    if regret:
        _regret(axes[0][1], regret)
    figure.suptitle(f"{report['protocol']}, {report['labels']} labels, {report['seeds']} seeds", fontsize=11)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=140)
    plt.close(figure)


def _costs(axis: Any, report: dict[str, Any]) -> None:
    for name, row in report["policies"].items():
        colour = COLOURS.get(name)
        if row["curve"] and len(row["curve"]) > 1:
            axis.plot(*zip(*row["curve"], strict=True), color=colour, lw=2 if name == "fastgrnn" else 1.2)
        axis.plot([row["cost"]], [row["quality"]], "D", color=colour, ms=6, label=name)
    for model, single in report["models"].items():
        axis.plot([single["cost"]], [single["quality"]], "ko", ms=3)
        axis.annotate(
            model, (single["cost"], single["quality"]), fontsize=6, xytext=(3, -7), textcoords="offset points"
        )
    axis.set_xlabel("mean cost of a request")
    axis.set_ylabel("mean quality")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7)


def _regret(axis: Any, curves: dict[str, list[list[float]]]) -> None:
    for name, points in curves.items():
        axis.plot(*zip(*points, strict=True), color=COLOURS.get(name), label=name)
    axis.set_xlabel("requests")
    axis.set_ylabel("cumulative regret in reward")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7)
