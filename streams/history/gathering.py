"""The story of one answer, gathered from the log only.

Each topic is read once, and decoded only where its bytes say that it matters. What memory was at that moment is
what lies below the interaction's `memory_offsets`; all else in `memory.changed` came since.

Invariant: a story is a function of the log and of the request; nothing live is asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from ruvllm.models.attention.candidate_graph import PAST
from ruvllm.models.attention.packing import is_of_these_features, unpack_graph
from ruvllm.models.attention.past_questions import alike
from ruvllm.models.router.policy import POLICY, drawn_at_random
from ruvllm.schemas.flow import Interaction, Passage, RatingAccepted, Retrieval, Route
from ruvllm.schemas.memory import (
    EdgeChange,
    EdgeContributed,
    MemoryChange,
    NodeAdded,
    NodeChange,
    NodeRemoved,
    NodeRetracted,
)
from ruvllm.schemas.outcome import CandidatesCredited, Judged
from ruvllm.streams.history.checkpoints import Learnt
from ruvllm.streams.history.influence import Change, Maker, Words, by_edge, edge_story, makers_of
from ruvllm.streams.history.picking import Placed, Wanted, holding, keyed, of_interactions, picked
from ruvllm.streams.history.source import Place, Source
from ruvllm.streams.history.story import Lesson, Reading, RouteStory, SourceStory, Story, Verdict
from ruvllm.streams.records import Record


async def tell(source: Source, place: Placed, asked: Interaction) -> Story:
    """Gather the story of an interaction that stands at `place`."""
    found = asked.retrieval
    then, since = await _memory_of(source, asked)
    words = await Words.of(source, makers_of(then) | {asked.interaction_id})
    learnt = await Learnt.of(source)
    credits_told = await _credits(source, asked.interaction_id)
    sources = _sources(asked, then, since, words) if found else ()
    stood_on = {m.interaction_id: m for s in sources for m in _makers(s) if m.retracted}
    candidates = found.candidates if found else None
    said = words.outcomes.get(asked.interaction_id, [])
    lessons = {"router": [at for at, _ in said], "attention": [at for at, _ in credits_told]}
    return Story(
        place=place,
        interaction=asked,
        ranker=candidates.ranker if candidates else None,
        ranker_lineage=learnt.lineage(candidates.ranker if candidates else None),
        sources=sources,
        route=_route(asked.route, learnt) if asked.route else None,
        verdicts=tuple(_verdict(at, outcome) for at, outcome in said),
        feedback=tuple([rating async for rating in _feedback(source, asked)]),
        lessons=tuple(_lesson(at, c) for at, c in since if getattr(c, "made_by", "") == asked.interaction_id),
        credit=credits_told[-1][1].credit if credits_told else {},
        runs=tuple(_readings(learnt, asked, place, lessons)),
        retraction=words.withdrawn(asked.interaction_id),
        stands_on_retracted=tuple(stood_on[name] for name in sorted(stood_on)),
    )


# --- memory ---------------------------------------------------------------------------------------


async def _memory_of(source: Source, asked: Interaction) -> tuple[list[Change], list[Change]]:
    """The changes that matter to an answer: those that it could know, and those that came since."""
    retrieval = asked.retrieval
    passages = retrieval.passages if retrieval else ()
    candidates = retrieval.candidates.node_ids if retrieval and retrieval.candidates else ()
    by_key = keyed({*candidates, *(p.node_id for p in passages), *(e for p in passages for e in p.via)})
    by_text = holding([asked.interaction_id, *(p.node_id for p in passages)])

    def wanted(record: Record) -> bool:
        return by_key(record) or by_text(record)

    spans = await source.spans("memory.changed")
    reached = retrieval.memory_offsets if retrieval else {}
    middle = {partition: int(reached.get(str(partition), 0)) for partition in spans}
    then = await _changes(source, wanted, None, middle)
    return then, await _changes(source, wanted, middle, None)


async def _changes(source: Source, wanted: Wanted, start: Place | None, end: Place | None) -> list[Change]:
    found = picked(source, "memory.changed", wanted, start, end)
    return [(place, change) async for place, change in found if isinstance(change, NodeChange | EdgeChange)]


def _sources(
    asked: Interaction, then: Sequence[Change], since: Sequence[Change], words: Words
) -> tuple[SourceStory, ...]:
    retrieval = asked.retrieval
    assert retrieval is not None
    nodes = [change for _, change in then if isinstance(change, NodeAdded)]
    documents = {node.node_id: node.document_id for node in nodes if node.document_id}
    edges = by_edge(then)
    past = _past(retrieval)
    shown = asked.generation.context_nodes if asked.generation else ()
    told = []
    for rank, passage in enumerate(retrieval.passages, 1):
        led = [(edge_id, None) for edge_id in passage.via] + _asked_before(passage, edges, words, retrieval)
        told.append(
            SourceStory(
                rank,
                passage.node_id,
                passage.node_kind,
                passage.title,
                passage.text,
                passage.document_id,
                passage.score,
                passage.similarity,
                past.get(passage.node_id, passage.score if passage.node_kind == "answer" else None),
                passage.node_id in shown,
                tuple(
                    edge_story(
                        edge_id,
                        edges.get(edge_id, ()),
                        words,
                        now_s=asked.time.timestamp(),
                        documents=documents,
                        alike=cosine,
                    )
                    for edge_id, cosine in led
                ),
                tuple(words.maker(n.made_by) for n in nodes if n.made_by and n.node_id == passage.node_id),
                _since(passage.node_id, since),
            )
        )
    return tuple(told)


def _asked_before(
    passage: Passage, edges: Mapping[str, Sequence[Change]], words: Words, retrieval: Retrieval
) -> list[tuple[str, float]]:
    """The edges by which questions like this one were answered from a passage, the most alike first."""
    found = []
    for edge_id, changes in edges.items():
        first = changes[0][1]
        if not isinstance(first, EdgeContributed) or first.relation != "answered_by" or first.target != passage.node_id:
            continue
        outcomes = [words.last(made_by) for made_by in makers_of(changes)]
        cosines = [
            float(o.query_vector @ retrieval.query_vector) for o in outcomes if o and o.embedder == retrieval.embedder
        ]
        if cosines and alike(max(cosines)) > 0:
            found.append((edge_id, round(max(cosines), 6)))
    return sorted(found, key=lambda row: (-row[1], row[0]))


def _past(retrieval: Retrieval) -> dict[str, float]:
    """Node id -> its support by past questions, as the ranker saw it."""
    candidates = retrieval.candidates
    if candidates is None or not is_of_these_features(candidates.graph):
        return {}
    support = unpack_graph(candidates.graph).nodes[:, PAST].tolist()
    return {node_id: round(value, 4) for node_id, value in zip(candidates.node_ids, support, strict=True)}


def _since(node_id: str, since: Sequence[Change]) -> str | None:
    """The last word on a node that is gone."""
    last = next((c for _, c in reversed(since) if isinstance(c, NodeChange) and c.node_id == node_id), None)
    return f"{last.time:%Y-%m-%d %H:%M:%S}: {last.reason}" if isinstance(last, NodeRemoved | NodeRetracted) else None


def _makers(source: SourceStory) -> list[Maker]:
    return [*source.made_by, *(i.by for edge in source.edges for i in edge.contributions if i.by)]


# --- what was decided, said and learnt ------------------------------------------------------------


def _route(route: Route, learnt: Learnt) -> RouteStory:
    drawn = drawn_at_random(route.seed, route.exploration) if route.policy == POLICY else ()
    return RouteStory(
        route.tier,
        route.context_tokens,
        route.temperature,
        route.top_p,
        route.probability,
        route.arms,
        bool(drawn),
        drawn,
        route.fallback,
        route.confidence,
        route.expected.model_dump() if route.expected else None,
        route.available_tiers,
        route.exploration,
        route.checkpoint,
        learnt.lineage(route.checkpoint),
    )


def _verdict(place: Placed, outcome: Judged) -> Verdict:
    retraction = outcome.retraction.reason if outcome.retraction else None
    return Verdict(
        place,
        outcome.revision,
        outcome.quality,
        outcome.success,
        outcome.by,
        outcome.reasons,
        outcome.accepted,
        retraction,
    )


def _lesson(place: Placed, change: MemoryChange) -> Lesson:
    subject = getattr(change, "node_id", "") or getattr(change, "edge_id", "")
    return Lesson(place, change.kind, subject, getattr(change, "relation", None), getattr(change, "amount", None))


async def _credits(source: Source, interaction_id: str) -> list[tuple[Placed, CandidatesCredited]]:
    found = picked(source, "candidates.credited", of_interactions([interaction_id]))
    return [(place, event) async for place, event in found if isinstance(event, CandidatesCredited)]


async def _feedback(source: Source, asked: Interaction) -> AsyncIterator[RatingAccepted]:
    async for _, event in picked(source, "rating.accepted", holding([asked.request_id])):
        if isinstance(event, RatingAccepted) and event.request_key == asked.request_key:
            yield event


def _readings(
    learnt: Learnt, asked: Interaction, place: Placed, lessons: Mapping[str, Sequence[Placed]]
) -> Iterator[Reading]:
    """The runs since the question was asked. `lessons`: learner -> where what it learns of this answer stands."""
    for run in learnt.runs():
        if run.at >= asked.time:
            yield Reading(run, run.has_read(place) and any(run.has_read(at) for at in lessons.get(run.learner, ())))
