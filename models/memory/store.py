"""What is known: nodes, edges and an index of vectors, folded from changes, apart by tenant.

Invariant: the state is a function of the changes of each node and each edge in their own order.
How changes of different ids interleave does not matter, and a change that comes again changes
nothing. An edge may come before its nodes; it shows only while both are there, in its own tenant.

A learnt node has a member for each interaction that made it; the earliest shows, and when it is taken
back the next one takes its place. A learnt edge is the sum of what outcomes added to it.

Threads: searches may run in threads while an event loop folds changes. Each verb holds `lock` for its
own short duration (hnswlib must not be searched while it grows); what it returns is immutable. Hold
`lock` around several verbs to see one moment.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ruvllm.errors import InvalidConfiguration, InvalidRequest
from ruvllm.models.memory.edges import Edges
from ruvllm.models.memory.expansion import walk
from ruvllm.models.memory.found import Hit, Reached, Stats
from ruvllm.models.memory.node import Contents, Edge, Float32s, Node
from ruvllm.models.memory.vector_index import VectorIndex
from ruvllm.models.memory.words import Words

DEFAULT_HALF_LIFE_S = 30 * 86_400.0
UNIT_LENGTH_TOLERANCE = 1e-3
WORDED = frozenset({"document", "concept"})
"""Kinds of node whose words are indexed."""


@dataclass(slots=True)
class _Tenant:
    """One tenant's part. Vectors are indexed by kind: a search in one kind needs no filter."""

    edges: Edges
    nodes: dict[str, Node] = field(default_factory=dict)
    members: dict[str, dict[str, Node]] = field(default_factory=dict)  # of learnt nodes: id -> maker -> node
    indexes: dict[str, VectorIndex] = field(default_factory=dict)
    words: Words | None = None  # made when first needed: it holds a writer and its buffers


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

        A learnt node (`made_by`) joins those of its id that other interactions made.

        Raises InvalidConfiguration if a vector is of another embedder, InvalidRequest if it has another
        shape or is neither of unit length nor zero.
        """
        given = list(nodes)
        for node in given:
            self._check_vector(node)
        with self.lock:
            for node in given:
                self._show(self._head(node))

    def _show(self, node: Node) -> None:
        state = self._at(node.tenant)
        known = state.nodes.get(node.node_id)
        if known is not None and known.kind != node.kind:
            state.indexes[known.kind].remove(node.node_id)
        state.nodes[node.node_id] = node
        if node.kind in WORDED:
            self.words(node.tenant).put(node)
        self.index(node.tenant, node.kind).add(node.node_id, node.vector)

    def remove_node(self, tenant: str, node_id: str) -> None:
        """Forget a node. Its edges are hidden, and show again should it come back."""
        with self.lock:
            state = self._of(tenant)
            state.members.pop(node_id, None)
            if node := state.nodes.pop(node_id, None):
                state.indexes[node.kind].remove(node_id)
                if node.kind in WORDED:
                    self.words(tenant).remove(node_id)

    def retract_node(self, tenant: str, node_id: str, made_by: str) -> None:
        """Take back what one interaction made of a node: the next member takes its place, or the node goes."""
        with self.lock:
            members = self._of(tenant).members.get(node_id, {})
            if members.pop(made_by, None) is None:
                return
            if members:
                self.put_node(_earliest(members))
            else:
                self.remove_node(tenant, node_id)

    def put_edge(self, edge: Edge) -> None:
        """Put an edge; its birth is set once: of several, the one born first stays (ties by content).

        What the edge has learnt stays with it. Raises InvalidRequest if its weight is not in [0, 1).
        """
        with self.lock:
            self._at(edge.tenant).edges.put(edge)

    def contribute(
        self, edge: Edge, client: str, amount: float, at: float, *, outcomes: int, evidence: float | None = None
    ) -> None:
        """Add to what an edge has learnt from a client's outcomes: `amount` of strength at time `at`.

        `edge` says which edge it is, and by `applied` where in the log the contribution stands: one that is
        in it already changes nothing. `outcomes` is +1 for a new one, 0 for a revision, -1 for one taken back;
        `evidence` what that adds to the sizes of the client's outcomes, None: `outcomes` times |amount|.
        """
        with self.lock:
            self._at(edge.tenant).edges.contribute(edge, client, amount, at, outcomes, evidence)

    def prune_edge(self, tenant: str, edge_id: str, at: float) -> None:
        """Hide an edge that leads nowhere at time `at`, until a good outcome reaches it; what it learnt stays."""
        with self.lock:
            self._at(tenant).edges.prune(tenant, edge_id, at)

    def remove_edge(self, tenant: str, edge_id: str) -> None:
        """An edge is stated no more; what it has learnt is hidden with it (`Edges.remove`)."""
        with self.lock:
            self._of(tenant).edges.remove(edge_id)

    def node(self, tenant: str, node_id: str) -> Node | None:
        with self.lock:
            return self._of(tenant).nodes.get(node_id)

    def holds(self, tenant: str) -> bool:
        """Whether anything is known to a tenant."""
        with self.lock:
            return bool(self._of(tenant).nodes)

    def nodes(self, tenant: str) -> Mapping[str, Node]:
        """A tenant's nodes by id. Hold `lock` while you use it."""
        return self._of(tenant).nodes

    def words(self, tenant: str) -> Words:
        """The words of one tenant's passages. Hold `lock` while you use it."""
        state = self._at(tenant)
        if state.words is None:
            state.words = Words()
        return state.words

    def settle(self, most: int) -> bool:
        """Give at most so many new vectors of each index their rows; whether any are left. A search does it for all."""
        with self.lock:
            return any(index.settle(most) for _, _, index in self.indexes())

    def grow(self, most: int) -> bool:
        """Take at most so many vectors into graphs, of all tenants together; whether any are left to be scanned."""
        with self.lock:
            behind = [index for _, _, index in self.indexes() if index.behind]
            for index in behind[:most]:
                index.grow(max(1, most // len(behind)))
            return any(index.behind for index in behind)

    def catch_up(self, most: int) -> bool:
        """Take in the words of at most so many passages, of all tenants together; whether any are left."""
        with self.lock:
            behind = [state.words for state in self._tenants.values() if state.words and state.words.waiting]
            for words in behind[:most]:
                words.catch_up(max(1, most // len(behind)))
            return any(words.waiting for words in behind)

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
            return sorted(state.edges.at(node_id, state.nodes), key=lambda edge: edge.edge_id)

    def edge(self, tenant: str, edge_id: str) -> Edge | None:
        with self.lock:
            return self._of(tenant).edges.get(edge_id)

    def edges_among(self, tenant: str, node_ids: Collection[str]) -> list[Edge]:
        """The visible edges both of whose ends are among these nodes, by id."""
        with self.lock:
            state, among = self._of(tenant), set(node_ids)
            found = {e.edge_id: e for n in among for e in state.edges.at(n, state.nodes) if e.other(n) in among}
            return [found[edge_id] for edge_id in sorted(found)]

    def members(self, tenant: str, node_id: str) -> list[Node]:
        """What interactions made of a learnt node, the earliest first; it is the one that shows."""
        with self.lock:
            return sorted(self._of(tenant).members.get(node_id, {}).values(), key=_age)

    def weight_of(self, edge: Edge, now: float) -> float:
        """w in [0, 1) at `now`, seconds since the epoch."""
        return self._of(edge.tenant).edges.weight(edge, now)

    def leads(self, edge: Edge, now: float) -> bool:
        """Whether an edge leads anywhere at `now`: not if it is pruned or its outcomes left it without weight."""
        return self._of(edge.tenant).edges.leads(edge, now)

    def pruned(self, edge: Edge) -> bool:
        """Whether an edge was pruned, and no outcome known since has brought it back."""
        return self._of(edge.tenant).edges.pruned(edge)

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
            return walk(state.nodes, state.edges, seeds, hops, now, limit_per_node, relations)

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
                tuple(
                    node
                    for state in tenants
                    for node_id, head in sorted(state.nodes.items())
                    for node in sorted(state.members.get(node_id, {"": head}).values(), key=_age)
                ),
                tuple(edge for state in tenants for edge in state.edges.all()),
            )

    def digest(self) -> str:
        """The same for the same content, however it came to be."""
        return self.contents().digest()

    def index(self, tenant: str, kind: str) -> VectorIndex:
        """The vectors of one tenant's nodes of one kind. Hold `lock` while you use it."""
        indexes = self._at(tenant).indexes
        if kind not in indexes:
            indexes[kind] = VectorIndex(self.dimension, exact_below=self._exact_below)
        return indexes[kind]

    def indexes(self) -> list[tuple[str, str, VectorIndex]]:
        """Every (tenant, kind, index), in order. Hold `lock` while you use them."""
        return [(t, k, index) for t in sorted(self._tenants) for k, index in sorted(self._of(t).indexes.items())]

    def _of(self, tenant: str) -> _Tenant:
        """A tenant's part, to be read."""
        return self._tenants.get(tenant) or _Tenant(Edges(self.half_life_s))

    def _at(self, tenant: str) -> _Tenant:
        """A tenant's part, to be changed."""
        if tenant not in self._tenants:
            self._tenants[tenant] = _Tenant(Edges(self.half_life_s))
        return self._tenants[tenant]

    def _head(self, node: Node) -> Node:
        """The node that shows once this one is put: the earliest of its members, or itself."""
        state = self._at(node.tenant)
        if not node.made_by:
            state.members.pop(node.node_id, None)
            return node
        members = state.members.setdefault(node.node_id, {})
        members[node.made_by] = node
        return _earliest(members)

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
        length = math.sqrt(node.vector.dot(node.vector))
        if length and not abs(length - 1.0) <= UNIT_LENGTH_TOLERANCE:  # `not <=`: NaN is refused too
            raise InvalidRequest(f"the vector of node {node.node_id} has length {length:.4g}, not 1 or 0")


def _age(node: Node) -> tuple[float, str]:
    return node.created_at, node.made_by


def _earliest(members: Mapping[str, Node]) -> Node:
    return min(members.values(), key=_age)
