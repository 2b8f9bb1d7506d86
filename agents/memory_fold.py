"""The fold: how one event of `memory.changed` changes memory. The only writer of memory there is.

Invariant: it reads the event and nothing else (no clock, no record timestamp), and a redelivered
event changes nothing.
"""

from __future__ import annotations

from ruvllm.models.memory.node import Edge, Node
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.memory import EdgeAdded, EdgeRemoved, MemoryChange, NodeAdded, NodeRemoved

CHANGES: tuple[type[MemoryChange], ...] = (NodeAdded, NodeRemoved, EdgeAdded, EdgeRemoved)
"""Every kind of event that the fold knows."""


def fold(memory: Memory, change: MemoryChange) -> None:
    """Apply one change."""
    match change:
        case NodeAdded():
            memory.put_node(
                Node(
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
                )
            )
        case NodeRemoved():
            memory.remove_node(change.tenant, change.node_id)
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
