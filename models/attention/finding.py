"""What memory has on a question, best first: near in meaning, near in words, linked, or known from before.

Until something is learnt, a passage counts by its cosine and its words; what edges of the best hits lead
to has the cosine of its seed times the weights of the edges on the way, damped, and what has both reasons
has a little more than the better one. What was learnt comes on top: past questions lead to what answered
them, and a ranker that passed its gate orders the candidates of questions like those that it learnt from.

Left out is what is not memory of this question: what scores under the floor, was not led to by a strong
edge of a good hit, and did not answer a question like this one. If there is any at all, a trusted ranker
chooses among all candidates: the second passage of a chain may resemble the question in nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ruvllm.models.attention.candidate_graph import CandidateGraph, Link, Pool, candidate_graph
from ruvllm.models.attention.graph_attention import HYBRID_SCALE, GraphAttention
from ruvllm.models.attention.past_questions import NEAREST, alike
from ruvllm.models.attention.ranker import Trust, rank
from ruvllm.models.attention.recall import RecallRules, recall
from ruvllm.models.memory.edge_strength import LEAST_WEIGHT
from ruvllm.models.memory.found import Hit
from ruvllm.models.memory.lexicon import Lexicon
from ruvllm.models.memory.node import Node
from ruvllm.models.memory.store import Memory

Float32s = NDArray[np.float32]
PASSAGES = ("document", "concept")
"""Kinds of node that are found by what they say. An answer is found by its question alone."""
WALKED = ("same_topic", "cites", "follows", "derived", "contains", "co_retrieved", "agent_step")
CAUGHT_UP = 200
"""Passages whose words are taken in before a search, at most: 30 ms."""


_NONE = np.zeros(0, np.float32)
EMPTY = Pool((), np.zeros((0, 0), np.float32), _NONE, _NONE, _NONE, _NONE)


@dataclass(frozen=True)
class RetrievalRules:
    """How wide to look and how much to hand on. `floor` is a cosine.

    `edge_floor`: the same for what is led to, as a share of `floor`: two thirds of 0.30 are a hit at 0.5 and
    an edge of weight 0.5. `agreement`: the share of the weaker reason that counts beside the stronger one,
    from 0 (they say the same) to 1 (they are independent: noisy or, Pearl 1988, 4.3.2). `past_floor`: support
    by past questions from which a passage is served whatever its cosine; `answers`: so many remembered
    answers at most.
    """

    candidates: int = 24
    passages: int = 4
    floor: float = 0.30
    hops: int = 1
    seeds: int = 3
    graph_damping: float = 0.8
    edge_floor: float = 2 / 3
    agreement: float = 0.25
    past_floor: float = 0.3
    answers: int = 1
    recall: RecallRules = field(default_factory=RecallRules)

    def score(self, cosine: float, by_edge: float) -> float:
        """Both reasons as one, at least the better of the two, under 1."""
        weaker, stronger = sorted((max(cosine, 0.0), by_edge))
        return stronger + self.agreement * weaker * (1.0 - stronger)


@dataclass(frozen=True, slots=True)
class Found:
    """A passage. `score` 0..1 is the strongest reason for it; the order may be another, if it was learnt."""

    node: Node
    cosine: float
    score: float
    via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """What was found, best first, and what it was ranked by: candidates, their graph, likeness to past questions.

    `led`: node id -> what the best edges to it give, 0 to 1, and these edges, whether or not the node needed them.
    """

    passages: tuple[Found, ...]
    pool: Pool
    graph: CandidateGraph
    likeness: float
    led: Mapping[str, tuple[float, tuple[str, ...]]] = field(default_factory=dict)


def find(
    memory: Memory,
    tenant: str,
    question: str,
    vector: Float32s,
    rules: RetrievalRules,
    *,
    now_s: float,
    where: Mapping[str, str] | None = None,
    ranker: GraphAttention | None = None,
) -> Finding:
    """Search for a question, `vector` (d,) float32. Ties go by node id. `where`: metadata that must be so."""
    if not memory.holds(tenant):
        return Finding((), EMPTY, candidate_graph(question, vector, EMPTY, Lexicon(), {}), 0.0)
    with memory.lock:  # one moment of memory
        nodes = memory.nodes(tenant)
        hits = _hits(memory, tenant, vector, rules, where)
        seeds = hits if not where else _hits(memory, tenant, vector, rules, None)
        led = _led_to(memory, tenant, seeds[: rules.seeds], rules, now_s)
        likeness, support = past_support(memory, tenant, vector, now_s)
        words = memory.words(tenant)
        words.catch_up(CAUGHT_UP)
        near = [(h.node.node_id, h.similarity) for h in hits]
        near += [(node_id, float(nodes[node_id].vector @ vector)) for node_id in led]
        pool = recall(
            question,
            near,
            words.keywords,
            words.lexicon,
            vector,
            lambda node_id: nodes[node_id].vector,
            support,
            rules.recall,
            (lambda node_id: _matches(nodes.get(node_id), where)) if where else None,
        )
        pool = _with(pool, [i for i in led if i in words.lexicon and _matches(nodes[i], where)], nodes, vector, support)
        links = _links(memory, tenant, pool.ids, now_s)
        graph = candidate_graph(question, vector, pool, words.lexicon, links)
        found = [_found(nodes[node_id], pool, i, led, rules) for i, node_id in enumerate(pool.ids)]
        answers = _answers(nodes, vector, support, rules, where)
    gain = np.array([max(0.0, f.score - max(f.cosine, float(pool.past[i]))) for i, f in enumerate(found)], np.float32)
    trusted = Trust().in_ranker(likeness) if ranker is not None else 0.0
    by_edges = np.float32(HYBRID_SCALE * (1.0 - trusted)) * gain  # a ranker sees the edges itself
    scores = rank(graph, pool.past, likeness, ranker) + by_edges
    order = sorted(range(len(found)), key=lambda i: (-scores[i], pool.ids[i]))
    counts = [_counts(f, float(pool.past[i]), led, rules) for i, f in enumerate(found)]
    if any(counts) and trusted > 0.5:
        counts = [True] * len(found)  # the ranker knows better than a cosine what belongs to what
    served = [found[i] for i in order if counts[i]]
    return Finding((*answers, *served)[: rules.passages], pool, graph, likeness, led)


def past_support(memory: Memory, tenant: str, vector: Float32s, now_s: float) -> tuple[float, dict[str, float]]:
    """The cosine of the nearest past question, and what those like it were answered by: node id -> 0..1.

    `past_questions` has the formula.
    """
    support: dict[str, float] = {}
    nearest = memory.search(tenant, vector, NEAREST, kinds=("question",))
    for hit in nearest:
        near = alike(hit.similarity)
        if not near:
            break  # they come nearest first
        for edge in memory.edges_of(tenant, hit.node.node_id):
            if edge.relation == "answered_by" and memory.leads(edge, now_s):
                target = edge.other(hit.node.node_id)
                support[target] = max(support.get(target, 0.0), near * memory.weight_of(edge, now_s))
    return (nearest[0].similarity if nearest else 0.0), support


def _hits(
    memory: Memory, tenant: str, vector: Float32s, rules: RetrievalRules, where: Mapping[str, str] | None
) -> list[Hit]:
    width = max(rules.candidates, rules.recall.nearest)
    return memory.search(tenant, vector, width, where=where, kinds=PASSAGES)


def _led_to(
    memory: Memory, tenant: str, seeds: Sequence[Hit], rules: RetrievalRules, now_s: float
) -> dict[str, tuple[float, tuple[str, ...]]]:
    """What the edges of the best hits lead to: node id -> seed's cosine times weights, damped; and the edges."""
    led: dict[str, tuple[float, tuple[str, ...]]] = {}
    if not rules.hops:
        return led
    for seed in (s for s in seeds if s.similarity >= rules.floor):
        for reached in memory.expand(tenant, [seed.node.node_id], hops=rules.hops, now=now_s, relations=WALKED):
            by_edge = seed.similarity * reached.weight * rules.graph_damping
            known = led.get(reached.node.node_id)
            if reached.node.kind in PASSAGES and (known is None or by_edge > known[0]):
                led[reached.node.node_id] = by_edge, reached.via
    return led


def _with(
    pool: Pool,
    led: Collection[str],
    nodes: Mapping[str, Node],
    vector: Float32s,
    support: Mapping[str, float],
) -> Pool:
    """The pool with all that edges led to."""
    more = [node_id for node_id in led if node_id not in pool.ids]
    if not more:
        return pool
    vectors = [*pool.vectors, *(nodes[node_id].vector for node_id in more)]
    zeros = np.zeros(len(more), np.float32)
    whole = Pool(
        ids=(*pool.ids, *more),
        vectors=np.stack(vectors),
        cosines=np.concatenate([pool.cosines, [v @ vector for v in vectors[len(pool.ids) :]]]).astype(np.float32),
        keywords=np.concatenate([pool.keywords, zeros]),
        walk=np.concatenate([pool.walk, zeros]),
        past=np.concatenate([pool.past, [support.get(node_id, 0.0) for node_id in more]]).astype(np.float32),
    )
    order = sorted(range(len(whole.ids)), key=lambda i: (-whole.hybrid[i], whole.ids[i]))
    return Pool(
        ids=tuple(whole.ids[i] for i in order),
        vectors=whole.vectors[order],
        cosines=whole.cosines[order],
        keywords=whole.keywords[order],
        walk=whole.walk[order],
        past=whole.past[order],
    )


def _matches(node: Node | None, where: Mapping[str, str] | None) -> bool:
    return node is not None and (not where or where.items() <= node.metadata.items())


def _links(memory: Memory, tenant: str, ids: Collection[str], now_s: float) -> dict[tuple[str, str], list[Link]]:
    links: dict[tuple[str, str], list[Link]] = {}
    for edge in memory.edges_among(tenant, ids):
        weight = memory.weight_of(edge, now_s)
        if weight >= LEAST_WEIGHT and not memory.pruned(edge):
            age_s = max(0.0, now_s - edge.learnt_at) if edge.outcomes else 0.0
            link = Link(edge.relation, weight, age_s, max(0, edge.outcomes))
            links.setdefault((edge.source, edge.target), []).append(link)
    return links


def _found(
    node: Node,
    pool: Pool,
    place: int,
    led: Mapping[str, tuple[float, tuple[str, ...]]],
    rules: RetrievalRules,
) -> Found:
    cosine = float(pool.cosines[place])
    by_edge, via = led.get(node.node_id, (0.0, ()))
    score = max(rules.score(cosine, by_edge) if by_edge else cosine, float(pool.past[place]))
    by_itself = cosine >= rules.floor and cosine >= by_edge
    return Found(node, cosine, score, () if by_itself else via)


def _counts(found: Found, past: float, led: Mapping[str, tuple[float, tuple[str, ...]]], rules: RetrievalRules) -> bool:
    """Whether a candidate is memory of the question at all."""
    by_edge = led.get(found.node.node_id, (0.0, ()))[0]
    return found.score >= rules.floor or by_edge >= rules.floor * rules.edge_floor or past >= rules.past_floor


def _answers(
    nodes: Mapping[str, Node],
    vector: Float32s,
    support: Mapping[str, float],
    rules: RetrievalRules,
    where: Mapping[str, str] | None,
) -> tuple[Found, ...]:
    """Remembered answers to questions like this one, the best supported first."""
    known = ((nodes.get(node_id), value) for node_id, value in support.items() if value >= rules.past_floor)
    answers = [
        Found(node, float(node.vector @ vector), value)
        for node, value in known
        if node is not None and node.kind == "answer" and _matches(node, where)
    ]
    return tuple(sorted(answers, key=lambda found: (-found.score, found.node.node_id))[: rules.answers])
