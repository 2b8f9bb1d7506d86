"""What memory answers with: nodes found by their vectors or along edges, and how much is held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ruvllm.models.memory.node import Node


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
