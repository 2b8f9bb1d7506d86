"""What memory holds: nodes (a passage and its vector) and edges between them.

Both are immutable. Two nodes with the same fields have the same record and vector bytes, which is
what digests and snapshots are made from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

Float32s = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One passage. `vector` is (d,) float32, of unit length, or zero if nothing could be read in it.

    A writable vector is copied, so that nobody can change it later; a read-only one is shared.
    `created_at` is event time in seconds since the epoch. `made_by` names the interaction that it was
    learnt from, nothing for what a document says.
    """

    node_id: str
    tenant: str
    kind: str
    title: str
    text: str
    document_id: str | None
    position: int
    metadata: Mapping[str, str]
    embedder: str
    vector: Float32s = field(repr=False)
    created_at: float
    made_by: str = ""

    def __post_init__(self) -> None:
        vector = np.ascontiguousarray(self.vector, dtype=np.float32)
        if vector.flags.writeable:
            vector = vector.copy()
            vector.flags.writeable = False
        object.__setattr__(self, "vector", vector)

    def record(self) -> dict[str, Any]:
        """Every field but the vector, as JSON knows it."""
        return {name: getattr(self, name) for name in _NODE_FIELDS} | {"metadata": dict(self.metadata)}


@dataclass(frozen=True, slots=True)
class Edge:
    """A relation of two nodes of one tenant.

    `birth_weight` is w in [0, 1) at `born_at`; an edge that was only learnt, or is stated no more, has no birth.
    `learnt`: client -> sum of its outcomes' strengths, `evidence`: client -> sum of their sizes, both as at
    `learnt_at` (times in seconds since the epoch; `edge_strength.py` says what they count). `pruned_at`: when it was
    last decided that nothing is left of it. `applied` is the offset of the last change in the edge's partition of
    the log, -1 if that is not known.
    """

    edge_id: str
    tenant: str
    source: str
    target: str
    relation: str
    birth_weight: float = 0.0
    born_at: float | None = None
    learnt: Mapping[str, float] = field(default_factory=dict)
    evidence: Mapping[str, float] = field(default_factory=dict)
    learnt_at: float = 0.0
    outcomes: int = 0
    pruned_at: float | None = None
    applied: int = -1

    @property
    def is_blank(self) -> bool:
        """Whether nothing is known of it but its place in the log: all that was learnt was taken back."""
        return self.born_at is None and not self.learnt and not self.outcomes

    def record(self) -> dict[str, Any]:
        """Every field, as JSON knows it."""
        sums = {"learnt": dict(self.learnt), "evidence": dict(self.evidence)}
        return {name: getattr(self, name) for name in _EDGE_FIELDS} | sums

    def taught(
        self, learnt: Mapping[str, float], evidence: Mapping[str, float], learnt_at: float, outcomes: int, applied: int
    ) -> Edge:
        """This edge with other sums; the same as `dataclasses.replace`, three times as quick."""
        return Edge(
            self.edge_id,
            self.tenant,
            self.source,
            self.target,
            self.relation,
            self.birth_weight,
            self.born_at,
            learnt,
            evidence,
            learnt_at,
            outcomes,
            self.pruned_at,
            applied,
        )

    def other(self, node_id: str) -> str:
        """The end that is not `node_id`."""
        return self.target if node_id == self.source else self.source


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything at one moment, in canonical order: by tenant, then id.

    Of a node that several interactions made there are several, the one that shows first.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def digest(self) -> str:
        """SHA-256 over all fields but places in the log, and vector bytes, in hexadecimal; blank edges aside."""
        sha = hashlib.sha256()
        for node in self.nodes:
            sha.update(orjson.dumps(node.record(), option=orjson.OPT_SORT_KEYS))
            sha.update(node.vector.astype("<f4", copy=False).tobytes())
        for edge in self.edges:
            if edge.is_blank:
                continue
            record = {name: value for name, value in edge.record().items() if name != "applied"}
            sha.update(orjson.dumps(record, option=orjson.OPT_SORT_KEYS))
        return sha.hexdigest()


_NODE_FIELDS = tuple(f.name for f in fields(Node) if f.name != "vector")
_EDGE_FIELDS = tuple(f.name for f in fields(Edge))
