"""Which passages are candidates for a question: near in meaning, near in words, or linked to those.

Four ways lead in: vectors and keywords (together the hybrid), one step of a walk over shared names
from the best of those, and the passages whose titles the best of those name. What is found has its
features from all four, so that the ranker can weigh them.

Invariant: the pool is a function of the question and of what memory holds; ties go by node id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ruvllm.models.attention.candidate_graph import HYBRID_KEYWORDS, Pool
from ruvllm.models.memory.keywords import KeywordIndex
from ruvllm.models.memory.lexicon import Lexicon, names_of

Float32s = NDArray[np.float32]


@dataclass(frozen=True)
class RecallRules:
    """How many candidates from where. `nearest` and `worded` are what each index is asked for."""

    nearest: int = 40
    worded: int = 40
    hybrid: int = 20
    walked: int = 20
    walk_from: int = 10
    linked_from: int = 5
    same_title_at_most: int = 3
    most: int = 40


def recall(
    question: str,
    near: Sequence[tuple[str, float]],
    keywords: KeywordIndex,
    lexicon: Lexicon,
    vector: Float32s,
    vector_of: Callable[[str], Float32s],
    past: Mapping[str, float],
    rules: RecallRules,
    allowed: Callable[[str], bool] | None = None,
) -> Pool:
    """The candidates of a question, best hybrid first.

    `near`: node ids with their cosines, as the vector index gives them; `past`: node id -> support by
    similar past questions, 0 to 1. Only passages that the lexicon knows and that are `allowed` (None: all)
    take part.
    """
    if allowed is not None:
        past = {node_id: support for node_id, support in past.items() if allowed(node_id)}
        near = [(node_id, c) for node_id, c in near if allowed(node_id)]
    worded = keywords.search(question, rules.worded)
    best = worded[0][1] if worded else 1.0
    share = {node_id: score / best for node_id, score in worded if allowed is None or allowed(node_id)}
    cosine = {node_id: c for node_id, c in near if node_id in lexicon}
    for node_id in (*share, *past):
        if node_id not in cosine and node_id in lexicon:
            cosine[node_id] = float(vector_of(node_id) @ vector)

    def hybrid(node_id: str) -> float:
        if node_id not in cosine:
            cosine[node_id] = float(vector_of(node_id) @ vector)
        return cosine[node_id] + HYBRID_KEYWORDS * share.get(node_id, 0.0)

    def best_first(node_ids: Iterable[str]) -> list[str]:
        return [node_id for _, node_id in sorted([(-hybrid(node_id), node_id) for node_id in node_ids])]

    order = best_first(cosine)
    walked = _walk(question, order, hybrid, lexicon, rules)
    if allowed is not None:
        walked = {node_id: mass for node_id, mass in walked.items() if allowed(node_id)}
    chosen = dict.fromkeys(order[: rules.hybrid])
    chosen |= dict.fromkeys(node_id for node_id in order if past.get(node_id, 0.0) > 0)
    heaviest = sorted([(-mass, node_id) for node_id, mass in walked.items()])[: rules.walked]
    chosen |= dict.fromkeys(node_id for _, node_id in heaviest)
    linked = _linked(order[: rules.linked_from], lexicon, rules) - chosen.keys()
    if allowed is not None:
        linked = set(filter(allowed, linked))
    ids = best_first([*list(chosen), *best_first(linked)][: rules.most])

    def column(values: Callable[[str], float]) -> Float32s:
        return np.fromiter(map(values, ids), np.float32, len(ids))

    return Pool(
        ids=tuple(ids),
        vectors=np.stack([vector_of(i) for i in ids]) if ids else np.zeros((0, len(vector)), np.float32),
        cosines=column(lambda i: cosine[i]),
        keywords=column(lambda i: share.get(i, 0.0)),
        walk=column(lambda i: walked.get(i, 0.0)),
        past=column(lambda i: past.get(i, 0.0)),
    )


def _walk(
    question: str, order: Sequence[str], hybrid: Callable[[str], float], lexicon: Lexicon, rules: RecallRules
) -> dict[str, float]:
    """Mass by passage: from the best, by how far each stands above the first that does not take part."""
    start = order[: rules.walk_from]
    if not start:
        return {}
    floor = hybrid(order[rules.walk_from]) if len(order) > rules.walk_from else hybrid(start[-1])
    above = {node_id: max(hybrid(node_id) - floor, 1e-6) for node_id in start}
    total = sum(above.values())
    names = sorted({*names_of(question), *lexicon.titles_in(question)})
    return lexicon.walk({node_id: mass / total for node_id, mass in above.items()}, names)


def _linked(seeds: Sequence[str], lexicon: Lexicon, rules: RecallRules) -> set[str]:
    """The passages whose titles the seeds name, where a title is not one of many passages."""
    found: set[str] = set()
    for node_id in seeds:
        for title in lexicon.titles_in(lexicon[node_id].words):
            passages = lexicon.titled(title)
            if len(passages) <= rules.same_title_at_most:
                found |= passages
    return found - set(seeds)
