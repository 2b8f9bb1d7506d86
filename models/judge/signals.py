"""What the cheap judge looks at: a few numbers about question, answer and served passages.

Words carry what vectors miss (a wrong figure has nearly the same vector) and vectors what words miss (a
paraphrase). The answer's *new* words, those that the question does not hold, are what it claims; where they
stand, and whether that place is about the question, tells a right answer from a copied sentence.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ruvllm.models.judge.item import Item
from ruvllm.models.judge.wording import figures, is_figure, names, sentences, terms

Float32s = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Float32s]
"""n texts -> (n, d) float32, rows of length 1 (or 0 where nothing can be read)."""

SIGNALS: Final[dict[str, int]] = {
    "covered": +1,  # share of the new words in the best passage
    "covered_in_sentence": +1,  # and in its best sentence
    "missing_figures": -1,  # figures that stand in no passage
    "missing_names": -1,
    "missing_words": -1,
    "answer_cosine": +1,  # answer against its best sentence
    "joint_cosine": +1,  # question and answer together against the best sentence
    "gain": +1,  # what the answer adds to the question's own similarity
    "on_topic_words": +1,  # the answer's sentence against the one nearest to the question, by words
    "on_topic_cosine": +1,  # and by vectors
    "kind_fits": +1,  # a figure where "how many" is asked, a name where "who" is
    "echo": -1,  # nothing new
    "length": 0,
    "question_cosine": 0,
    "confidence": +1,
}
"""Signal -> the sign that its weight may have (0: either), so that a judge cannot learn nonsense."""

MOST_SENTENCES: Final = 64
_ASKS_FIGURE: Final = re.compile(
    r"\b(how (many|much|long|high|tall|heavy|far|large|strong|old|deep)|what (time|year|date|share|number|height)"
    r"|when|in (which|what) year|number of|what o'clock|to the minute)\b",
    re.IGNORECASE,
)
_ASKS_NAME: Final = re.compile(r"\b(who|whom|whose|(name the|which) (person|woman|man|family))\b", re.IGNORECASE)
_ASKS_COLOUR: Final = re.compile(r"\b(colou?r|shade|hue|tint)\b", re.IGNORECASE)
_COLOURS: Final = frozenset(
    terms(
        "red orange yellow green blue indigo violet purple pink brown black white grey gray crimson scarlet saffron"
        " turquoise teal ochre amber plum mint lilac ivory beige maroon mustard rust gold silver copper pearl pewter"
    )
)
NEUTRAL_CONFIDENCE: Final = 0.7
"""Where a generator's confidence is not known: about the mean of small local models."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One item, read. `values` (signals,) float64 in the order of SIGNALS; `support` by served position, 0..1."""

    values: NDArray[np.float64]
    support: tuple[float, ...]
    new_terms: tuple[str, ...]
    missing: tuple[str, ...]  # figures, then names, as written

    def value(self, signal: str) -> float:
        return float(self.values[list(SIGNALS).index(signal)])


@dataclass(frozen=True, slots=True)
class _Sentence:
    passage: int
    keys: frozenset[str]
    text: str


def read(item: Item, embed: Embed) -> Reading:
    """All signals of an item that has an answer."""
    pool = [
        _Sentence(at, frozenset(terms(text)), text)
        for at, served in enumerate(item.served)
        for text in sentences(served.text)
    ][:MOST_SENTENCES]
    asked = frozenset(terms(item.question))
    new = tuple(dict.fromkeys(key for key in terms(item.answer) if key not in asked))
    weights = {key: _weight(key, item.answer) for key in new}
    everywhere: frozenset[str] = frozenset().union(*(s.keys for s in pool)) if pool else frozenset()
    missing_figures = [w for key, w in figures(item.answer).items() if key not in everywhere and key not in asked]
    missing_names = [w for key, w in names(item.answer).items() if key not in everywhere and key not in asked]
    by_vector = _Vectors.of(item, [s.text for s in pool], embed)
    place = _Places(pool, asked, weights, by_vector.of_question)
    home = place.home
    signals = {
        "covered": max(place.covered_by_passage(at) for at in range(len(item.served))) if item.served else 0.0,
        "covered_in_sentence": place.covered[home] if pool else 0.0,
        "missing_figures": min(len(missing_figures), 2) / 2,
        "missing_names": min(len(missing_names), 2) / 2,
        "missing_words": min(sum(key not in everywhere for key in new), 5) / 5,
        "answer_cosine": _top(by_vector.of_answer),
        "joint_cosine": float(by_vector.of_both[home]) if pool else 0.0,
        "gain": _top(by_vector.of_both) - _top(by_vector.of_question),
        "on_topic_words": place.on_topic_words(home) if pool else 0.0,
        "on_topic_cosine": float(by_vector.of_question[home]) - _top(by_vector.of_question) if pool else -1.0,
        "kind_fits": _kind_fits(item, new),
        "echo": float(not new),
        "length": math.log1p(len(item.answer.split())),
        "question_cosine": by_vector.answer_to_question,
        "confidence": min(max(item.confidence, 0.0), 1.0),
    }
    support = tuple(place.support(at) if new else 0.0 for at in range(len(item.served)))
    return Reading(
        np.array([signals[name] for name in SIGNALS]), support, new, tuple(missing_figures) + tuple(missing_names)
    )


@dataclass(frozen=True, slots=True)
class _Vectors:
    """Cosines with each sentence, (sentences,) float32 each."""

    of_question: Float32s
    of_answer: Float32s
    of_both: Float32s
    answer_to_question: float

    @classmethod
    def of(cls, item: Item, texts: list[str], embed: Embed) -> _Vectors:
        rows = embed([item.question, item.answer, f"{item.question} {item.answer}", *texts])
        question, answer, both = rows[:3]
        return cls(rows[3:] @ question, rows[3:] @ answer, rows[3:] @ both, float(question @ answer))


class _Places:
    """Where in the passages the new words stand, and how near to the question those places are."""

    def __init__(
        self, pool: list[_Sentence], asked: frozenset[str], weights: dict[str, float], nearness: Float32s
    ) -> None:
        self._pool, self._weights, self._nearness = pool, weights, nearness
        self._total = sum(weights.values())
        spread = Counter(key for s in pool for key in s.keys)
        rarity = {key: math.log1p(len(pool) / spread[key]) for key in asked if spread[key]}
        total = sum(rarity.values())
        openings = {s.passage: s.keys for s in reversed(pool)}  # the first sentence names what all are about
        self._about = [
            sum(w * (1.0 if key in s.keys else 0.5 if key in openings[s.passage] else 0.0) for key, w in rarity.items())
            / total
            if total
            else 0.0
            for s in pool
        ]
        self.covered = [self._share(s.keys) for s in pool]
        order = range(len(pool))
        self.home = max(order, key=lambda i: (self.covered[i], self._about[i] + float(nearness[i])), default=0)

    def covered_by_passage(self, passage: int) -> float:
        held: frozenset[str] = frozenset().union(*(s.keys for s in self._pool if s.passage == passage))
        return self._share(held)

    def on_topic_words(self, sentence: int) -> float:
        return self._about[sentence] - max(self._about)

    def support(self, passage: int) -> float:
        """How much of what is new stands in the passage, less where that place is not about the question."""
        own = [i for i, s in enumerate(self._pool) if s.passage == passage and self.covered[i] > 0]
        if not own or not self._total:
            return 0.0
        best = max(own, key=lambda i: (self.covered[i], self._about[i]))
        top = max(self._about)
        about = self._about[best] / top if top else 1.0
        return self.covered_by_passage(passage) * (0.4 + 0.6 * about)

    def _share(self, keys: frozenset[str]) -> float:
        held = sum(weight for key, weight in self._weights.items() if key in keys)
        return held / self._total if self._total else 0.0


def _weight(key: str, answer: str) -> float:
    """Figures and names are what an answer mostly turns on."""
    return 2.0 if is_figure(key) or key in names(answer) else 1.0


def _kind_fits(item: Item, new: Sequence[str]) -> float:
    """+1: what is new holds the kind of thing that is asked for; -1: it does not; 0: any kind would do."""
    if _ASKS_COLOUR.search(item.question):
        fits = any(key in _COLOURS for key in new)
    elif _ASKS_NAME.search(item.question):
        capital = {key for word in re.findall(r"[A-Z]\w+", item.answer) for key in terms(word)}
        fits = any(key in capital for key in new)
    elif _ASKS_FIGURE.search(item.question):
        fits = any(is_figure(key) for key in new) or (
            "when" in item.question.casefold() and bool(names(item.answer).keys() & set(new))
        )
    else:
        return 0.0
    return 1.0 if fits else -1.0


def _top(cosines: Float32s) -> float:
    return float(cosines.max()) if len(cosines) else 0.0
