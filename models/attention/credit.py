"""Who deserves the credit for an answer: what each kind of feedback says about the candidates.

A live system seldom knows which passage was right. It may know the accepted answer (then a candidate
that holds its words deserves credit, less the lower it was ranked: the same words may stand elsewhere by
chance), a verdict on what was served, or one number for the whole answer.

Each function gives targets (m,) float32, not negative; all zero where nothing is known.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from ruvllm.models.memory.lexicon import Lexicon, words_of

Float32s = NDArray[np.float32]
RANK_SCALE = 10.0
"""Credit by words falls by e over this many ranks."""
LEADS_SHARE = 0.5
"""Of a carrier's credit, for what names it or is named by it."""
SERVED_SCALE = 3.0
WORTH_LEARNING = 0.5
"""A whole answer under this quality gives its passages no credit."""
SAYS_NOTHING = frozenset({"", "yes", "no", "true", "false"})


def by_accepted_answer(ids: Sequence[str], answers: Collection[str], lexicon: Lexicon) -> Float32s:
    """Candidates, best first, that hold an accepted answer as whole words, and those that lead to one.

    The answer stands in the last passage of a chain. One that names the title of a carrier, or that a carrier
    names, may be the passage before it and has a share of its credit.
    """
    wanted = [f" {key} " for answer in answers if (key := words_of(answer)) not in SAYS_NOTHING]
    said = [lexicon[node_id] for node_id in ids]
    holds = np.array([any(key in passage.words for key in wanted) for passage in said], np.float32)
    by_rank = np.exp(-np.arange(len(ids)) / RANK_SCALE).astype(np.float32)
    credit: Float32s = holds * by_rank
    for carrier in np.flatnonzero(holds):
        title = f" {said[carrier].title} "
        for place, passage in enumerate(said):
            named = len(title) > 4 and title in passage.words
            if not holds[place] and (named or (len(passage.title) > 2 and f" {passage.title} " in said[carrier].words)):
                credit[place] = max(credit[place], LEADS_SHARE * credit[carrier] * by_rank[place])
    return credit


def by_verdicts(ids: Sequence[str], served: Collection[str], right: Collection[str]) -> Float32s:
    """Served candidates that were found to carry the answer."""
    return np.array([node_id in served and node_id in right for node_id in ids], np.float32)


def by_quality(ids: Sequence[str], served: Sequence[str], quality: float) -> Float32s:
    """One number for the answer: all that was served shares it, the first more than the last."""
    if quality < WORTH_LEARNING:
        return np.zeros(len(ids), np.float32)
    rank = {node_id: position for position, node_id in enumerate(served)}
    shares = [quality * np.exp(-rank[i] / SERVED_SCALE) if i in rank else 0.0 for i in ids]
    return np.array(shares, np.float32)
