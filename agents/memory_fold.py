"""The fold: how one event of `memory.changed` changes memory. The only writer of memory there is.

Invariant: it reads the event and nothing else (no clock, no record timestamp), and a redelivered
event changes nothing: nodes and births are put by id, contributions are told by their offset.
"""

from __future__ import annotations

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

CHANGES: tuple[type[MemoryChange], ...] = (
    NodeAdded,
    NodeRemoved,
    NodeMerged,
    NodeRetracted,
    EdgeAdded,
    EdgeRemoved,
    EdgeContributed,
    EdgePruned,
)
"""Every kind of event that the fold knows."""


def fold(memory: Memory, change: MemoryChange, offset: int = -1) -> None:
    """Apply one change. `offset`: its place in its partition; -1 if it comes once for sure."""
    match change:
        case NodeAdded():  # NodeMerged as well: another member of its node
            memory.put_node(_node(change))
        case NodeRemoved():
            memory.remove_node(change.tenant, change.node_id)
        case NodeRetracted():
            memory.retract_node(change.tenant, change.node_id, change.made_by)
        case EdgeAdded():
            memory.put_edge(
                Edge(
                    edge_id=change.edge_id,
                    tenant=change.tenant,
                    source=change.source,
                    target=change.target,
                    relation=change.relation,
                    birth_weight=change.weight,
                    born_at=change.time.timestamp(),
                )
            )
        case EdgeRemoved():
            memory.remove_edge(change.tenant, change.edge_id)
        case EdgeContributed():
            edge = Edge(
                edge_id=change.edge_id,
                tenant=change.tenant,
                source=change.source,
                target=change.target,
                relation=change.relation,
                applied=offset,
            )
            at, outcomes = change.time.timestamp(), change.outcomes
            memory.contribute(edge, change.client, change.amount, at, outcomes=outcomes, evidence=change.evidence)
        case EdgePruned():
            memory.prune_edge(change.tenant, change.edge_id, change.time.timestamp())


def _node(change: NodeAdded) -> Node:
    return Node(
        node_id=change.node_id,
        tenant=change.tenant,
        kind=change.node_kind,
        title=change.title,
        text=change.text,
        document_id=change.document_id,
        position=change.position,
        metadata=dict(change.metadata),
        embedder=change.embedder,
        vector=change.vector,
        created_at=change.time.timestamp(),
        made_by=change.made_by,
    )
