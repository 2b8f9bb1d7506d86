"""One tenant's edges: structure that texts state, and what outcomes have taught.

Invariant: the state is a function of the changes of each edge in their own order. A learnt strength is
read from sums of the contributions to it, kept as at the newest of their times, so that their order does
not matter and any of them can be taken back by its opposite. To that end what was learnt outlives what was
stated: a removed edge shows no more, but an outcome of before can still be revised.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import replace

from ruvllm.models.memory.edge_strength import (
    LEAST_OUTCOMES,
    LEAST_WEIGHT,
    NO_STRENGTH,
    STRUCTURAL,
    counted,
    decayed,
    half_life,
    moved,
    strength_at_birth,
    weight,
)
from ruvllm.models.memory.node import Edge

_LEARNT = ("learnt", "evidence", "learnt_at", "outcomes", "pruned_at", "applied")


class Edges:
    """Edges by id and by their ends. `half_life_s` is that of what was learnt."""

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._edges: dict[str, Edge] = {}
        self._touching: dict[str, set[str]] = {}  # node id, known or not -> edge ids

    def __len__(self) -> int:
        return len(self._edges)

    def get(self, edge_id: str) -> Edge | None:
        return self._edges.get(edge_id)

    def all(self) -> Iterator[Edge]:
        """By id."""
        return (edge for _, edge in sorted(self._edges.items()))

    def put(self, edge: Edge) -> None:
        """Put an edge; its birth is set once: of several, the one born first stays (ties by content).

        What the edge has learnt stays with it. Raises InvalidRequest if its weight is not in [0, 1).
        """
        strength_at_birth(edge.birth_weight)
        known = self._edges.get(edge.edge_id)
        if known is not None:
            if known.born_at is not None and _birth(known) <= _birth(edge):
                return
            edge = replace(edge, **{name: getattr(known, name) for name in _LEARNT})
        self._set(edge)

    def contribute(
        self, edge: Edge, client: str, amount: float, at: float, outcomes: int, evidence: float | None = None
    ) -> None:
        """Add `amount` of strength at time `at` to what an edge has learnt from a client; see `Memory.contribute`."""
        known = self._edges.get(edge.edge_id)
        if known is not None and 0 <= edge.applied <= known.applied:
            return
        applied = edge.applied if known is None else max(known.applied, edge.applied)
        if known is None:
            known = edge
        elif not known.relation:  # all that is known of it is that it was pruned
            known = replace(edge, pruned_at=known.pruned_at)
        half_life_s = self._half_life_s
        self._set(contributed(known, client, amount, at, outcomes, evidence, applied, half_life_s=half_life_s))

    def prune(self, tenant: str, edge_id: str, at: float) -> None:
        """Note that nothing was left of an edge at time `at`; the last such word is in force.

        It is noted of an edge of which nothing is known as well: what was taken back may be all that there was.
        """
        known = self._edges.get(edge_id) or Edge(edge_id, tenant, "", "", "")
        if known.pruned_at is None or known.pruned_at < at:
            self._set(replace(known, pruned_at=at))

    def remove(self, edge_id: str) -> None:
        """An edge is stated no more. What it has learnt stays, and shows if it is stated again."""
        known = self._edges.get(edge_id)
        if known is None:
            return
        if known.applied < 0 and known.pruned_at is None and not known.learnt:
            self._forget(edge_id)
        else:
            self._set(replace(known, birth_weight=0.0, born_at=None))

    def at(self, node_id: str, nodes: Collection[str]) -> Iterator[Edge]:
        """The edges of a node whose two ends are among the known nodes, those aside that are stated no more."""
        for edge_id in self._touching.get(node_id, ()):
            edge = self._edges[edge_id]
            if edge.born_at is None and edge.relation in STRUCTURAL:
                continue
            if edge.source in nodes and edge.target in nodes:
                yield edge

    def weight(self, edge: Edge, now: float) -> float:
        """w in [0, 1) at `now`, seconds since the epoch."""
        strength = math.fsum(by_client(edge, now, self._half_life_s).values())
        if edge.born_at is not None:
            at_birth = strength_at_birth(edge.birth_weight)
            strength += decayed(at_birth, now - edge.born_at, half_life(edge.relation, self._half_life_s))
        return weight(strength)

    def leads(self, edge: Edge, now: float) -> bool:
        """Whether an edge leads anywhere at `now`: not if it is pruned or its outcomes left it without weight."""
        return self._carries(edge, now) and not self.pruned(edge)

    def pruned(self, edge: Edge) -> bool:
        """Whether an edge stays hidden: with all outcomes that are known now, nothing is left of it at `pruned_at`.

        So what was bad does not come back because it fades, but a good outcome brings an edge back, and so does
        taking back the bad ones.
        """
        return edge.pruned_at is not None and not self._carries(edge, edge.pruned_at)

    def _carries(self, edge: Edge, at: float) -> bool:
        found = self.weight(edge, at)
        return found > NO_STRENGTH and (found >= LEAST_WEIGHT or edge.outcomes < LEAST_OUTCOMES)

    def _forget(self, edge_id: str) -> None:
        edge = self._edges.pop(edge_id, None)
        for end in {edge.source, edge.target} if edge else ():
            self._touching[end].discard(edge_id)
            if not self._touching[end]:
                del self._touching[end]

    def _set(self, edge: Edge) -> None:
        known = self._edges.get(edge.edge_id)
        if known is None or known.source != edge.source or known.target != edge.target:
            self._forget(edge.edge_id)
            for end in (edge.source, edge.target):
                self._touching.setdefault(end, set()).add(edge.edge_id)
        self._edges[edge.edge_id] = edge


def _birth(edge: Edge) -> tuple[float, float, str, str, str]:
    born_at = math.inf if edge.born_at is None else edge.born_at
    return born_at, edge.birth_weight, edge.source, edge.target, edge.relation


def by_client(edge: Edge, now: float, half_life_s: float) -> dict[str, float]:
    """Client -> what it counts of an edge's strength at `now`, seconds since the epoch."""
    return {
        client: counted(
            moved(strength, edge.learnt_at, now, half_life_s),
            moved(edge.evidence.get(client, 0.0), edge.learnt_at, now, half_life_s),
        )
        for client, strength in edge.learnt.items()
    }


def contributed(
    edge: Edge,
    client: str,
    amount: float,
    at: float,
    outcomes: int,
    evidence: float | None,
    applied: int = -1,
    *,
    half_life_s: float,
) -> Edge:
    """An edge that has learnt `amount` more from a client at time `at` (seconds since the epoch).

    A client all of whose outcomes were taken back is forgotten, and with the last of them all that was learnt.
    """
    reference = max(edge.learnt_at, at)
    fades, counts = (moved(1.0, time, reference, half_life_s) for time in (edge.learnt_at, at))
    heard_more = outcomes * abs(amount) if evidence is None else evidence
    learnt = {c: strength * fades for c, strength in edge.learnt.items()}
    heard = {c: size * fades for c, size in edge.evidence.items()}
    learnt[client] = learnt.get(client, 0.0) + amount * counts
    heard[client] = heard.get(client, 0.0) + heard_more * counts
    left = edge.outcomes + outcomes
    if max(abs(learnt[client]), abs(heard[client])) <= NO_STRENGTH * abs(amount * counts):
        del learnt[client], heard[client]
    if outcomes < 0 and not left and all(abs(value) < NO_STRENGTH for value in (*learnt.values(), *heard.values())):
        learnt, heard = {}, {}
    return edge.taught(learnt, heard, reference if learnt else 0.0, left, applied)
