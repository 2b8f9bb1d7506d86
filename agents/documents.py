"""Documents: what comes in becomes nodes and structural edges of memory.

Invariant: node ids follow from tenant, document and text, so ingesting the same document twice
changes nothing, and of a changed document only the changed passages change. A command is carried out
once: redelivered ones are known by their offset, repeated ones by their id. Like the desk, the keeper's
state is a fold of the records that it returns.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from ruvllm.agents.clock import Clock
from ruvllm.agents.outbox import Outbox
from ruvllm.errors import InvalidDocument, InvalidRequest, TenantNotAllowed
from ruvllm.models.chunks import Chunk, chunk_document
from ruvllm.models.embedding import Embedder
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import Origin
from ruvllm.schemas.ids import content_id
from ruvllm.schemas.memory import (
    DocumentProcessed,
    DocumentState,
    EdgeAdded,
    EdgeRemoved,
    NodeAdded,
    NodeRemoved,
    PutDocument,
    RemoveDocument,
    name_edge,
)
from ruvllm.schemas.request import Fault
from ruvllm.schemas.vector import Float32s

COMMANDS_KEPT = 64
"""Ids by document, for senders that send again. What Kafka delivers again is told by its offset: how much that
is depends on when offsets were last committed, and no number of ids would be enough."""
AT_ONCE = 32
"""Passages embedded in one go (2 s at their longest): a keeper that is cancelled waits for no more."""
FOLLOWS_WEIGHT = 0.5


class DocumentKeeper:
    """The documents of one partition: which nodes and edges each of them has put into memory."""

    def __init__(
        self,
        embedder: Embedder,
        clock: Clock,
        tenants: tuple[str, ...],
        *,
        document_chars: int,
        document_passages: int,
    ) -> None:
        self._embedder = embedder
        self._clock = clock
        self._tenants = tenants
        self._document_chars = document_chars
        self._document_passages = document_passages
        self._documents: dict[str, DocumentState] = {}

    def apply(self, event: Event) -> None:
        """Fold one of the keeper's own records into its state."""
        if isinstance(event, DocumentState):
            self._documents[event.record_key] = event

    def forget(self, record_key: str) -> None:
        """Fold a tombstone."""
        self._documents.pop(record_key, None)

    def tick(self) -> Outbox:
        """Documents have no deadlines."""
        return Outbox()

    async def handle(self, event: Event, origin: Origin) -> Outbox:
        """The effects of the document command at `origin`. A document that cannot be read changes nothing."""
        if not isinstance(event, PutDocument | RemoveDocument):
            raise InvalidRequest(f"documents has no use for {event.kind}")
        known = self._documents.get(event.partition_key)
        if known is not None and _carried_out(known, event, origin):
            return Outbox()
        if event.tenant not in self._tenants:
            return self._failure(event, TenantNotAllowed(f"tenant {event.tenant!r} is not known here"))
        done = _done(known, event, origin)
        try:
            if isinstance(event, PutDocument):
                return await self._put(event, known, done)
            return self._remove(event, known, done)
        except InvalidDocument as error:
            return self._failure(event, error)

    async def _put(self, command: PutDocument, known: DocumentState | None, done: Mapping[str, Any]) -> Outbox:
        if len(command.content) > self._document_chars:
            raise InvalidDocument(
                f"{command.document_id!r} has {len(command.content)} characters, the limit is {self._document_chars}",
                hint="Split the document, or raise `limits.document_chars`.",
            )
        digest = self._content_hash(command)
        if known is not None and not known.removed and known.content_hash == digest:
            return self._unchanged(command, known, done)
        chunks = chunk_document(command.content, command.media_type, title=command.title)
        if len(chunks) > self._document_passages:
            raise InvalidDocument(
                f"{command.document_id!r} has {len(chunks)} passages, the limit is {self._document_passages}",
                hint="Split the file into several documents, or raise `limits.document_passages`.",
            )
        nodes = dict(zip(_node_ids(command, chunks), chunks, strict=True))
        order = list(nodes)
        edges = {name_edge(command.tenant, "follows", a, b): (a, b) for a, b in pairwise(order)}
        old_nodes = set(known.nodes) if known else set()
        old_edges = set(known.edges) if known else set()
        new = [node_id for node_id in order if node_id not in old_nodes]
        vectors = await self._embedded([nodes[n].embedding_text for n in new])

        out = Outbox()
        for edge_id in sorted(old_edges - edges.keys()):
            out.add(self._edge_removed(command, edge_id, "document changed"))
        for node_id in sorted(old_nodes - nodes.keys()):
            out.add(self._node_removed(command, node_id, "document changed"))
        for node_id, vector in zip(new, vectors, strict=True):
            out.add(self._node_added(command, node_id, nodes[node_id], vector))
        for edge_id in sorted(edges.keys() - old_edges):
            out.add(self._edge_added(command, edge_id, *edges[edge_id]))
        self._remember(
            out,
            DocumentState(
                tenant=command.tenant,
                time=self._clock.now(),
                document_id=command.document_id,
                title=command.title or (chunks[0].title.split(" > ")[0] if chunks else command.document_id),
                content_hash=digest,
                embedder=self._embedder.name,
                nodes=tuple(order),
                edges=tuple(edges),
                **done,
            ),
        )
        out.receipt = partial(
            self._processed,
            command,
            outcome="replaced" if known is not None and not known.removed else "added",
            chunks=len(order),
            added=len(new),
            removed=len(old_nodes - nodes.keys()),
        )
        return out

    def _remove(self, command: RemoveDocument, known: DocumentState | None, done: Mapping[str, Any]) -> Outbox:
        out = Outbox()
        if known is None or known.removed:
            out.receipt = partial(self._processed, command, outcome="absent")
            return out
        for edge_id in known.edges:
            out.add(self._edge_removed(command, edge_id, "document removed"))
        for node_id in known.nodes:
            out.add(self._node_removed(command, node_id, "document removed"))
        gone = {"nodes": (), "edges": (), "removed": True, "time": self._clock.now(), **done}
        self._remember(out, known.model_copy(update=gone))
        out.receipt = partial(self._processed, command, outcome="removed", removed=len(known.nodes))
        return out

    def _unchanged(self, command: PutDocument, known: DocumentState, done: Mapping[str, Any]) -> Outbox:
        out = Outbox()
        self._remember(out, known.model_copy(update=done))
        out.receipt = partial(self._processed, command, outcome="unchanged", chunks=len(known.nodes))
        return out

    def _failure(self, command: PutDocument | RemoveDocument, error: InvalidRequest) -> Outbox:
        fault = Fault(code=error.code, message=error.message, hint=error.hint, stage="documents")
        out = Outbox()
        out.receipt = partial(self._processed, command, outcome="failed", fault=fault)
        return out

    def _processed(
        self, command: PutDocument | RemoveDocument, offsets: Mapping[str, int], **facts: object
    ) -> DocumentProcessed:
        return DocumentProcessed.model_validate(
            {
                "tenant": command.tenant,
                "time": self._clock.now(),
                "command_id": command.command_id,
                "document_id": command.document_id,
                "memory_offsets": dict(offsets),
                **facts,
            }
        )

    def _remember(self, out: Outbox, state: DocumentState) -> None:
        out.add(state)
        self.apply(state)

    async def _embedded(self, texts: list[str]) -> Float32s:
        """(n, d) float32; the model lets other threads run."""
        parts = [np.zeros((0, self._embedder.dimension), np.float32)]
        for start in range(0, len(texts), AT_ONCE):
            parts.append(await asyncio.to_thread(self._embedder.embed, texts[start : start + AT_ONCE]))
        return np.concatenate(parts)

    def _content_hash(self, command: PutDocument) -> str:
        facts = [f"{k}={v}" for k, v in sorted(command.metadata.items())]
        return content_id("doc", command.media_type, command.title or "", self._embedder.name, command.content, *facts)

    def _node_added(self, command: PutDocument, node_id: str, chunk: Chunk, vector: Float32s) -> NodeAdded:
        return NodeAdded(
            tenant=command.tenant,
            time=self._clock.now(),
            change_id=content_id("ch", command.command_id, NodeAdded.kind, node_id),
            node_id=node_id,
            title=chunk.title,
            text=chunk.text,
            document_id=command.document_id,
            position=chunk.position,
            metadata={**command.metadata, **chunk.metadata},
            embedder=self._embedder.name,
            vector=vector,
        )

    def _edge_added(self, command: PutDocument, edge_id: str, source: str, target: str) -> EdgeAdded:
        return EdgeAdded(
            tenant=command.tenant,
            time=self._clock.now(),
            change_id=content_id("ch", command.command_id, EdgeAdded.kind, edge_id),
            edge_id=edge_id,
            source=source,
            target=target,
            relation="follows",
            weight=FOLLOWS_WEIGHT,
        )

    def _node_removed(self, command: PutDocument | RemoveDocument, node_id: str, reason: str) -> NodeRemoved:
        return NodeRemoved(
            tenant=command.tenant,
            time=self._clock.now(),
            change_id=content_id("ch", command.command_id, NodeRemoved.kind, node_id),
            node_id=node_id,
            reason=reason,
        )

    def _edge_removed(self, command: PutDocument | RemoveDocument, edge_id: str, reason: str) -> EdgeRemoved:
        return EdgeRemoved(
            tenant=command.tenant,
            time=self._clock.now(),
            change_id=content_id("ch", command.command_id, EdgeRemoved.kind, edge_id),
            edge_id=edge_id,
            reason=reason,
        )


def _node_ids(command: PutDocument, chunks: list[Chunk]) -> list[str]:
    """One id a chunk; the n-th repetition of the same text within a document gets an id of its own."""
    seen: Counter[tuple[str, str]] = Counter()
    ids = []
    for chunk in chunks:
        facts = [f"{k}={v}" for k, v in sorted({**command.metadata, **chunk.metadata}.items())]
        same = (chunk.title, chunk.text)
        ids.append(
            content_id("n", command.tenant, command.document_id, chunk.title, chunk.text, str(seen[same]), *facts)
        )
        seen[same] += 1
    return ids


def _carried_out(known: DocumentState, command: PutDocument | RemoveDocument, origin: Origin) -> bool:
    """Whether it was delivered or sent before: a partition's commands are carried out in order."""
    return origin.offset < known.handled.get(str(origin.partition), 0) or command.command_id in known.commands


def _done(
    known: DocumentState | None, command: PutDocument | RemoveDocument, origin: Origin
) -> dict[str, tuple[str, ...] | dict[str, int]]:
    """The fields of a document's state that say what was carried out, this command included."""
    commands, handled = (known.commands, known.handled) if known else ((), {})
    return {
        "commands": (*commands, command.command_id)[-COMMANDS_KEPT:],
        "handled": {**handled, str(origin.partition): origin.offset + 1},
    }
