"""Whether two memories are the same, and where they first differ.

Nodes and births are compared to the bit, strengths within a tolerance and as at one time. Places in the log
do not count, nor do edges of which nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ruvllm.models.memory.edge_strength import moved
from ruvllm.models.memory.node import Contents, Edge, Node

SAME_STRENGTH = 1e-9


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same: a field of it, or `presence` where only one of the two has it."""

    kind: Literal["node", "edge"]
    tenant: str
    id: str
    made_by: str
    field: str
    first: Any
    second: Any

    def __str__(self) -> str:
        maker = f" by {self.made_by}" if self.made_by else ""
        return f"{self.kind} {self.id}{maker} of {self.tenant}: {self.field} is {self.first!r} and {self.second!r}"


def differences(
    first: Contents, second: Contents, *, half_life_s: float, tolerance: float = SAME_STRENGTH
) -> Iterator[Difference]:
    """All differences, nodes before edges, in canonical order. `half_life_s` is that of both memories."""
    nodes = _by_id(first.nodes), _by_id(second.nodes)
    for key in sorted(nodes[0].keys() | nodes[1].keys()):
        yield from _of_nodes(key, nodes[0].get(key), nodes[1].get(key))
    edges = _edges(first), _edges(second)
    for tenant, edge_id in sorted(edges[0].keys() | edges[1].keys()):
        pair = edges[0].get((tenant, edge_id)), edges[1].get((tenant, edge_id))
        for name, one, other in _of_edges(*pair, half_life_s, tolerance):
            yield Difference("edge", tenant, edge_id, "", name, one, other)


def _by_id(nodes: tuple[Node, ...]) -> dict[tuple[str, str, str], Node]:
    return {(node.tenant, node.node_id, node.made_by): node for node in nodes}


def _edges(contents: Contents) -> dict[tuple[str, str], Edge]:
    return {(edge.tenant, edge.edge_id): edge for edge in contents.edges if not edge.is_blank}


def _of_nodes(key: tuple[str, str, str], one: Node | None, other: Node | None) -> Iterator[Difference]:
    tenant, node_id, made_by = key
    if one is None or other is None:
        yield Difference("node", tenant, node_id, made_by, "presence", one is not None, other is not None)
        return
    records = one.record(), other.record()
    for name, value in records[0].items():
        if value != records[1][name]:
            yield Difference("node", tenant, node_id, made_by, name, value, records[1][name])
    if one.vector.tobytes() != other.vector.tobytes():
        yield Difference("node", tenant, node_id, made_by, "vector", "one", "another")


def _of_edges(
    one: Edge | None, other: Edge | None, half_life_s: float, tolerance: float
) -> Iterator[tuple[str, Any, Any]]:
    if one is None or other is None:
        yield "presence", one is not None, other is not None
        return
    for name in ("source", "target", "relation", "birth_weight", "born_at", "outcomes", "pruned_at"):
        if getattr(one, name) != getattr(other, name):
            yield name, getattr(one, name), getattr(other, name)
    at = max(one.learnt_at, other.learnt_at)
    for name in ("learnt", "evidence"):
        sums = [_as_at(getattr(edge, name), edge.learnt_at, at, half_life_s) for edge in (one, other)]
        for client in sorted(sums[0].keys() | sums[1].keys()):
            values = [given.get(client, 0.0) for given in sums]
            if not abs(values[0] - values[1]) <= tolerance:
                yield f"{name} from {client or 'nobody'}", values[0], values[1]


def _as_at(sums: Mapping[str, float], learnt_at: float, at: float, half_life_s: float) -> dict[str, float]:
    return {client: moved(value, learnt_at, at, half_life_s) for client, value in sums.items()}
