"""What one judged answer means for the graph: which edges it strengthens or weakens, and by how much.

A passage's value is what the outcome says of it; an edge's is the lesser of its two ends':

    v_p  = support_p / 2     where the right answer is known and p carries it: finding is judged apart from answering
         = -theta / 2        where it is known, nothing carries it and the answer was wrong
         = q - theta         for a good answer, if p supports it; nothing for what stood by idle
         = q - theta         for a bad answer: all that was served is suspect
    a(x, y) = eta * min(v_x, v_y)      added to the strength of the edge            (DESIGN section 5)

The question has the value of whatever it is linked to. One perfect outcome (v = 0.5) gives a new edge the
strength ln 2, a weight of 0.5; one complete failure takes as much.

Invariant: only edges that the outcome speaks of are touched: those among what was served, new ones only
where both ends proved good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ruvllm.models.memory.node import Edge

ETA = 2 * math.log(2)
THETA = 0.5
MOST_LINKED = 3
"""New co_retrieved edges join at most so many of the best passages."""

EdgeId = Callable[[str, str, str], str]
"""Relation, source, target -> the id of that edge; of a symmetric relation the ends come in order."""


@dataclass(frozen=True, slots=True)
class Used:
    """A passage that was served. `support`: how sure it carries the answer, 0 to 1."""

    node_id: str
    support: float


@dataclass(frozen=True, slots=True)
class Addition:
    """What an outcome adds to the strength of an edge."""

    edge_id: str
    source: str
    target: str
    relation: str
    amount: float


def values(used: Sequence[Used], quality: float, *, answer_known: bool) -> dict[str, float]:
    """Node id -> v in [-0.5, 0.5]; what the outcome says nothing of is left out."""
    if answer_known:
        carriers = {u.node_id: u.support / 2 for u in used if u.support >= THETA}
        return carriers or ({} if quality >= THETA else {u.node_id: -THETA / 2 for u in used})
    if quality < THETA:
        return {u.node_id: quality - THETA for u in used}
    return {u.node_id: quality - THETA for u in used if u.support >= THETA}


def additions(
    value: Mapping[str, float], question_id: str, among: Sequence[Edge], edge_id: EdgeId, *, remember: bool
) -> list[Addition]:
    """What is added to the edges `among` the question and the passages, and to new ones where it is deserved.

    `remember`: whether the question has a node, so that edges of its own can be made.
    """
    worth = {**value, question_id: math.inf}
    found = {
        edge.edge_id: Addition(
            edge.edge_id, edge.source, edge.target, edge.relation, ETA * min(worth[edge.source], worth[edge.target])
        )
        for edge in among
        if edge.source in worth and edge.target in worth
    }
    good = sorted((node_id for node_id, v in value.items() if v > 0), key=lambda node_id: (-value[node_id], node_id))
    fresh = [("co_retrieved", *sorted(pair)) for pair in combinations(good[:MOST_LINKED], 2)]
    if remember:
        fresh += [("answered_by", question_id, node_id) for node_id in good]
    for relation, source, target in fresh:
        name = edge_id(relation, source, target)
        amount = ETA * min(worth[source], worth[target])
        found.setdefault(name, Addition(name, source, target, relation, amount))
    return [addition for _, addition in sorted(found.items()) if addition.amount and math.isfinite(addition.amount)]
