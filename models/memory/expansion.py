"""What edges lead to: the heaviest paths from some nodes, bounded in hops and in edges from each node.

Invariant: the result is a function of nodes, edges and time; of equal paths the shorter wins, then the one
whose edge ids come first.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ruvllm.models.memory.edges import Edges
from ruvllm.models.memory.found import Reached
from ruvllm.models.memory.node import Edge, Node


class _Path(NamedTuple):
    """Smaller is better: heavier, then shorter, then by edge ids."""

    minus_weight: float
    hops: int
    via: tuple[str, ...]


def walk(
    nodes: Mapping[str, Node],
    edges: Edges,
    seeds: Sequence[str],
    hops: int,
    now: float,
    limit_per_node: int,
    relations: Collection[str] | None,
) -> list[Reached]:
    """See `Memory.expand`."""
    best = {seed: _Path(-1.0, 0, ()) for seed in seeds if seed in nodes}
    frontier = dict(best)
    for hop in range(1, hops + 1):
        improved: dict[str, _Path] = {}
        for node_id, (minus, _, via) in frontier.items():
            for edge_weight, edge in _heaviest(nodes, edges, node_id, now, limit_per_node, relations):
                end = edge.other(node_id)
                path = _Path(minus * edge_weight, hop, (*via, edge.edge_id))
                if end not in best or path < best[end]:
                    best[end] = improved[end] = path
        frontier = improved
    order = sorted((path[:2], node_id) for node_id, path in best.items() if path[1])
    return [Reached(nodes[node_id], hop, -minus, best[node_id][2]) for (minus, hop), node_id in order]


def _heaviest(
    nodes: Mapping[str, Node],
    edges: Edges,
    node_id: str,
    now: float,
    limit: int,
    relations: Collection[str] | None,
) -> list[tuple[float, Edge]]:
    leading = (
        e for e in edges.at(node_id, nodes) if (relations is None or e.relation in relations) and edges.leads(e, now)
    )
    weighed = ((edges.weight(edge, now), edge) for edge in leading)
    return heapq.nsmallest(limit, weighed, key=lambda pair: (-pair[0], pair[1].edge_id))
