"""The log without some of its effects: what memory would be had an interaction or a document taught it nothing.

Invariant: only effects are left out, and decisions stay: which node was merged into which, when an edge was
pruned. What an interaction has made of nodes and edges goes, also its revisions and retractions; of a document
go its passages and the edges that it states. What interactions have added to such an edge is theirs and stays:
it shows no more than the edge does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ruvllm.schemas.memory import (
    EdgeAdded,
    EdgeContributed,
    EdgeRemoved,
    MemoryChange,
    NodeAdded,
    NodeChange,
    NodeRetracted,
)


@dataclass(frozen=True)
class Without:
    """Which effects are left out. `documents`: (tenant, document id)."""

    interactions: frozenset[str] = frozenset()
    documents: frozenset[tuple[str, str]] = frozenset()

    def over(self, changes: Iterable[MemoryChange]) -> Filter:
        """The filter of a log whose nodes and edges these are; reads them once, in any order of partitions."""
        nodes: set[str] = set()
        stated: dict[str, tuple[str, str]] = {}
        for change in changes if self.documents else ():
            if isinstance(change, NodeAdded) and (change.tenant, change.document_id) in self.documents:
                nodes.add(change.node_id)
            elif isinstance(change, EdgeAdded):
                stated[change.edge_id] = change.source, change.target
        edges = frozenset(edge_id for edge_id, ends in stated.items() if nodes.issuperset(ends))
        return Filter(self.interactions, frozenset(nodes), edges)


@dataclass(frozen=True)
class Filter:
    """What is left out of one log: of these interactions all, of these nodes all, of these edges their births."""

    interactions: frozenset[str]
    nodes: frozenset[str]
    edges: frozenset[str]

    def keeps(self, change: MemoryChange) -> bool:
        """Whether a change is of neither."""
        if isinstance(change, NodeAdded | NodeRetracted | EdgeContributed) and change.made_by in self.interactions:
            return False
        if isinstance(change, NodeChange):
            return change.node_id not in self.nodes
        return not (isinstance(change, EdgeAdded | EdgeRemoved) and change.edge_id in self.edges)


def filtered(changes: Sequence[MemoryChange], without: Without) -> Iterator[MemoryChange]:
    """The changes that are left, in their order."""
    kept = without.over(changes)
    return (change for change in changes if kept.keeps(change))
