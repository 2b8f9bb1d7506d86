"""What a person asks of memory, as plain data: how much there is, one node, what is near it, which edges count.

Invariant: reading only. Every weight and strength is as at the `now` that is handed in (seconds since the
epoch), and everything is of one tenant; what is shown orders itself in one way, so that two looks at the
same memory are equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ruvllm.errors import InvalidRequest
from ruvllm.models.memory.edges import by_client
from ruvllm.models.memory.node import Edge, Node
from ruvllm.models.memory.store import Memory

SHORTEST_PREFIX = 6
FEW = 5
"""So many of several nodes that a prefix fits are named."""

Order = Literal["weight", "use"]


@dataclass(frozen=True)
class EdgeFacts:
    """An edge. `learnt`: client -> what it counts now; `use` counts the outcomes it was learnt from.

    `leads`: whether retrieval follows it; not if it is pruned or its outcomes left it without weight.
    """

    edge_id: str
    relation: str
    source: str
    target: str
    weight: float
    birth_weight: float | None
    learnt: dict[str, float]
    use: int
    leads: bool
    pruned: bool


@dataclass(frozen=True)
class MemberFacts:
    """What one interaction made of a node."""

    made_by: str
    at: str
    title: str
    text: str


@dataclass(frozen=True)
class NodeFacts:
    """A node and all that is known of it; `members` are the interactions that made it, the earliest first."""

    node_id: str
    tenant: str
    kind: str
    title: str
    text: str
    document_id: str | None
    position: int
    metadata: dict[str, str]
    embedder: str
    at: str
    members: tuple[MemberFacts, ...]
    edges: tuple[EdgeFacts, ...]
    use: int


@dataclass(frozen=True)
class NeighbourFacts:
    """What `hops` edges lead to; `weight` is their product along `via`, the best path."""

    node_id: str
    kind: str
    title: str
    text: str
    hops: int
    weight: float
    via: tuple[str, ...]


@dataclass(frozen=True)
class RelationFacts:
    """The edges of one relation: how many, of those learnt ones, the outcomes behind them, their mean weight now."""

    edges: int
    learnt: int
    use: int
    mean_weight: float


@dataclass(frozen=True)
class TenantFacts:
    """How much one tenant's memory holds.

    `interactions` made its learnt nodes; `clients` taught its edges. Of its edges `waiting` lack a node, `idle`
    lead nowhere at the moment.
    """

    tenant: str
    nodes: int
    nodes_by_kind: dict[str, int]
    documents: int
    interactions: int
    edges: int
    edges_by_relation: dict[str, RelationFacts]
    waiting: int
    idle: int
    pruned: int
    clients: int


def of_tenant(memory: Memory, tenant: str, now: float) -> TenantFacts:
    """How much memory holds of a tenant."""
    contents = memory.contents()
    nodes = [node for node in contents.nodes if node.tenant == tenant]
    edges = [edge for edge in contents.edges if edge.tenant == tenant and not edge.is_blank]
    kinds = {node.node_id: node.kind for node in reversed(nodes)}  # of several members the first shows
    by_relation = {r: [e for e in edges if e.relation == r] for r in sorted({e.relation for e in edges})}
    return TenantFacts(
        tenant=tenant,
        nodes=len(kinds),
        nodes_by_kind=dict(sorted(Counter(kinds.values()).items())),
        documents=len({node.document_id for node in nodes if node.document_id}),
        interactions=len({node.made_by for node in nodes if node.made_by}),
        edges=len(edges),
        edges_by_relation={r: _of_relation(memory, found, now) for r, found in by_relation.items()},
        waiting=sum(edge.source not in kinds or edge.target not in kinds for edge in edges),
        idle=sum(not memory.leads(edge, now) for edge in edges),
        pruned=sum(memory.pruned(edge) for edge in edges),
        clients=len({client for edge in edges for client in edge.learnt}),
    )


def _of_relation(memory: Memory, edges: Collection[Edge], now: float) -> RelationFacts:
    return RelationFacts(
        edges=len(edges),
        learnt=sum(bool(edge.learnt) for edge in edges),
        use=sum(edge.outcomes for edge in edges),
        mean_weight=sum(memory.weight_of(edge, now) for edge in edges) / len(edges),
    )


def named(memory: Memory, tenant: str, prefix: str) -> Node:
    """The node of a tenant whose id is `prefix`, or the only one whose id starts so (6 characters or more).

    Raises InvalidRequest if there is none, or several.
    """
    if node := memory.node(tenant, prefix):
        return node
    if len(prefix) < SHORTEST_PREFIX:
        raise InvalidRequest(
            f"no node of tenant {tenant!r} has the id {prefix!r}",
            hint=f"To name a node by the start of its id give {SHORTEST_PREFIX} characters or more.",
        )
    every = (node.node_id for node in memory.contents().nodes if node.tenant == tenant)
    found = list(dict.fromkeys(node_id for node_id in every if node_id.startswith(prefix)))
    if len(found) > 1:
        more = f" and {len(found) - FEW} more" if len(found) > FEW else ""
        raise InvalidRequest(
            f"{len(found)} nodes of tenant {tenant!r} start with {prefix!r}", hint=f"{', '.join(found[:FEW])}{more}."
        )
    if not found or (node := memory.node(tenant, found[0])) is None:
        raise InvalidRequest(
            f"no node of tenant {tenant!r} starts with {prefix!r}",
            hint="Answers name their sources' nodes: `ruvllm ask --json`; `ruvllm memory edges` names others.",
        )
    return node


def of_node(memory: Memory, node: Node, now: float) -> NodeFacts:
    """A node, its members and its edges, the heaviest first."""
    edges = _ordered(memory, memory.edges_of(node.tenant, node.node_id), "weight", now)
    return NodeFacts(
        node_id=node.node_id,
        tenant=node.tenant,
        kind=node.kind,
        title=node.title,
        text=node.text,
        document_id=node.document_id,
        position=node.position,
        metadata=dict(node.metadata),
        embedder=node.embedder,
        at=_instant(node.created_at),
        members=tuple(
            MemberFacts(member.made_by, _instant(member.created_at), member.title, member.text)
            for member in memory.members(node.tenant, node.node_id)
        ),
        edges=tuple(edges),
        use=sum(edge.use for edge in edges),
    )


def neighbours(
    memory: Memory, node: Node, now: float, *, hops: int, most: int, relations: Collection[str] | None = None
) -> list[NeighbourFacts]:
    """What a node's edges lead to, the heaviest path first, as retrieval walks them; at most `most`."""
    reached = memory.expand(
        node.tenant, [node.node_id], hops=hops, now=now, limit_per_node=most, relations=relations or None
    )
    return [
        NeighbourFacts(r.node.node_id, r.node.kind, r.node.title, r.node.text, r.hops, r.weight, r.via)
        for r in reached[:most]
    ]


def top_edges(
    memory: Memory, tenant: str, now: float, *, by: Order, most: int, relations: Collection[str] | None = None
) -> list[EdgeFacts]:
    """The edges between known nodes that weigh most, or that most outcomes used; ties by id."""
    ids = {node.node_id for node in memory.contents().nodes if node.tenant == tenant}
    edges = (e for e in memory.edges_among(tenant, ids) if not relations or e.relation in relations)
    return _ordered(memory, edges, by, now)[:most]


def of_edge(memory: Memory, edge: Edge, now: float) -> EdgeFacts:
    return EdgeFacts(
        edge_id=edge.edge_id,
        relation=edge.relation,
        source=edge.source,
        target=edge.target,
        weight=memory.weight_of(edge, now),
        birth_weight=None if edge.born_at is None else edge.birth_weight,
        learnt=dict(sorted(by_client(edge, now, memory.half_life_s).items())),
        use=edge.outcomes,
        leads=memory.leads(edge, now),
        pruned=memory.pruned(edge),
    )


def _ordered(memory: Memory, edges: Iterable[Edge], by: Order, now: float) -> list[EdgeFacts]:
    found = [of_edge(memory, edge, now) for edge in edges]
    if by == "use":
        return sorted(found, key=lambda e: (-e.use, -e.weight, e.edge_id))
    return sorted(found, key=lambda e: (-e.weight, -e.use, e.edge_id))


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
