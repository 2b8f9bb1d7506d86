"""What the user or a check says of an answer overrides what the judge thought.

The most telling word counts: a correction, then the accepted answer, a check, a score, a rating. Support
follows the verdict: passages are credited for what is right, never for a wrong answer that they happen to hold.
"""

from __future__ import annotations

import re
from typing import Final

from ruvllm.models.judge.item import Item, Judgement
from ruvllm.models.judge.wording import words

WORTH_CREDIT: Final = 0.5  # under this the answer is taken for wrong


def by_task(
    item: Item,
    *,
    rating: int | None,
    score: float | None,
    passed: bool | None,
    expected: str | None,
    correction: str | None,
    judged: Judgement,
) -> Judgement:
    """The judgement under what is known; `judged` itself if nothing is.

    rating 1..5 -> 0, .25, .5, .75, 1; score 0..1 as it is; passed -> 1 or 0; expected: 1 if it stands in the
    answer as whole words; correction: 0 unless it says the same. Raises ValueError for a rating or score
    outside its range.
    """
    if correction is not None and words(correction):
        same = words(correction) == words(item.answer) and _signed(correction) == _signed(item.answer)
        reason = "The user's correction says the same." if same else "The user corrected the answer."
        return _told(float(same), reason, _holding(item, correction, judged))
    if expected is not None and words(expected):
        right = holds(item.answer, expected)
        reason = "It holds the accepted answer." if right else "It does not hold the accepted answer."
        return _told(float(right), reason, _holding(item, expected, judged))
    if passed is not None:
        reason = "It passed the check." if passed else "It failed the check."
        return _told(float(passed), reason, _earned(item, float(passed), judged))
    if score is not None:
        if not 0.0 <= score <= 1.0:
            raise ValueError(f"score {score} is not within 0..1")
        return _told(float(score), f"It was scored {score:.2f}.", _earned(item, score, judged))
    if rating is not None:
        if not 1 <= rating <= 5:
            raise ValueError(f"rating {rating} is not within 1..5")
        quality = (rating - 1) / 4
        return _told(quality, f"The user rated it {rating} of 5.", _earned(item, quality, judged))
    return judged


def holds(text: str, wanted: str) -> bool:
    """Whether `wanted` stands in `text` as whole words; case, punctuation, articles and 1,000s' commas aside."""
    return bool(words(wanted)) and words(wanted) in words(text) and _signed(wanted) <= _signed(text)


def _signed(text: str) -> set[str]:
    """Numbers with a minus before them, which words do not show."""
    return set(re.findall(r"(?<![\w.])[-−]\d[\d.,]*", text))


def _told(quality: float, reason: str, support: dict[str, float]) -> Judgement:
    return Judgement(quality, quality, (reason,), support, "task")


def _earned(item: Item, quality: float, judged: Judgement) -> dict[str, float]:
    """The judged support of an answer that is good enough; none of a bad one."""
    if quality >= WORTH_CREDIT:
        return dict(judged.support)
    return {served.node_id: 0.0 for served in item.served}


def _holding(item: Item, wanted: str, judged: Judgement) -> dict[str, float]:
    """Which passages hold the wanted words: a half at least, the rest by what was judged."""
    support: dict[str, float] = {}
    for served in item.served:
        held = holds(served.text, wanted)
        found = 0.5 + 0.5 * judged.support.get(served.node_id, 0.0) if held else 0.0
        support[served.node_id] = max(support.get(served.node_id, 0.0), found)
    return support
