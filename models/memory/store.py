"""What is known: nodes, edges and an index of vectors, folded from changes, apart by tenant.

Invariant: the state is a function of the changes of each node and each edge in their own order.
How changes of different ids interleave does not matter, and a change that comes again changes
nothing. An edge may come before its nodes; it shows only while both are there, in its own tenant.

Threads: searches may run in threads while an event loop folds changes. Each verb holds `lock` for its
own short duration (hnswlib must not be searched while it grows); what it returns is immutable. Hold
`lock` around several verbs to see one moment.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ruvllm.errors import InvalidConfiguration, InvalidRequest
from ruvllm.models.memory.edge_strength import decayed, half_life, strength_at_birth, weight
from ruvllm.models.memory.node import Contents, Edge, Float32s, Node
from ruvllm.models.memory.vector_index import VectorIndex

DEFAULT_HALF_LIFE_S = 30 * 86_400.0
UNIT_LENGTH_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Hit:
    """A node found by its vector. `similarity` is the cosine, -1 to 1."""

    node: Node
    similarity: float


@dataclass(frozen=True, slots=True)
class Reached:
    """A node found through edges. `weight` is their product on the best path, `via` that path."""

    node: Node
    hops: int
    weight: float
    via: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stats:
    """How much is held. `edges` counts those that wait for a node too."""

    tenants: int
    nodes: int
    nodes_by_kind: Mapping[str, int]
    edges: int


@dataclass(slots=True)
class _Tenant:
    """One tenant's part. Vectors are indexed by kind: a search in one kind needs no filter."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: dict[str, Edge] = field(default_factory=dict)
    touching: dict[str, set[str]] = field(default_factory=dict)  # node id, known or not -> edge ids
    indexes: dict[str, VectorIndex] = field(default_factory=dict)

    def visible_edges(self, node_id: str) -> Iterator[Edge]:
        """The edges of a node whose two ends are known."""
        for edge_id in self.touching.get(node_id, ()):
            edge = self.edges[edge_id]
            if edge.source in self.nodes and edge.target in self.nodes:
                yield edge


class _Path(NamedTuple):
    """Smaller is better: heavier, then shorter, then by edge ids."""

    minus_weight: float
    hops: int
    via: tuple[str, ...]


class Memory:
    """The fold of memory changes for one embedder. Nothing of one tenant is seen from another."""

    def __init__(
        self,
        embedder: str,
        dimension: int,
        *,
        half_life_s: float = DEFAULT_HALF_LIFE_S,
        exact_below: int = 2000,
    ) -> None:
        """`embedder` names the vectors' model; `exact_below` is `VectorIndex`'s threshold, by kind.

        `half_life_s` is that of edges that were learnt; structural ones do not decay.
        """
        self.embedder = embedder
        self.dimension = dimension
        self.half_life_s = half_life_s
        self.lock = threading.RLock()
        self._exact_below = exact_below
        self._tenants: dict[str, _Tenant] = {}

    def put_node(self, node: Node) -> None:
        """Put or replace a node. Raises what `put_nodes` raises."""
        self.put_nodes((node,))

    def put_nodes(self, nodes: Iterable[Node]) -> None:
        """Put or replace many nodes; the same as one after the other, but quicker. All or none are put.

        Raises InvalidConfiguration if a vector is of another embedder, InvalidRequest if it has another
        shape or is neither of unit length nor zero.
        """
        latest = {(node.tenant, node.node_id): node for node in nodes}
        for node in latest.values():
            self._check_vector(node)
        by_kind: dict[tuple[str, str], list[Node]] = {}
        with self.lock:
            for node in latest.values():
                state = self._tenants.setdefault(node.tenant, _Tenant())
                known = state.nodes.get(node.node_id)
                if known is not None and known.kind != node.kind:
                    state.indexes[known.kind].remove(node.node_id)
                state.nodes[node.node_id] = node
                by_kind.setdefault((node.tenant, node.kind), []).append(node)
            for (tenant, kind), group in by_kind.items():
                vectors = np.stack([node.vector for node in group])
                self.index(tenant, kind).add_many([node.node_id for node in group], vectors)

    def remove_node(self, tenant: str, node_id: str) -> None:
        """Forget a node. Its edges are hidden, and show again should it come back."""
        with self.lock:
            state = self._of(tenant)
            if node := state.nodes.pop(node_id, None):
                state.indexes[node.kind].remove(node_id)

    def put_edge(self, edge: Edge) -> None:
        """Put an edge; its birth is set once: of several, the one born first stays (ties by content).

        Raises InvalidRequest if its weight is not in [0, 1).
        """
        strength_at_birth(edge.birth_weight)
        with self.lock:
            state = self._tenants.setdefault(edge.tenant, _Tenant())
            known = state.edges.get(edge.edge_id)
            if known is not None and _birth(known) <= _birth(edge):
                return
            self.remove_edge(edge.tenant, edge.edge_id)
            state.edges[edge.edge_id] = edge
            for end in (edge.source, edge.target):
                state.touching.setdefault(end, set()).add(edge.edge_id)

    def remove_edge(self, tenant: str, edge_id: str) -> None:
        """Forget an edge."""
        with self.lock:
            state = self._of(tenant)
            edge = state.edges.pop(edge_id, None)
            for end in {edge.source, edge.target} if edge else ():
                state.touching[end].discard(edge_id)
                if not state.touching[end]:
                    del state.touching[end]

    def node(self, tenant: str, node_id: str) -> Node | None:
        with self.lock:
            return self._of(tenant).nodes.get(node_id)

    def search(
        self,
        tenant: str,
        vector: Float32s,
        k: int,
        *,
        where: Mapping[str, str] | None = None,
        kinds: Collection[str] | None = None,
    ) -> list[Hit]:
        """The k nodes most similar to a (d,) vector, best first, ties by id.

        `kinds` restricts their kind. `where` asks for metadata with these very values and is exact: all
        that match are compared, in time that grows with the tenant's nodes.
        """
        with self.lock:
            state = self._of(tenant)
            among = None
            if where:
                wanted = where.items()
                among = [i for i, node in state.nodes.items() if wanted <= node.metadata.items()]
            found = [
                (-similarity, node_id)
                for kind, index in state.indexes.items()
                if kinds is None or kind in kinds
                for node_id, similarity in index.search(vector, k, among=among)
            ]
            return [Hit(state.nodes[node_id], -minus) for minus, node_id in heapq.nsmallest(k, found)]

    def edges_of(self, tenant: str, node_id: str) -> list[Edge]:
        """The visible edges that start or end at a node, by id."""
        with self.lock:
            state = self._of(tenant)
            return sorted(state.visible_edges(node_id), key=lambda edge: edge.edge_id)

    def weight_of(self, edge: Edge, now: float) -> float:
        """w in [0, 1) at `now`, seconds since the epoch."""
        strength = strength_at_birth(edge.birth_weight)
        return weight(decayed(strength, now - edge.born_at, half_life(edge.relation, self.half_life_s)))

    def expand(
        self,
        tenant: str,
        seeds: Sequence[str],
        *,
        hops: int,
        now: float,
        limit_per_node: int = 8,
        relations: Collection[str] | None = None,
    ) -> list[Reached]:
        """What at most `hops` edges lead to from the seeds, without them, heaviest first (ties by hops, id).

        Edges are walked both ways. From each node its `limit_per_node` heaviest go on. Of several paths
        the one with the greatest product of weights counts; among equals the shorter, then by edge ids.
        """
        with self.lock:
            state = self._of(tenant)
            best = {seed: _Path(-1.0, 0, ()) for seed in seeds if seed in state.nodes}
            frontier = dict(best)
            for hop in range(1, hops + 1):
                improved: dict[str, _Path] = {}
                for node_id, (minus, _, via) in frontier.items():
                    for edge_weight, edge in self._heaviest(state, node_id, now, limit_per_node, relations):
                        end = edge.other(node_id)
                        path = _Path(minus * edge_weight, hop, (*via, edge.edge_id))
                        if end not in best or path < best[end]:
                            best[end] = improved[end] = path
                frontier = improved
            order = sorted((path[:2], node_id) for node_id, path in best.items() if path[1])
            return [Reached(state.nodes[node_id], hop, -minus, best[node_id][2]) for (minus, hop), node_id in order]

    def stats(self) -> Stats:
        with self.lock:
            kinds: Counter[str] = Counter()
            for state in self._tenants.values():
                kinds.update(node.kind for node in state.nodes.values())
            holding = [s for s in self._tenants.values() if s.nodes or s.edges]
            edges = sum(len(state.edges) for state in holding)
            return Stats(len(holding), kinds.total(), dict(kinds), edges)

    def contents(self) -> Contents:
        """All nodes and edges at this moment. References are copied, not what they refer to."""
        with self.lock:
            tenants = [state for _, state in sorted(self._tenants.items())]
            return Contents(
                tuple(node for state in tenants for _, node in sorted(state.nodes.items())),
                tuple(edge for state in tenants for _, edge in sorted(state.edges.items())),
            )

    def digest(self) -> str:
        """The same for the same content, however it came to be."""
        return self.contents().digest()

    def index(self, tenant: str, kind: str) -> VectorIndex:
        """The vectors of one tenant's nodes of one kind. Hold `lock` while you use it."""
        indexes = self._tenants.setdefault(tenant, _Tenant()).indexes
        if kind not in indexes:
            indexes[kind] = VectorIndex(self.dimension, exact_below=self._exact_below)
        return indexes[kind]

    def indexes(self) -> list[tuple[str, str, VectorIndex]]:
        """Every (tenant, kind, index), in order. Hold `lock` while you use them."""
        return [(t, k, index) for t in sorted(self._tenants) for k, index in sorted(self._of(t).indexes.items())]

    def _of(self, tenant: str) -> _Tenant:
        return self._tenants.get(tenant) or _Tenant()

    def _heaviest(
        self, state: _Tenant, node_id: str, now: float, limit: int, relations: Collection[str] | None
    ) -> list[tuple[float, Edge]]:
        edges = (e for e in state.visible_edges(node_id) if relations is None or e.relation in relations)
        weighed = ((self.weight_of(edge, now), edge) for edge in edges)
        return heapq.nsmallest(limit, weighed, key=lambda pair: (-pair[0], pair[1].edge_id))

    def _check_vector(self, node: Node) -> None:
        if node.embedder != self.embedder:
            raise InvalidConfiguration(
                f"node {node.node_id} was embedded by {node.embedder!r}, this memory holds {self.embedder!r}",
                hint="Set the embedder that the log was written with, or ingest the documents again.",
            )
        if node.vector.shape != (self.dimension,):
            raise InvalidRequest(
                f"the vector of node {node.node_id} has shape {node.vector.shape}, not {(self.dimension,)}"
            )
        length = float(np.linalg.norm(node.vector))
        if length and not abs(length - 1.0) <= UNIT_LENGTH_TOLERANCE:  # `not <=`: NaN is refused too
            raise InvalidRequest(f"the vector of node {node.node_id} has length {length:.4g}, not 1 or 0")


def _birth(edge: Edge) -> tuple[float, float, str, str, str]:
    return edge.born_at, edge.birth_weight, edge.source, edge.target, edge.relation
