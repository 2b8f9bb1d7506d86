"""Why the same question is answered differently: which candidates moved, by which edges, by which events.

Invariant: two looks at one log. Every edge that is named had a say in a candidate's place in one of them, and every
event that is named lies between the two places and changed one of these edges or candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ruvllm.models.memory.store import Memory
from ruvllm.schemas.memory import EdgeChange, MemoryChange, NodeChange
from ruvllm.streams.history.influence import Influence, Words, influence, makers_of
from ruvllm.streams.history.look import Look
from ruvllm.streams.history.moments import MEMORY
from ruvllm.streams.history.picking import Placed, keyed, picked
from ruvllm.streams.history.source import Place, Source

SAME = 1e-6
"""Scores and weights that differ by less are the same."""


@dataclass(frozen=True)
class BeforeAfter:
    """One value at the two moments; None where there was none."""

    before: Any
    after: Any


@dataclass(frozen=True)
class MovedCandidate:
    """A passage at the two moments. `edges`: those that had a say in it and weigh something else now."""

    node_id: str
    kind: str
    title: str
    text: str
    rank: BeforeAfter
    score: BeforeAfter
    served: BeforeAfter
    edges: tuple[str, ...]
    events: tuple[Influence, ...]


@dataclass(frozen=True)
class MovedEdge:
    """An edge at the two moments. Without events it has only faded."""

    edge_id: str
    relation: str
    source: str
    target: str
    weight: BeforeAfter
    events: tuple[Influence, ...]


@dataclass(frozen=True)
class RouteSide:
    """What was decided at one moment, and what the past said of each tier (0 to 1; None: nothing)."""

    checkpoint: str
    tier: str
    context_tokens: int
    confidence: float
    fallback: bool
    expected: dict[str, float] | None
    past: dict[str, float | None]


@dataclass(frozen=True)
class Side:
    """One of the two moments. `as_recorded`: whether what is found again is what the log says was served then."""

    name: str
    at: datetime
    place: dict[int, int]
    ranker: str | None
    snapshot: str | None = None
    request_id: str | None = None
    as_recorded: bool | None = None
    route: RouteSide | None = None


@dataclass(frozen=True)
class Difference:
    """What `--json` prints."""

    question: str
    tenant: str
    before: Side
    after: Side
    candidates: tuple[MovedCandidate, ...]
    edges: tuple[MovedEdge, ...]
    because: tuple[str, ...]
    route_because: tuple[str, ...]


async def compare(
    source: Source, question: str, tenant: str, sides: tuple[Side, Side], looks: tuple[Look, Look], memory: Memory
) -> Difference:
    """Two looks beside each other. `memory`: any that has the half-life of both; it is asked for weights only."""
    start, end = _between(sides[0].place, sides[1].place)
    before, after = looks
    ids = list(dict.fromkeys([*after.candidates, *before.candidates]))
    counting = {
        node_id: {e for one in looks if node_id in one.candidates for e in one.candidates[node_id].edges}
        for node_id in ids
    }
    edge_ids = set().union(*counting.values()) if counting else set()
    changes = await _changes(source, edge_ids | set(ids), start, end)
    words = await Words.of(source, {name for found in changes.values() for name in makers_of(found)})
    told = {name: tuple(influence(at, c, words) for at, c in found) for name, found in changes.items()}
    edges = {e: _edge(e, before, after, memory, told.get(e, ())) for e in sorted(edge_ids)}
    moved_edges = {name: edge for name, edge in edges.items() if edge is not None}
    candidates = [
        _candidate(i, before, after, tuple(sorted(counting[i] & moved_edges.keys())), told.get(i, ())) for i in ids
    ]
    moved = [c for c in candidates if c.rank.before != c.rank.after or _differ(c.score.before, c.score.after)]
    named = {edge_id for c in moved for edge_id in c.edges}
    return Difference(
        question,
        tenant,
        *sides,
        tuple(moved),
        tuple(edge for name, edge in moved_edges.items() if name in named),
        _because(sides, moved, [moved_edges[name] for name in named]),
        _route_because(sides[0].route, sides[1].route),
    )


def _between(one: Mapping[int, int], other: Mapping[int, int]) -> tuple[Place, Place]:
    both = one.keys() | other.keys()
    pairs = {p: sorted((one.get(p, 0), other.get(p, 0))) for p in both}
    return {p: low for p, (low, _) in pairs.items()}, {p: high for p, (_, high) in pairs.items()}


async def _changes(
    source: Source, ids: set[str], start: Place, end: Place
) -> dict[str, list[tuple[Placed, MemoryChange]]]:
    """Edge or node id -> its changes between two places."""
    found: dict[str, list[tuple[Placed, MemoryChange]]] = {}
    async for place, change in picked(source, MEMORY, keyed(ids), start, end):
        if isinstance(change, EdgeChange):
            found.setdefault(change.edge_id, []).append((place, change))
        elif isinstance(change, NodeChange):
            found.setdefault(change.node_id, []).append((place, change))
    return found


def _edge(edge_id: str, before: Look, after: Look, memory: Memory, events: tuple[Influence, ...]) -> MovedEdge | None:
    """An edge that weighs something else, or None if it does not."""
    weight = BeforeAfter(before.weight(memory, edge_id), after.weight(memory, edge_id))
    if not events and not _differ(weight.before, weight.after):
        return None
    edge = after.edges.get(edge_id) or before.edges[edge_id]
    return MovedEdge(edge_id, edge.relation, edge.source, edge.target, weight, events)


def _candidate(
    node_id: str, before: Look, after: Look, edges: tuple[str, ...], events: tuple[Influence, ...]
) -> MovedCandidate:
    was, now = before.candidates.get(node_id), after.candidates.get(node_id)
    node = now.node if now else before.candidates[node_id].node
    return MovedCandidate(
        node_id,
        node.kind,
        node.title,
        node.text,
        BeforeAfter(was.rank if was else None, now.rank if now else None),
        BeforeAfter(round(was.score, 6) if was else None, round(now.score, 6) if now else None),
        BeforeAfter(bool(was and was.served), bool(now and now.served)),
        edges,
        events,
    )


def _differ(one: float | None, other: float | None) -> bool:
    return one is not other and (one is None or other is None or abs(one - other) > SAME)


def _because(sides: tuple[Side, Side], moved: list[MovedCandidate], edges: list[MovedEdge]) -> tuple[str, ...]:
    before, after = sides
    said = []
    if before.ranker != after.ranker:
        said.append(f"another ranker: {before.ranker or 'none'} -> {after.ranker or 'none'}")
    if taught := sum(bool(edge.events) for edge in edges):
        events = sum(len(edge.events) for edge in edges)
        said.append(f"{_counted(taught, 'edge')} changed by {_counted(events, 'event')}")
    if faded := sum(not edge.events for edge in edges):
        said.append(f"{_counted(faded, 'edge')} faded with time")
    come = sum(c.rank.before is None and bool(c.events) for c in moved)
    gone = sum(c.rank.after is None and bool(c.events) for c in moved)
    if come or gone:
        said.append(f"{_counted(come, 'passage')} came to memory, {gone} left it")
    if moved and not said:
        said.append("other passages came or went, and with them the weight of words and names")
    return tuple(said)


def _route_because(before: RouteSide | None, after: RouteSide | None) -> tuple[str, ...]:
    if before is None or after is None:
        return ()
    said = []
    if before.checkpoint != after.checkpoint:
        said.append(f"another checkpoint: {before.checkpoint} -> {after.checkpoint}")
    for tier in after.past:
        was, now = before.past.get(tier), after.past[tier]
        if _differ(was, now):
            said.append(f"past outcomes of {tier}: {_shown(was)} -> {_shown(now)}")
    if not said and (before.tier, before.expected) != (after.tier, after.expected):
        said.append("other features of the request: what memory had on it, the session, or what it allowed")
    return tuple(said)


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
