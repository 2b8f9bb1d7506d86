"""What a decision knows beside the question: what memory had on it, and how the last turn ended.

Names are those of the feature table's memory and session groups. Values are in natural units
(cosines, counts, seconds, characters); `features.py` scales them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Hit(NamedTuple):
    """What the router needs of one retrieved passage. `kind`: document, question, answer or concept."""

    similarity: float
    kind: str
    by_graph: bool
    age_s: float
    characters: int


class MemorySignals(NamedTuple):
    """What memory had on the question, in natural units; all 0: nothing."""

    hits: float = 0.0
    best_similarity: float = 0.0
    second_similarity: float = 0.0
    mean_similarity: float = 0.0
    similarity_spread: float = 0.0
    similarity_gap: float = 0.0
    hits_over_30: float = 0.0
    hits_over_50: float = 0.0
    hits_over_70: float = 0.0
    documents: float = 0.0
    questions: float = 0.0
    answers: float = 0.0
    concepts: float = 0.0
    by_graph: float = 0.0
    mean_age: float = 0.0
    context_characters: float = 0.0

    @classmethod
    def of(cls, hits: Iterable[Hit]) -> MemorySignals:
        """The signals of the retrieved passages, whatever their order."""
        found = tuple(hits)
        n = len(found)
        if n == 0:
            return cls()
        # fsum and the sort make the result independent of the order, to the last bit.
        similarities, kinds, by_graph, ages_s, characters = zip(*found, strict=True)
        cosines = sorted([s if math.isfinite(s) else 0.0 for s in similarities])
        mean = math.fsum(cosines) / n
        best, second = cosines[-1], cosines[-2] if n > 1 else 0.0
        return cls(
            hits=n,
            best_similarity=best,
            second_similarity=second,
            mean_similarity=mean,
            similarity_spread=math.sqrt(math.fsum([(c - mean) ** 2 for c in cosines]) / n),
            similarity_gap=best - second,
            hits_over_30=n - bisect_right(cosines, 0.3),
            hits_over_50=n - bisect_right(cosines, 0.5),
            hits_over_70=n - bisect_right(cosines, 0.7),
            documents=kinds.count("document") / n,
            questions=kinds.count("question") / n,
            answers=kinds.count("answer") / n,
            concepts=kinds.count("concept") / n,
            by_graph=sum(by_graph) / n,
            mean_age=math.fsum([age_s if age_s > 0 else 0.0 for age_s in ages_s]) / n,
            context_characters=sum(characters),
        )


class PreviousTurn(NamedTuple):
    """How the session's turn before ended. `finish_reason`: stop, length, deadline, abstained, error."""

    confidence: float
    tier: str
    finish_reason: str


def previous_turn(previous: PreviousTurn | None, tiers: Sequence[str]) -> dict[str, float]:
    """Feature name -> value; all 0 for a session's first turn. `tiers`: the profile's, small to large."""
    reason = previous.finish_reason if previous else None
    place = tiers.index(previous.tier) + 1 if previous and previous.tier in tiers else 0
    return {
        "previous_confidence": previous.confidence if previous else 0.0,
        "previous_tier": place / max(len(tiers), 1),
        "previous_stopped": reason == "stop",
        "previous_cut": reason == "length",
        "previous_abstained": reason == "abstained",
        "previous_failed": reason in ("error", "deadline"),
    }
