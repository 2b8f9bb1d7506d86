"""Texts as the judge reads them: terms, figures and names, in one spelling however they were written.

Invariant: two spellings of one figure ("2,163", "2163"; "fourteen", "14") or unit ("km", "kilometers")
are one term.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from ruvllm.models.memory.lexicon import STOP_WORDS

TOKEN: Final = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])[\"'”’]?\s+|\n+")
_THOUSANDS: Final = re.compile(r",(?=\d{3}(?!\d))")
_ONES: Final = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS: Final = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBER_WORDS: Final = {
    **{word: str(number) for number, word in enumerate(_ONES) if number > 1},  # "one" is mostly a pronoun
    **{word: str(10 * number) for number, word in enumerate(_TENS, start=2)},
    "second": "2",
    "third": "3",
}
_SPELLINGS: Final = {
    "km": "kilometre",
    "kilometer": "kilometre",
    "m": "metre",
    "meter": "metre",
    "kg": "kilogram",
    "kilo": "kilogram",
    "kw": "kilowatt",
    "liter": "litre",
    "color": "colour",
    "min": "minute",
}
# Words with which an answer speaks about itself or its sources, not about the matter.
_FILLER: Final = frozenset(
    [
        "answer",
        "answers",
        "passage",
        "passages",
        "state",
        "states",
        "stated",
        "mention",
        "mentions",
        "mentioned",
        "according",
        "text",
        "question",
        "because",
        "only",
        "so",
        "all",
        "yes",
    ]
)


def sentences(text: str) -> list[str]:
    """The sentences of a passage; lines end one as well."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def term(token: str) -> str:
    """One token -> its key."""
    word = unicodedata.normalize("NFKC", token).casefold().replace("’", "'").removesuffix("'s")
    if word[0].isdigit():
        return _THOUSANDS.sub("", word)
    word = _NUMBER_WORDS.get(word, word)
    for ending in ("ies", "es", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 3 and not word.endswith("ss"):
            word = word[: -len(ending)] + ("y" if ending == "ies" else "")
            break
    if len(word) > 4 and word.endswith("e"):
        word = word[:-1]  # "metre" and what is left of "metres" are one
    spelling = _SPELLINGS.get(word, _SPELLINGS.get(word + "e", word))
    return spelling.removesuffix("e") if len(spelling) > 4 else spelling


def terms(text: str) -> list[str]:
    """Keys of the words that say something, in order."""
    tokens = TOKEN.findall(text)
    return [term(t) for t in _joined(tokens) if t.casefold() not in STOP_WORDS and t.casefold() not in _FILLER]


def is_figure(key: str) -> bool:
    return key[0].isdigit()


def names(text: str) -> dict[str, str]:
    """Key -> the name as written. A capital that merely begins a sentence is no name, unless another follows."""
    found: dict[str, str] = {}
    for sentence in sentences(text):
        tokens = TOKEN.findall(sentence)
        for at, token in enumerate(tokens):
            follows = at + 1 < len(tokens) and tokens[at + 1][0].isupper()
            named = token[0].isupper() and len(token) > 1 and (at > 0 or follows)
            if named and token.casefold() not in STOP_WORDS and not is_figure(term(token)):
                found[term(token)] = token
    return found


def figures(text: str) -> dict[str, str]:
    """Key -> the figure as written."""
    return {key: token for token in _joined(TOKEN.findall(text)) if is_figure(key := term(token))}


def _joined(tokens: list[str]) -> list[str]:
    """ "forty", "four" -> "44"."""
    joined: list[str] = []
    for token in tokens:
        tens = _NUMBER_WORDS.get(joined[-1].casefold(), "") if joined else ""
        ones = _ONES.index(token.casefold()) if token.casefold() in _ONES[1:10] else 0
        if len(tens) == 2 and tens[1] == "0" and tens != "10" and ones:
            joined[-1] = str(int(tens) + ones)
        else:
            joined.append(token)
    return joined


def words(text: str) -> str:
    """All words with one space between and around, articles aside: for whole-word matches."""
    kept = [t.casefold() for t in TOKEN.findall(unicodedata.normalize("NFKC", text))]
    plain = [_THOUSANDS.sub("", t) for t in kept if t not in {"a", "an", "the"}]
    return f" {' '.join(plain)} " if plain else ""
