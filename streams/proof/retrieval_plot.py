"""The picture of a retrieval report: recall at 5 by set and ranker with its interval, and curves if there are any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # the backend must be chosen first

RANKERS = ("bm25", "vectors", "hybrid", "pagerank", "frozen", "learned")
COLOURS = ("#c9c9c9", "#a9b8c9", "#7a94b0", "#4c6f96", "#8fb08f", "#d2603a")


def plot(report: dict[str, Any], file: Path) -> None:
    """Write a PNG."""
    sets = list(report["sets"])
    curves = {name: report["sets"][name]["curve"] for name in sets if "curve" in report["sets"][name]}
    figure, axes = plt.subplots(1, 1 + bool(curves), figsize=(9 + 5 * bool(curves), 4.2), squeeze=False)
    _bars(axes[0][0], report, sets)
    if curves:
        _curves(axes[0][1], curves)
    figure.suptitle(f"{report['protocol']}, feedback {report['feedback']}, {report['seeds']} seeds", fontsize=11)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=140)
    plt.close(figure)


def _bars(axis: Any, report: dict[str, Any], sets: list[str]) -> None:
    width = 0.8 / len(RANKERS)
    for offset, (ranker, colour) in enumerate(zip(RANKERS, COLOURS, strict=True)):
        rows = [report["sets"][name]["rankers"][ranker] for name in sets]
        places = [index + (offset - len(RANKERS) / 2 + 0.5) * width for index in range(len(sets))]
        heights = [row["r@5"] for row in rows]
        errors = [
            [max(0.0, row["r@5"] - row["ci95"][0]) for row in rows],
            [row["ci95"][1] - row["r@5"] for row in rows],
        ]
        axis.bar(places, heights, width, label=ranker, color=colour, yerr=errors, error_kw={"lw": 0.7})
    axis.set_xticks(range(len(sets)), [f"{name}\nn = {report['sets'][name]['n']}" for name in sets])
    axis.set_ylabel("recall at 5")
    axis.set_ylim(0.3, 1.02)
    axis.legend(ncols=3, fontsize=8, loc="lower right")


def _curves(axis: Any, curves: dict[str, list[dict[str, Any]]]) -> None:
    for name, points in curves.items():
        labels = [str(next(iter(point.values()))) for point in points]
        (line,) = axis.plot(labels, [point["learned"] for point in points], marker="o", label=f"{name}, learned")
        axis.plot(labels, [point["hybrid"] for point in points], ls="--", color=line.get_color(), lw=1)
    axis.set_xlabel(next(iter(next(iter(curves.values()))[0])))
    axis.set_ylabel("recall at 5 (dashed: hybrid)")
    axis.legend(fontsize=8)
