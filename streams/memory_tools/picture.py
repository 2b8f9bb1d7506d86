"""A picture of what is around one node: as Graphviz DOT, and where each node lies in a drawing.

Invariant: the same neighbourhood gives the same DOT, byte for byte, and the same places in the drawing: the
node in the middle, what one edge leads to on the first circle, what two lead to on the second. Each node has
a sector of the circle as wide as what hangs on it, within that of the node it was reached from (a radial
drawing of the tree of best paths: Eades, "Drawing free trees", 1992); the other edges are drawn across.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from ruvllm.models.memory.node import Edge, Node
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.memory import SYMMETRIC

COLOURS = {"document": "#cfe2f3", "question": "#fff2cc", "answer": "#d9ead3", "concept": "#ead1dc"}
OTHER_COLOUR = "#eeeeee"
LABEL_CHARS = 60


@dataclass(frozen=True)
class Neighbourhood:
    """Nodes by id, the middle one first; `parents`: id -> the id it was reached from, by an edge of `tree`.

    Every edge among them stands with its weight.
    """

    nodes: Mapping[str, Node]
    parents: Mapping[str, str]
    tree: frozenset[str]
    edges: tuple[tuple[Edge, float], ...]


def around(memory: Memory, node: Node, now: float, *, hops: int, most: int) -> Neighbourhood:
    """A node, at most `most` others that `hops` edges lead to at `now`, and every edge among them."""
    with memory.lock:
        reached = memory.expand(node.tenant, [node.node_id], hops=hops, now=now, limit_per_node=most)[:most]
        nodes = {node.node_id: node} | {r.node.node_id: r.node for r in reached}
        parents = {}
        for r in reached:
            last = memory.edge(node.tenant, r.via[-1])
            assert last is not None
            parents[r.node.node_id] = last.other(r.node.node_id)
        edges = [(e, memory.weight_of(e, now)) for e in memory.edges_among(node.tenant, nodes)]
    return Neighbourhood(nodes, parents, frozenset(r.via[-1] for r in reached), tuple(edges))


def dot(neighbourhood: Neighbourhood) -> str:
    """The neighbourhood in the DOT language of Graphviz; an edge is the thicker the heavier it is."""
    lines = ["digraph memory {", '  graph [layout="twopi", overlap="false"]']
    lines.append('  node [shape="box", style="rounded,filled", fontname="sans-serif", fontsize=10]')
    lines.append('  edge [fontname="sans-serif", fontsize=8]')
    for number, (node_id, node) in enumerate(neighbourhood.nodes.items()):
        pen = 3 if number == 0 else 1
        words = f"label={_quoted(label(node))}, tooltip={_quoted(node_id)}"
        lines.append(f'  {_quoted(node_id)} [{words}, fillcolor="{colour_of(node)}", penwidth={pen}]')
    for edge, weight in neighbourhood.edges:
        look = f"penwidth={0.5 + 3 * weight:.2f}, label={_quoted(f'{edge.relation} {weight:.2f}')}"
        direction = ', dir="none"' if edge.relation in SYMMETRIC else ""
        lines.append(f"  {_quoted(edge.source)} -> {_quoted(edge.target)} [{look}{direction}]")
    return "\n".join([*lines, "}"]) + "\n"


def places(neighbourhood: Neighbourhood) -> dict[str, tuple[float, float]]:
    """Where each node lies: id -> (x, y), the middle at (0, 0), circles one apart."""
    children: dict[str, list[str]] = {node_id: [] for node_id in neighbourhood.nodes}
    for child, parent in neighbourhood.parents.items():
        children[parent].append(child)

    def leaves(node_id: str) -> int:
        return sum(map(leaves, children[node_id])) or 1

    found: dict[str, tuple[float, float]] = {}

    def place(node_id: str, circle: int, start: float, width: float) -> None:
        middle = start + width / 2
        found[node_id] = (circle * math.cos(middle), circle * math.sin(middle))
        for child in children[node_id]:
            share = width * leaves(child) / leaves(node_id)
            place(child, circle + 1, start, share)
            start += share

    place(next(iter(neighbourhood.nodes)), 0, 0.0, 2 * math.pi)
    return found


def colour_of(node: Node) -> str:
    return COLOURS.get(node.kind, OTHER_COLOUR)


def label(node: Node) -> str:
    """The start of what a node says, on one line; its id if it says nothing."""
    words = " ".join(f"{node.title}: {node.text}".split() if node.kind == "document" else node.text.split())
    return textwrap.shorten(words, LABEL_CHARS, placeholder="…") or node.node_id


def _quoted(text: str) -> str:
    """A DOT string: only the quotation mark has to be escaped; a backslash would escape what follows it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
