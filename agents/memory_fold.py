"""The fold: how one event of `memory.changed` changes memory. The only writer of memory there is.

Invariant: it reads the event and nothing else (no clock, no record timestamp), and a redelivered
event changes nothing: nodes and births are put by id, contributions are told by their offset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ruvllm.models.memory.node import Edge, Node
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.memory import (
    EdgeAdded,
    EdgeContributed,
    EdgePruned,
    EdgeRemoved,
    MemoryChange,
    NodeAdded,
    NodeMerged,
    NodeRemoved,
    NodeRetracted,
)


def fold(memory: Memory, change: MemoryChange, offset: int = -1) -> None:
    """Apply one change. `offset`: its place in its partition; -1 if it comes once for sure.

    Raises what `Memory.put_nodes` and `Memory.put_edge` raise.
    """
    _FOLDS[type(change)](memory, change, offset)


def _put_node(memory: Memory, change: NodeAdded, _: int) -> None:
    memory.put_node(
        Node(
            node_id=change.node_id,
            tenant=change.tenant,
            kind=change.node_kind,
            title=change.title,
            text=change.text,
            document_id=change.document_id,
            position=change.position,
            metadata=change.metadata,
            embedder=change.embedder,
            vector=change.vector,
            created_at=change.time.timestamp(),
            made_by=change.made_by,
        )
    )


def _remove_node(memory: Memory, change: NodeRemoved, _: int) -> None:
    memory.remove_node(change.tenant, change.node_id)


def _retract_node(memory: Memory, change: NodeRetracted, _: int) -> None:
    memory.retract_node(change.tenant, change.node_id, change.made_by)


def _put_edge(memory: Memory, change: EdgeAdded, _: int) -> None:
    memory.put_edge(
        Edge(
            change.edge_id,
            change.tenant,
            change.source,
            change.target,
            change.relation,
            birth_weight=change.weight,
            born_at=change.time.timestamp(),
        )
    )


def _remove_edge(memory: Memory, change: EdgeRemoved, _: int) -> None:
    memory.remove_edge(change.tenant, change.edge_id)


def _contribute(memory: Memory, change: EdgeContributed, offset: int) -> None:
    edge = Edge(change.edge_id, change.tenant, change.source, change.target, change.relation, applied=offset)
    at = change.time.timestamp()
    memory.contribute(edge, change.client, change.amount, at, outcomes=change.outcomes, evidence=change.evidence)


def _prune_edge(memory: Memory, change: EdgePruned, _: int) -> None:
    memory.prune_edge(change.tenant, change.edge_id, change.time.timestamp())


_FOLDS: Mapping[type[MemoryChange], Callable[[Memory, Any, int], None]] = {
    NodeAdded: _put_node,
    NodeRemoved: _remove_node,
    NodeMerged: _put_node,  # another member of its node
    NodeRetracted: _retract_node,
    EdgeAdded: _put_edge,
    EdgeRemoved: _remove_edge,
    EdgeContributed: _contribute,
    EdgePruned: _prune_edge,
}
CHANGES: tuple[type[MemoryChange], ...] = tuple(_FOLDS)
"""Every kind of event that the fold knows."""
