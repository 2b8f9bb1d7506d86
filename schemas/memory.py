"""What memory is folded from: documents that come in, and the changes they make.

Invariant: the fold of `memory.changed` is the memory; there is no second truth. All changes of one
node (or one edge) share a key, so one partition orders them.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field

from ruvllm.schemas.event import Event, Identifier, Instant
from ruvllm.schemas.flow import Origin
from ruvllm.schemas.ids import content_id, new_id
from ruvllm.schemas.request import Fault
from ruvllm.schemas.vector import Vector

NodeKind = Literal["document", "question", "answer", "concept"]
Relation = Literal["same_topic", "cites", "follows", "derived", "contains", "co_retrieved", "answered_by", "agent_step"]
MediaType = Literal["text/markdown", "text/plain", "application/jsonl"]


SAID_BY, USER = "said_by", "user"
"""In the metadata of an answer's node: a person said it, as a correction or as what was expected."""
SYMMETRIC = frozenset({"same_topic", "co_retrieved"})


def name_edge(tenant: str, relation: Relation, source: str, target: str) -> str:
    """The id of an edge; of a symmetric relation its two directions are one edge."""
    ends = sorted((source, target)) if relation in SYMMETRIC else [source, target]
    return content_id("e", tenant, relation, *ends)


class DocumentCommand(Event):
    """Commands on one document; ordered by document."""

    topic: ClassVar[str] = "document.submitted"

    time: Instant | None = None  # type: ignore[assignment]  # intake of documents sets it
    command_id: Identifier = Field(
        default_factory=new_id, description="a repeated one is carried out once; left out: each record is a command"
    )
    document_id: Identifier = Field(description="a stable name, such as the path below the ingested folder")

    @property
    def partition_key(self) -> str:
        return f"{self.tenant}\x1f{self.document_id}"

    def found_at(self, origin: Origin) -> Self:
        """The command in a record. Without an id of its sender's it gets one from its place.

        So it is the same at each delivery, and the same content put again later is another command.
        """
        if "command_id" in self.model_fields_set:
            return self
        place = content_id("at", origin.topic, str(origin.partition), str(origin.offset))
        return self.model_copy(update={"command_id": place})


class PutDocument(DocumentCommand):
    """Command: remember this document; a changed one replaces its earlier self."""

    kind: ClassVar[str] = "document.put"
    media_type: MediaType = "text/markdown"
    title: str | None = None
    content: str
    metadata: dict[str, str] = Field(default_factory=dict)


class RemoveDocument(DocumentCommand):
    """Command: forget this document."""

    kind: ClassVar[str] = "document.remove"


class DocumentProcessed(Event):
    """A document command was carried out. Answers can use it once memory has folded to `memory_offsets`."""

    kind: ClassVar[str] = "document.processed"
    command_id: Identifier
    document_id: Identifier
    outcome: Literal["added", "replaced", "unchanged", "removed", "absent", "failed"]
    chunks: int = 0
    added: int = 0
    removed: int = 0
    memory_offsets: dict[str, int] = Field(default_factory=dict)
    fault: Fault | None = None

    @property
    def partition_key(self) -> str:
        return f"{self.tenant}\x1f{self.document_id}"


class DocumentState(Event):
    """What a document has put into memory; the last record of its key is in force."""

    kind: ClassVar[str] = "document.state"
    document_id: Identifier
    title: str
    content_hash: str
    embedder: str
    nodes: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()
    commands: tuple[str, ...] = Field(default=(), description="the last commands carried out, oldest first")
    handled: dict[str, int] = Field(
        default_factory=dict, description="partition of the commands -> offset after the last one carried out"
    )
    removed: bool = False

    @property
    def partition_key(self) -> str:
        return f"{self.tenant}\x1f{self.document_id}"


class MemoryChange(Event):
    """The base of all that `memory.changed` holds."""

    topic: ClassVar[str] = "memory.changed"
    change_id: str = Field(description="names the change: a redelivered one has the same id")


class NodeChange(MemoryChange):
    node_id: str

    @property
    def partition_key(self) -> str:
        return self.node_id


class NodeAdded(NodeChange):
    """A node exists from here on. Its vector travels with it, so that a fold computes nothing.

    `made_by` is the interaction that it was learnt from; several may make the same node, and the earliest shows.
    """

    kind: ClassVar[str] = "memory.node_added"
    made_by: str = Field(default="", description="empty: it is of a document")
    node_kind: NodeKind = "document"
    title: str
    text: str
    document_id: str | None = None
    position: int = 0
    metadata: dict[str, str] = Field(default_factory=dict)
    embedder: str
    vector: Vector


class NodeRemoved(NodeChange):
    """The node is gone, and with it every edge that it ends."""

    kind: ClassVar[str] = "memory.node_removed"
    reason: str


class NodeMerged(NodeAdded):
    """What an interaction would have made says the same as a known node, and stands behind it from here on."""

    kind: ClassVar[str] = "memory.node_merged"
    similarity: float = Field(description="cosine with the node that it was merged into, when it was decided")


class NodeRetracted(NodeChange):
    """What one interaction made of a node is taken back; the next that made it takes its place."""

    kind: ClassVar[str] = "memory.node_retracted"
    made_by: str
    reason: str


class EdgeChange(MemoryChange):
    edge_id: str

    @property
    def partition_key(self) -> str:
        return self.edge_id


class EdgeAdded(EdgeChange):
    """An edge exists from here on; it shows once both of its nodes do. `weight` is w at birth."""

    kind: ClassVar[str] = "memory.edge_added"
    source: str
    target: str
    relation: Relation
    weight: float = Field(default=0.5, ge=0, lt=1)


class EdgeRemoved(EdgeChange):
    kind: ClassVar[str] = "memory.edge_removed"
    reason: str


class EdgeContributed(EdgeChange):
    """A judged outcome adds to an edge's strength; `time` is the outcome's. An edge may consist of such alone.

    A revision adds the difference to what the outcome added before, a retraction its opposite.
    """

    kind: ClassVar[str] = "memory.edge_contributed"
    source: str
    target: str
    relation: Relation
    made_by: str = Field(description="the interaction")
    client: str = Field(default="", description="whose influence it counts towards; empty: nobody is named")
    amount: float
    outcomes: Literal[-1, 0, 1] = Field(description="1: the interaction's first on this edge, -1: it is taken back")
    evidence: float | None = Field(
        default=None, description="what it adds to the sizes of the client's outcomes; none: outcomes x |amount|"
    )


class EdgePruned(EdgeChange):
    """Outcomes left the edge without weight: it leads nowhere until a good one reaches it."""

    kind: ClassVar[str] = "memory.edge_pruned"
    reason: str


class MemoryFolded(Event):
    """How far one process's view of memory has come; the last record of its key is in force."""

    kind: ClassVar[str] = "memory.folded"
    view_id: Identifier
    offsets: dict[str, int]

    @property
    def partition_key(self) -> str:
        return self.view_id
