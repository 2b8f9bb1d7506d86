"""What passages say, word by word: their terms, the names in them, and who shares a name.

A name is a run of capitalised words, a year, or another passage's title; names link passages that no
vector puts side by side. A name that few passages share says much, one that many share says nothing.

Invariant: the lexicon is a function of the passages in it, in whatever order they came.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORD = re.compile(r"\w+")
NAME = re.compile(r"(?:[A-Z][\w'’-]*|\d{4})(?:\s+(?:(?:of|of the|the|de|von)\s+)?(?:[A-Z][\w'’-]*|\d+))*")
_STOP = """
a an the of in on at to for by with from and or is are was were be been being do does did has have had what which who
whom whose when where why how that this these those it its as into than then there their his her he she they them you
your i we our not no s t can could would should will may might many much name also
"""
STOP_WORDS = frozenset(_STOP.split())
LONGEST_TITLE_WORDS = 8
RARE_AT_MOST = 30
"""A name in more passages than this links nothing."""


@dataclass(frozen=True, slots=True)
class Wording:
    """One text, taken apart. `terms`: stemmed words without stop words; `title`: its words as one key.

    `names` are in order, so that sums over them are the same in every process.
    """

    terms: frozenset[str]
    names: tuple[str, ...]
    title: str
    title_terms: frozenset[str]
    words: str
    length: int


def wording(title: str, text: str) -> Wording:
    """Take a passage apart. A bracket at a title's end, as in "Ripon (ship)", tells apart; it is no name."""
    name = words_of(re.sub(r"\s*\([^)]*\)\s*$", "", title.replace("_", " ")))
    whole = f"{title.replace('_', ' ')} {text}"
    names = sorted({*names_of(text), *([name] if len(name) > 2 else [])})
    return Wording(  # words are interned: passages share them
        terms=frozenset(map(sys.intern, terms_of(whole))),
        names=tuple(map(sys.intern, names)),
        title=name,
        title_terms=frozenset(terms_of(name)),
        words=f" {words_of(whole)} ",
        length=len(whole),
    )


def words_of(text: str) -> str:
    """Lower-case words with one space between: what two spellings of a name have in common."""
    return " ".join(WORD.findall(text.lower()))


def terms_of(text: str) -> Iterator[str]:
    """Stemmed words without stop words (plural endings are cut, nothing else)."""
    for word in WORD.findall(text.lower()):
        if word not in STOP_WORDS:
            yield _stem(word)


def names_of(text: str) -> Iterator[str]:
    """The capitalised names and years of a text, as keys."""
    for match in NAME.finditer(text):
        name = words_of(match.group())
        first, _, rest = name.partition(" ")
        if first in STOP_WORDS:
            name = rest
        if len(name) > 2 and name not in STOP_WORDS:
            yield name


def _stem(word: str) -> str:
    for ending in ("ies", "es", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 3:
            return word[: -len(ending)]
    return word


class Lexicon:
    """The wording of a set of passages, by node id."""

    def __init__(self) -> None:
        self._wordings: dict[str, Wording] = {}
        self._frequency: Counter[str] = Counter()  # term -> passages that hold it
        self._holders: defaultdict[str, set[str]] = defaultdict(set)  # name -> node ids
        self._titled: defaultdict[str, set[str]] = defaultdict(set)  # title -> node ids
        self._openings: defaultdict[str, Counter[int]] = defaultdict(Counter)  # first word -> titles by words

    def __len__(self) -> int:
        return len(self._wordings)

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._wordings

    def __getitem__(self, node_id: str) -> Wording:
        return self._wordings[node_id]

    def add(self, node_id: str, title: str, text: str) -> None:
        """Add or replace a passage."""
        self.remove(node_id)
        said = self._wordings[node_id] = wording(title, text)
        self._frequency.update(said.terms)
        for name in said.names:
            self._holders[name].add(node_id)
        if said.title:
            if said.title not in self._titled:
                first, *others = said.title.split()
                self._openings[first][1 + len(others)] += 1
            self._titled[said.title].add(node_id)

    def remove(self, node_id: str) -> None:
        """Forget a passage, if it is known."""
        said = self._wordings.pop(node_id, None)
        if said is None:
            return
        self._frequency.subtract(said.terms)
        for term in said.terms:
            if not self._frequency[term]:
                del self._frequency[term]
        for index, keys in ((self._holders, said.names), (self._titled, (said.title,))):
            for key in keys:
                index[key].discard(node_id)
                if not index[key]:
                    del index[key]
        if said.title and said.title not in self._titled:
            first, *others = said.title.split()
            sizes = self._openings[first]
            sizes[1 + len(others)] -= 1
            if not +sizes:
                del self._openings[first]

    def rarity(self, term: str) -> float:
        """Inverse document frequency as BM25 has it: ln(1 + (N - n + 0.5) / (n + 0.5))."""
        found = self._frequency.get(term, 0)
        return math.log1p((len(self._wordings) - found + 0.5) / (found + 0.5))

    def titles_in(self, text: str) -> set[str]:
        """The titles of known passages that a text names, the longest first at each word."""
        words = WORD.findall(text.lower())
        found: set[str] = set()
        free = 0  # the first word that is in no title found so far
        for at, word in enumerate(words):
            if at < free or word not in self._openings:
                continue
            for size in sorted(self._openings[word], reverse=True):
                key = " ".join(words[at : at + size]) if size <= LONGEST_TITLE_WORDS else ""
                if key in self._titled and len(key) > 2 and key not in STOP_WORDS:
                    found.add(key)
                    free = at + size
                    break
        return found

    def titled(self, title: str) -> frozenset[str]:
        """The passages of a title."""
        return frozenset(self._titled.get(title, ()))

    def shared_weight(self, name: str) -> float:
        """What a name in common is worth: 1 / log2(1 + passages that hold it), 0 if none or too many do."""
        holders = len(self._holders.get(name, ()))
        return 1.0 / math.log2(1 + holders) if 2 <= holders <= RARE_AT_MOST else 0.0

    def walk(self, start: Mapping[str, float], names: Iterable[str], *, damping: float = 0.5) -> dict[str, float]:
        """One step of a random walk with restart over passages and names (after personalised PageRank).

        `start`: node id -> mass; it is kept, and half of it (`damping`) goes on through the passage's
        names to who shares them. `names` of the question get as much mass as all passages together.
        """
        reached: defaultdict[str, float] = defaultdict(float, start)
        by_name: defaultdict[str, float] = defaultdict(float)
        for node_id, mass in start.items():
            weights = {name: w for name in self._wordings[node_id].names if (w := self.shared_weight(name))}
            total = sum(weights.values())
            for name, weight in weights.items():
                by_name[name] += mass * weight / total
        asked = [name for name in names if self.shared_weight(name)]
        for name in asked:
            by_name[name] += sum(start.values()) / len(asked)
        for name, mass in by_name.items():
            holders = self._holders[name]
            share = damping * mass / len(holders)
            for node_id in holders:
                reached[node_id] += share
        return dict(reached)

    def rarities(self, terms: Iterable[str]) -> NDArray[np.float64]:
        """`rarity` of each term: (n,) float64."""
        return np.fromiter((self.rarity(term) for term in terms), np.float64)
