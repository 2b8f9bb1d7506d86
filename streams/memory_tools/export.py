"""Memory as lines of JSON, to carry elsewhere, and the changes of memory that a fold makes it of again.

Invariant: the fold of `changes(read_export(file))` holds the very nodes, members, edges and strengths that
were written; only places in the log (`Edge.applied`) are left behind, for they mean nothing in another log.
A file whose content does not have the digest in its first line is not read.

    {"memory": 3, "embedder": ..., "digest": ..., ...}    the head
    {"node": {..., "vector": "<base64 of float32>"}}       one for each member, the one that shows first
    {"edge": {..., "learnt": {"<client>": strength}, "evidence": {"<client>": strength}}}

An outcome is not kept, its sums are: what a client has taught an edge comes back as one contribution at
`learnt_at`, and contributions of nothing make up the count of outcomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import ValidationError

from ruvllm.errors import InvalidConfiguration, InvalidDocument, InvalidRequest
from ruvllm.models.memory.node import Contents, Edge, Node
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.event import Identifier, Value
from ruvllm.schemas.ids import content_id
from ruvllm.schemas.memory import EdgeAdded, EdgeContributed, EdgePruned, MemoryChange, NodeAdded
from ruvllm.schemas.vector import decode_vector, encode_vector

FORMAT: Literal[3] = 3

_NODE = {field.name for field in fields(Node)}
_EDGE = {field.name for field in fields(Edge)} - {"applied"}


class Head(Value):
    """The first line. `log` and `offsets` (partition -> next offset) say what it was folded from."""

    memory: Literal[3] = FORMAT
    embedder: str
    dimension: int
    half_life_s: float
    log: str
    offsets: dict[str, int]
    tenant: Identifier | None = None
    nodes: int
    edges: int
    digest: str


@dataclass(frozen=True)
class Export:
    """An export that was read and is whole."""

    head: Head
    contents: Contents


# --- writing --------------------------------------------------------------------------------------------


def write_export(
    memory: Memory, file: Path, *, log_id: str, offsets: dict[str, int], tenant: str | None = None
) -> Head:
    """Write what memory holds of one tenant, or of all; returns the head. The file is there whole or not at all.

    Raises OSError if the disk does.
    """
    contents = contents_of(memory, tenant)
    head = Head(
        embedder=memory.embedder,
        dimension=memory.dimension,
        half_life_s=memory.half_life_s,
        log=log_id,
        offsets=offsets,
        tenant=tenant,
        nodes=len(contents.nodes),
        edges=len(contents.edges),
        digest=contents.digest(),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    writing = file.with_name(f".{file.name}.writing")
    with writing.open("wb") as out:
        out.write(orjson.dumps(head.model_dump(), option=orjson.OPT_APPEND_NEWLINE))
        for node in contents.nodes:
            line = {"node": {**node.record(), "vector": encode_vector(node.vector)}}
            out.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        for edge in contents.edges:
            record = {name: value for name, value in edge.record().items() if name in _EDGE}
            out.write(orjson.dumps({"edge": record}, option=orjson.OPT_APPEND_NEWLINE))
    writing.replace(file)
    return head


def contents_of(memory: Memory, tenant: str | None) -> Contents:
    """What memory holds of one tenant, or of all if none is named, in canonical order."""
    contents = memory.contents()
    return Contents(
        tuple(node for node in contents.nodes if tenant in (None, node.tenant)),
        tuple(edge for edge in contents.edges if tenant in (None, edge.tenant) and not edge.is_blank),
    )


# --- reading --------------------------------------------------------------------------------------------


def read_export(file: Path) -> Export:
    """Read a file that `write_export` wrote.

    Raises InvalidDocument, with the line, if it is not one, is cut, or has another digest than its head says.
    """
    try:
        raw = file.read_bytes()
    except OSError as error:
        hint = "Name a file of `ruvllm memory export`."
        raise InvalidDocument(f"{file} cannot be read: {error.strerror}", hint=hint) from error
    nodes: list[Node] = []
    edges: list[Edge] = []
    lines = raw.split(b"\n")
    head = _head(file, lines[0])
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        try:
            ((kind, record),) = orjson.loads(line).items()
            if kind == "node":
                nodes.append(_node(record))
            elif kind == "edge":
                edges.append(_edge(record))
            else:
                raise ValueError(f"neither a node nor an edge: {kind!r}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _unreadable(f"{file}, line {number}: {error}") from error
    contents = Contents(tuple(nodes), tuple(edges))
    if (len(nodes), len(edges)) != (head.nodes, head.edges):
        raise _unreadable(
            f"{file} has {len(nodes)} nodes and {len(edges)} edges, its head says {head.nodes} and {head.edges}"
        )
    if (digest := contents.digest()) != head.digest:
        raise _unreadable(f"{file} has digest {digest}, its head says {head.digest}")
    return Export(head=head, contents=contents)


def _head(file: Path, line: bytes) -> Head:
    try:
        given = orjson.loads(line)
        if not isinstance(given, dict) or given.get("memory") != FORMAT:
            raise ValueError(f'no {{"memory": {FORMAT}, ...}}')
        return Head.model_validate(given)
    except ValueError as error:  # ValidationError and JSONDecodeError are ones
        raise _unreadable(f"{file}, line 1 is not the head of an export: {error}") from error


def _node(record: dict[str, Any]) -> Node:
    if record.keys() != _NODE:
        raise ValueError(f"a node has the fields {sorted(_NODE)}")
    return Node(**{**record, "vector": decode_vector(record["vector"])})


def _edge(record: dict[str, Any]) -> Edge:
    if record.keys() != _EDGE:
        raise ValueError(f"an edge has the fields {sorted(_EDGE)}")
    return Edge(**record)


def _unreadable(message: str) -> InvalidDocument:
    return InvalidDocument(
        message, hint="Export again with `ruvllm memory export`; a file that was changed is not read."
    )


# --- as changes -----------------------------------------------------------------------------------------


def missing_from(memory: Memory, export: Export) -> Contents:
    """The part of an export that a memory does not hold. An edge that it holds is left as it is, whatever it learnt.

    Raises InvalidConfiguration if the two cannot be one memory: another embedder, dimension or half-life.
    """
    for name in ("embedder", "dimension", "half_life_s"):
        theirs, ours = getattr(export.head, name), getattr(memory, name)
        if theirs != ours:
            raise InvalidConfiguration(
                f"the export's {name} is {theirs!r}, this installation's is {ours!r}",
                hint="Vectors of two embedders cannot be compared: set the same one, or ingest the documents here.",
            )
    return Contents(
        tuple(node for node in export.contents.nodes if not _holds(memory, node)),
        tuple(edge for edge in export.contents.edges if memory.edge(edge.tenant, edge.edge_id) is None),
    )


def _holds(memory: Memory, node: Node) -> bool:
    if memory.node(node.tenant, node.node_id) is None:
        return False
    makers = {member.made_by for member in memory.members(node.tenant, node.node_id)}
    return not node.made_by or not makers or node.made_by in makers  # a document's node has no members


def changes(contents: Contents, origin: str) -> Iterator[list[MemoryChange]]:
    """The changes that a fold makes these contents of: for each node's member and each edge those of its own.

    `origin` names where they come from (an export's digest): the same one gives changes of the same ids.
    Raises InvalidDocument if something can be no change: a time out of bounds, an unknown relation.
    """
    items: Iterable[Node | Edge] = (*contents.nodes, *contents.edges)
    for item in items:
        try:
            yield [_node_added(item, origin)] if isinstance(item, Node) else list(_edge_changes(item, origin))
        except (ValidationError, InvalidRequest, OverflowError, OSError, ValueError) as error:
            name = item.node_id if isinstance(item, Node) else item.edge_id
            raise _unreadable(f"{name} cannot be a change of memory: {error}") from error


def _node_added(node: Node, origin: str) -> NodeAdded:
    return NodeAdded(
        tenant=node.tenant,
        time=_time(node.created_at),
        change_id=content_id("ch", "import", origin, node.tenant, node.node_id, node.made_by),
        node_id=node.node_id,
        made_by=node.made_by,
        node_kind=node.kind,  # pydantic refuses what is none
        title=node.title,
        text=node.text,
        document_id=node.document_id,
        position=node.position,
        metadata=dict(node.metadata),
        embedder=node.embedder,
        vector=node.vector,
    )


def _edge_changes(edge: Edge, origin: str) -> Iterator[MemoryChange]:
    """Birth, what was learnt, and when it was pruned."""

    def named(what: str) -> dict[str, Any]:
        change_id = content_id("ch", "import", origin, edge.tenant, edge.edge_id, what)
        return {"tenant": edge.tenant, "edge_id": edge.edge_id, "change_id": change_id}

    ends: dict[str, Any] = {"source": edge.source, "target": edge.target, "relation": edge.relation}
    if edge.born_at is not None:
        yield EdgeAdded(**named("birth"), **ends, time=_time(edge.born_at), weight=edge.birth_weight)
    learnt_at = _time(edge.learnt_at)
    sums = sorted(edge.learnt.items())
    sign = 1 if edge.outcomes >= 0 else -1
    for number in range(max(len(sums), abs(edge.outcomes))):
        client, amount = sums[number] if number < len(sums) else (sums[0][0] if sums else "", 0.0)
        yield EdgeContributed(
            **named(str(number)),
            **ends,
            time=learnt_at,
            made_by=f"import-{origin[:16]}",
            client=client,
            amount=amount,
            evidence=edge.evidence.get(client, 0.0) if number < len(sums) else 0.0,
            outcomes=sign if number < abs(edge.outcomes) else 0,
        )
    if edge.pruned_at is not None:
        yield EdgePruned(**named("pruned"), time=_time(edge.pruned_at), reason="it was pruned where it was exported")


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
