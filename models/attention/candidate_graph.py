"""What the ranker sees of one question: its candidate passages, and how they hang together.

Each candidate has features of its own and, for each of the strongest candidates (the seeds) and for
itself, features of the pair. A second-hop passage shows by its pairs: it says what of the question
the seed leaves open, and the seed names it.

Invariant: the arrays are a function of the question, the candidates and the links handed in; their
order is the candidates'. They are float32 and travel with the interaction, so that training sees what
serving saw.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ruvllm.models.memory.lexicon import Lexicon, Wording, terms_of

Float32s = NDArray[np.float32]

RELATIONS = ("same_topic", "cites", "follows", "derived", "contains", "co_retrieved", "answered_by", "agent_step")
SEEDS = 8
HYBRID_KEYWORDS = 0.5
"""What a candidate's share of the best keyword score weighs beside its cosine."""

NODE_FEATURES = (
    "cosine",
    "keywords: share of the best BM25 score",
    "hybrid: cosine + 0.5 x keywords",
    "walk: log of the share of the best, scaled",
    "hybrid rank: 1 / (1 + rank)",
    "walk rank: 1 / (1 + rank)",
    "coverage: share of the question's terms, by rarity",
    "title in question",
    "share of the title's terms in the question",
    "cosine less the best",
    "hybrid less the best",
    "walk: share of the best",
    "length: log characters / 7",
    "question length: terms / 20",
    "past: support by similar past questions",
)
HYBRID = 2
"""Where the hybrid score is among the node features: what is ranked by until something is learnt."""
PAST = 14
"""Where the support by past questions is."""

PAIR_FEATURES = (
    *RELATIONS,
    "cited by",
    "recency: 2^(-age / 30 days) of the newest learnt edge",
    "confidence: 1 - 1 / (1 + outcomes)",
    "similarity: cosine of the two",
    "completes: terms of the question in this one and not in the other, by rarity",
    "completed: the other way round",
    "residual: cosine with what the other leaves of the question",
    "residual, the other way round",
    "sum: cosine with question + other",
    "itself",
)
_AT = {name.split(":")[0]: index for index, name in enumerate(PAIR_FEATURES)}
NAMES_IN_FULL = 4.0
"""Shared names of this weight or more are full weight of `same_topic`."""


@dataclass(frozen=True, slots=True)
class Link:
    """A learnt or structural edge between two candidates. `age_s`: since its last outcome, or its birth."""

    relation: str
    weight: float
    age_s: float = 0.0
    outcomes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The candidates of one question, best hybrid first: what recall found.

    `vectors` (m, d) float32; `cosines`, `keywords` (share of the best), `walk`, `past`: (m,) float32.
    """

    ids: tuple[str, ...]
    vectors: Float32s
    cosines: Float32s
    keywords: Float32s
    walk: Float32s
    past: Float32s

    @property
    def hybrid(self) -> Float32s:
        return self.cosines + np.float32(HYBRID_KEYWORDS) * self.keywords


@dataclass(frozen=True, slots=True, eq=False)
class CandidateGraph:
    """`nodes` (m, 15) float32; `neighbours` (m, s) int16, -1 for none, itself first; `pairs` (m, s, 18) float32."""

    nodes: Float32s
    neighbours: NDArray[np.int16]
    pairs: Float32s

    def __len__(self) -> int:
        return len(self.nodes)


def candidate_graph(
    question: str,
    vector: Float32s,
    pool: Pool,
    lexicon: Lexicon,
    links: Mapping[tuple[str, str], Sequence[Link]],
    *,
    seeds: int = SEEDS,
) -> CandidateGraph:
    """The graph of one question. `vector` (d,) is the question's; `links`: (id, id) -> edges, either order."""
    count = len(pool.ids)
    if not count:
        return CandidateGraph(
            np.zeros((0, len(NODE_FEATURES)), np.float32),
            np.zeros((0, 1), np.int16),
            np.zeros((0, 1, len(PAIR_FEATURES)), np.float32),
        )
    terms = sorted(set(terms_of(question)))
    rarity = lexicon.rarities(terms)
    said = [lexicon[node_id] for node_id in pool.ids]
    holds = np.array([[term in s.terms for term in terms] for s in said], np.float64).reshape(count, len(terms))
    share = rarity / max(rarity.sum(), 1e-9)
    nodes = _node_features(question, terms, holds @ share, pool, lexicon)
    order = np.argsort(-pool.hybrid, kind="stable")[:seeds]
    strongest = [int(i) for i in order]
    width = 1 + len(strongest)
    neighbours = np.full((count, width), -1, np.int16)
    pairs = np.zeros((count, width, len(PAIR_FEATURES)), np.float32)
    neighbours[:, 0] = np.arange(count)
    pairs[:, 0, _AT["itself"]] = 1.0
    neighbours[:, 1:] = np.array(strongest, np.int16)[None, :]
    _similarities(pairs[:, 1:], vector, pool, strongest)
    missing = (1.0 - holds) * share  # (m, terms): what each leaves open
    pairs[:, 1:, _AT["completes"]] = holds @ missing[strongest].T
    pairs[:, 1:, _AT["completed"]] = missing @ holds[strongest].T
    pairs[:, 1:, _AT["same_topic"]] = _names_in_common(said, strongest, lexicon)
    pairs[:, 1:, _AT["cites"]], pairs[:, 1:, _AT["cited by"]] = _citations(said, strongest)
    for column, seed in enumerate(strongest, start=1):
        for row in range(count) if links else ():
            for link in links.get((pool.ids[row], pool.ids[seed])) or links.get((pool.ids[seed], pool.ids[row])) or ():
                _put_link(pairs[row, column], link)
        neighbours[seed, column] = -1
        pairs[seed, column] = 0.0
    return CandidateGraph(nodes, neighbours, pairs)


def _node_features(
    question: str, terms: Sequence[str], coverage: NDArray[np.float64], pool: Pool, lexicon: Lexicon
) -> Float32s:
    count = len(pool.ids)
    hybrid = pool.hybrid
    walk = pool.walk / max(float(pool.walk.max()), 1e-9)
    titles = lexicon.titles_in(question)
    asked = set(terms)
    said = [lexicon[node_id] for node_id in pool.ids]
    columns = (
        pool.cosines,
        pool.keywords,
        hybrid,
        np.log1p(20.0 * walk) / 3.0,
        1.0 / (1.0 + _rank(hybrid)),
        1.0 / (1.0 + _rank(pool.walk)),
        coverage,
        [float(s.title in titles) for s in said],
        [len(s.title_terms & asked) / max(1, len(s.title_terms)) for s in said],
        pool.cosines - pool.cosines.max(),
        hybrid - hybrid.max(),
        walk,
        np.log1p([s.length for s in said]) / 7.0,
        np.full(count, len(terms) / 20.0),
        pool.past,
    )
    return np.stack([np.asarray(column, np.float32) for column in columns], axis=1)


def _similarities(pairs: Float32s, vector: Float32s, pool: Pool, strongest: Sequence[int]) -> None:
    """Cosines of (m, s) pairs: with the other, with what it leaves of the question, with question + other."""
    all_of, seeds = pool.vectors, pool.vectors[strongest]
    residual = _unit(vector[None, :] - pool.cosines[:, None] * all_of)
    pairs[..., _AT["similarity"]] = all_of @ seeds.T
    pairs[..., _AT["residual"]] = all_of @ residual[strongest].T
    pairs[..., _AT["residual, the other way round"]] = residual @ seeds.T
    pairs[..., _AT["sum"]] = all_of @ _unit(vector[None, :] + seeds).T


def _names_in_common(said: Sequence[Wording], strongest: Sequence[int], lexicon: Lexicon) -> NDArray[np.float64]:
    """(m, s): the weight of the names that two share, as a share of what is full weight."""
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row, passage in enumerate(said):
        for name in passage.names:
            rows_of[name].append(row)
    weight_of = {name: lexicon.shared_weight(name) for name, rows in rows_of.items() if len(rows) > 1}
    sums = [[0.0] * len(strongest) for _ in said]
    for column, seed in enumerate(strongest):
        for name in said[seed].names:
            if weight := weight_of.get(name):
                for row in rows_of[name]:
                    sums[row][column] += weight
    return np.minimum(np.array(sums, np.float64), NAMES_IN_FULL) / np.float64(NAMES_IN_FULL)


def _citations(said: Sequence[Wording], strongest: Sequence[int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two (m, s): the seed names the candidate's title, and the other way round; not among those of one title."""
    keys = [f" {passage.title} " if len(passage.title) > 2 else "\n" for passage in said]  # no text has a line end
    texts = [passage.words for passage in said]
    both = list(zip(keys, texts, strict=True))
    cites = [[key in texts[seed] and key != keys[seed] for seed in strongest] for key in keys]
    cited = [[keys[seed] in text and key != keys[seed] for seed in strongest] for key, text in both]
    return np.array(cites), np.array(cited)


def _put_link(cell: Float32s, link: Link) -> None:
    at = _AT[link.relation]
    cell[at] = max(cell[at], link.weight)
    if link.outcomes:
        cell[_AT["recency"]] = max(cell[_AT["recency"]], 2.0 ** (-link.age_s / (30 * 86_400.0)))
        cell[_AT["confidence"]] = max(cell[_AT["confidence"]], 1.0 - 1.0 / (1 + link.outcomes))


def _rank(values: Float32s) -> NDArray[np.intp]:
    """0 for the greatest; equal values in their order."""
    rank = np.empty(len(values), np.intp)
    rank[np.argsort(-values, kind="stable")] = np.arange(len(values))
    return rank


def _unit(rows: Float32s) -> Float32s:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Float32s = rows / np.maximum(lengths, 1e-9)
    return unit
