"""The picture of a neighbourhood as an SVG or PNG file. Needs Matplotlib, of the `train` extra; no display.

Invariant: the same neighbourhood and version of Matplotlib give the same file: no date, no random ids.
"""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ruvllm.schemas.memory import SYMMETRIC
from ruvllm.streams.memory_tools.picture import Neighbourhood, colour_of, label, places

LINE_CHARS = 20
CIRCLE_IN = 1.7
"""Between two circles."""
MARGIN = 0.5
"""Around the outermost circle, in circles."""
GAP_POINTS = 18
"""Between the middle of a node and the end of its edges."""
BEND = 0.3
WORDS_BOX = {"boxstyle": "square,pad=0.1", "fc": "white", "lw": 0}


def draw(neighbourhood: Neighbourhood, file: Path) -> None:
    """Write the drawing; the file's ending (.svg, .png) says in which form. Raises OSError if the disk does."""
    at = places(neighbourhood)
    reach = max(math.hypot(x, y) for x, y in at.values()) + MARGIN
    figure = Figure(figsize=(2 * reach * CIRCLE_IN, 2 * reach * CIRCLE_IN))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-reach, reach), ylim=(-reach, reach))
    axes.set_axis_off()
    for edge, weight in neighbourhood.edges:
        (x, y), (to_x, to_y) = at[edge.source], at[edge.target]
        bend = 0.0 if edge.edge_id in neighbourhood.tree else BEND  # so that it does not lie on the tree's edges
        arrow = {
            "arrowstyle": "-" if edge.relation in SYMMETRIC else "-|>",
            "connectionstyle": f"arc3,rad={bend}",
            "lw": 0.5 + 3 * weight,
            "color": "#888888",
            "shrinkA": GAP_POINTS,
            "shrinkB": GAP_POINTS,
        }
        axes.annotate("", (to_x, to_y), (x, y), arrowprops=arrow)
        middle = ((x + to_x + bend * (to_y - y)) / 2, (y + to_y - bend * (to_x - x)) / 2)  # of arc3's Bézier curve
        words = f"{edge.relation} {weight:.2f}"
        axes.text(*middle, words, fontsize=6, color="#555555", ha="center", va="center", bbox=WORDS_BOX)
    for number, (node_id, node) in enumerate(neighbourhood.nodes.items()):
        box = {"boxstyle": "round", "fc": colour_of(node), "lw": 2.0 if number == 0 else 0.7}
        x, y = at[node_id]
        text = "\n".join(textwrap.wrap(label(node), LINE_CHARS))
        axes.text(x, y, text, fontsize=7, ha="center", va="center", bbox=box, parse_math=False)
    with mpl.rc_context({"svg.hashsalt": "ruvllm", "svg.fonttype": "none"}):  # text stays text
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
