"""What made an edge or a learnt node what it was: each event that changed it, and the interaction behind it.

Invariant: a weight is that of the fold of the changes handed in and of nothing else, so what is listed for an edge
adds up to what it weighed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ruvllm.agents.memory_fold import fold
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.memory import EdgeAdded, EdgeChange, EdgeContributed, MemoryChange
from ruvllm.schemas.outcome import Judged, Retract
from ruvllm.streams.history.picking import Placed, of_interactions, picked
from ruvllm.streams.history.source import Source

Change = tuple[Placed, MemoryChange]


@dataclass(frozen=True)
class Withdrawn:
    """That an interaction's influence was taken back. `carried_out`: whether the judge has done so yet."""

    at: datetime | None
    reason: str
    carried_out: bool


@dataclass(frozen=True)
class Maker:
    """An interaction that taught memory something; what is None, the log no longer says."""

    interaction_id: str
    request_id: str | None = None
    session: str | None = None
    client: str = ""
    at: datetime | None = None
    question: str | None = None
    quality: float | None = None
    retracted: Withdrawn | None = None


@dataclass(frozen=True)
class Influence:
    """One change of an edge. `amount`: of strength, what a contribution added; none: it added nothing by itself."""

    place: Placed
    kind: str
    at: datetime
    amount: float | None = None
    outcomes: int = 0
    by: Maker | None = None
    reason: str = ""


@dataclass(frozen=True)
class Birth:
    """How an edge began: with a document, or (`by`) with the first outcome that used it. `weight`: w at birth."""

    at: datetime
    weight: float | None
    document_id: str | None
    by: Maker | None
    place: Placed


@dataclass(frozen=True)
class EdgeStory:
    """An edge at one moment. `weight` is w then; none: the log had not made it yet at the place recorded."""

    edge_id: str
    relation: str
    source: str
    target: str
    weight: float | None
    birth: Birth | None
    contributions: tuple[Influence, ...]
    alike: float | None = None
    """Of an edge that leads from a past question: that question's cosine with the one asked."""


@dataclass
class Words:
    """What was said of some interactions: their outcomes, oldest revision first, and what takes them back."""

    outcomes: dict[str, list[tuple[Placed, Judged]]] = field(default_factory=dict)
    retracts: dict[str, tuple[Placed, Retract]] = field(default_factory=dict)

    @classmethod
    async def of(cls, source: Source, interactions: Collection[str]) -> Words:
        """One pass over outcomes and one over retractions."""
        words = cls()
        wanted = of_interactions(interactions)
        async for place, event in picked(source, "outcome.judged", wanted):
            if isinstance(event, Judged):
                words.outcomes.setdefault(event.interaction_id, []).append((place, event))
        async for place, event in picked(source, "retraction.submitted", wanted):
            if isinstance(event, Retract):
                words.retracts.setdefault(event.interaction_id, (place, event))
        return words

    def last(self, interaction_id: str) -> Judged | None:
        said = self.outcomes.get(interaction_id)
        return max((event for _, event in said), key=lambda event: event.revision) if said else None

    def withdrawn(self, interaction_id: str) -> Withdrawn | None:
        command = self.retracts.get(interaction_id)
        last = self.last(interaction_id)
        done = last.retraction if last else None
        if command is None and done is None:
            return None
        retraction = done or (command[1].retraction if command else None)
        return Withdrawn(command[1].time if command else None, retraction.reason if retraction else "", bool(done))

    def maker(self, interaction_id: str) -> Maker:
        last = self.last(interaction_id)
        if last is None:
            return Maker(interaction_id, retracted=self.withdrawn(interaction_id))
        return Maker(
            interaction_id,
            last.request_id,
            last.session,
            last.client,
            last.time,
            last.question,
            last.quality,
            self.withdrawn(interaction_id),
        )


def makers_of(changes: Iterable[Change]) -> set[str]:
    """The interactions that made these changes."""
    return {made_by for _, change in changes if (made_by := getattr(change, "made_by", ""))}


def influence(place: Placed, change: MemoryChange, words: Words) -> Influence:
    made_by = getattr(change, "made_by", "")
    maker = words.maker(made_by) if made_by else None
    reason = getattr(change, "reason", "")
    if isinstance(change, EdgeContributed):
        return Influence(place, change.kind, change.time, change.amount, change.outcomes, maker, reason)
    return Influence(place, change.kind, change.time, by=maker, reason=reason)


def edge_story(
    edge_id: str,
    changes: Sequence[Change],
    words: Words,
    *,
    now_s: float,
    documents: Mapping[str, str],
    alike: float | None = None,
) -> EdgeStory:
    """An edge as its changes (of that edge alone, in order) left it at `now_s`. `documents`: node -> document id."""
    memory = Memory("", 0)
    for place, change in changes:
        fold(memory, change, place.offset)
    first = next((c for _, c in changes if isinstance(c, EdgeAdded | EdgeContributed)), None)
    if first is None:
        return EdgeStory(edge_id, "", "", "", None, None, (), alike)
    edge = memory.edge(first.tenant, edge_id)
    return EdgeStory(
        edge_id,
        first.relation,
        first.source,
        first.target,
        memory.weight_of(edge, now_s) if edge else 0.0,
        _birth(changes, words, documents),
        tuple(influence(place, c, words) for place, c in changes if not isinstance(c, EdgeAdded)),
        alike,
    )


def by_edge(changes: Iterable[Change]) -> dict[str, list[Change]]:
    """Edge id -> its changes, in their order."""
    found: dict[str, list[Change]] = {}
    for place, change in changes:
        if isinstance(change, EdgeChange):
            found.setdefault(change.edge_id, []).append((place, change))
    return found


def _birth(changes: Sequence[Change], words: Words, documents: Mapping[str, str]) -> Birth | None:
    """Of several births the earliest counts, as in the fold; without one it is the first contribution."""
    stated = [(place, c) for place, c in changes if isinstance(c, EdgeAdded)]
    if stated:
        place, born = min(stated, key=lambda row: row[1].time)
        document = documents.get(born.source) or documents.get(born.target)
        return Birth(born.time, born.weight, document, None, place)
    for place, change in changes:
        if isinstance(change, EdgeContributed):
            return Birth(change.time, None, None, words.maker(change.made_by), place)
    return None
