"""The form of a question: what can be counted in its characters and words, in bounded time.

Raw counts and shares by feature name; `features.py` says what each means and scales it. The word
lists are English: of other languages lengths, marks and numbers are counted, words are not known.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import filterfalse
from typing import Final

READ_CHARACTERS: Final = 4096
"""Words and marks are counted in the first so many characters: a bound on the time of a decision."""

_WORD = re.compile(r"[^\W_]++(?:'[^\W_]++)*+")
# Each pattern, or each branch, starts with what few characters are: the engine skips the others.
_SENTENCE_END = re.compile(r"[.!?。！？](?:(?<=[。！？])|(?!\S))")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_CODE = re.compile(r"`|\{|\}|;|==|=>|\(\)|def \w+\(|class \w+[(:{]")
_LIST_ITEM = re.compile(r"[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t]")
_QUOTES = frozenset('"“”„«»')

_ASKS = {word: word for word in ("who", "what", "when", "where", "why", "how", "which")}
_ASKS |= {"whom": "who", "whose": "who"}
_WANTS = {
    "list": ("list", "name", "enumerate", "give"),
    "explanation": ("explain", "describe", "clarify", "elaborate"),
    "comparison": ("compare", "contrast", "rank"),
    "text": ("write", "draft", "compose", "create", "generate", "implement"),
    "summary": ("summarise", "summarize", "outline", "condense"),
}
_WANTED_BY = {verb: kind for kind, verbs in _WANTS.items() for verb in verbs}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# As `plain` below has them: "can't" is "ca", "won't" is "wo".
_AUXILIARIES = _words(
    "am is are was were do does did can ca could shall should will wo would may might must has have had"
)
_POLITE = _words("please kindly can could will would you")
_NEGATIONS = _words("not no never none nothing nobody neither nor without cannot")
_SQL = _words("SELECT INSERT UPDATE DELETE JOIN WHERE")
_COMPARISONS = _words(
    "more less than better worse best worst most least larger smaller bigger higher lower faster slower "
    "older newer versus vs between difference differences differ similar same both"
)


class _Table(dict[int, str]):
    """Code point -> what stands for it, for `str.translate`: a pass over a text without a step of Python.

    What was looked up is kept, for the basic plane only: a bound on the memory.
    """

    def __init__(self, stands_for: Callable[[str], str]) -> None:
        self._stands_for = stands_for

    def __missing__(self, code: int) -> str:
        found = self._stands_for(chr(code))
        if code <= 0xFFFF:
            self[code] = found
        return found


def _class_of(character: str) -> str:
    """d digit, u upper case letter, q quotation mark, m another mark, U mark in upper case (Ⓐ), else a space."""
    mark = not (character.isalnum() or character.isspace() or character == "_")
    if character.isdigit():
        return "d"
    if character.isupper():
        return "U" if mark else "u"
    if mark:
        return "q" if character in _QUOTES else "m"
    return " "


_CLASSES = _Table(_class_of)
_SPACED = _Table(lambda character: character if character.isalnum() else " ")


def surface(question: str) -> dict[str, float]:
    """The form of a text: raw counts and shares, before logarithms and clipping, in the table's order."""
    text = question[:READ_CHARACTERS].replace("’", "'")
    length = len(text) or 1
    lines = text.split("\n")
    count = text.translate(_CLASSES).count
    digits, marks_upper, quotes = count("d"), count("U"), count("q")
    upper_case = count("u") + marks_upper
    apostrophe = "'" in text
    words = _WORD.findall(text) if apostrophe else text.translate(_SPACED).split()
    lower = list(map(str.lower, words))
    plain = [word.removesuffix("n't").split("'")[0] for word in lower] if apostrophe else lower
    asked = next(filter(None, map(_ASKS.get, plain)), None)
    wanted = _WANTED_BY.get(next(filterfalse(_POLITE.__contains__, plain), ""))
    return {
        "characters": len(question),
        "words": len(words),
        "sentences": len(_SENTENCE_END.findall(text)) or bool(words),
        "word_length": len("".join(words)) / (len(words) or 1),
        "digits": digits / length,
        "upper_case": upper_case / length,
        "punctuation": (count("m") + marks_upper + quotes) / length,
        "non_ascii": 1 - len(text.encode("ascii", "ignore")) / length if text else 0.0,
        "code_marks": len(_CODE.findall(text)) + (sum(map(_SQL.__contains__, words)) if upper_case > 3 else 0),
        "numbers": len(_NUMBER.findall(text)) if digits else 0,
        "asks_who": asked == "who",
        "asks_what": asked == "what",
        "asks_when": asked == "when",
        "asks_where": asked == "where",
        "asks_why": asked == "why",
        "asks_how": asked == "how",
        "asks_which": asked == "which",
        "asks_yes_no": wanted is None and bool(plain) and plain[0] in _AUXILIARIES,
        "wants_list": wanted == "list",
        "wants_explanation": wanted == "explanation",
        "wants_comparison": wanted == "comparison",
        "wants_text": wanted == "text",
        "wants_summary": wanted == "summary",
        "negations": sum(map(_NEGATIONS.__contains__, lower)) + text.count("n't"),
        "comparisons": sum(map(_COMPARISONS.__contains__, plain)),
        "conjunctions": plain.count("and"),
        "quotations": quotes,
        "line_breaks": len(lines) - 1,
        "list_lines": len(list(filter(None, map(_LIST_ITEM.match, lines)))) / len(lines),
        "names": sum(map(str.isupper, [word[0] for word in words[1:] if len(word) > 1])),
    }
