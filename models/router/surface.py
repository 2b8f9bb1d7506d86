"""The form of a question: what can be counted in its characters and words, in bounded time.

Raw counts and shares by feature name; `features.py` says what each means and scales it. The word
lists are English: of other languages lengths, marks and numbers are counted, words are not known.
"""

from __future__ import annotations

import re
from typing import Final

READ_CHARACTERS: Final = 4096
"""Words and marks are counted in the first so many characters: a bound on the time of a decision."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)|[。！？]")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_MARK = re.compile(r"[^\w\s]")
# Each branch starts with a literal, so that the engine skips what cannot start a match.
_CODE = re.compile(r"`|\{|\}|;|==|=>|\(\)|def \w+\(|class \w+[(:{]")
_QUOTE = re.compile(r'["“”„«»]')
_LIST_LINE = re.compile(r"^[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t]", re.MULTILINE)

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


def surface(question: str) -> dict[str, float]:
    """The form of a text: raw counts and shares by feature name, before logarithms and clipping."""
    text = question[:READ_CHARACTERS].replace("’", "'")
    length = max(len(text), 1)
    words = _WORD.findall(text)
    lower = [word.lower() for word in words]
    plain = [word.removesuffix("n't").split("'")[0] for word in lower]
    asked = next((_ASKS[word] for word in plain if word in _ASKS), None)
    wanted = _WANTED_BY.get(next((word for word in plain if word not in _POLITE), ""))
    lines = text.count("\n")
    values: dict[str, float] = {
        "characters": len(question),
        "words": len(words),
        "sentences": max(len(_SENTENCE_END.findall(text)), 1 if words else 0),
        "word_length": sum(map(len, words)) / max(len(words), 1),
        "digits": sum(map(str.isdigit, text)) / length,
        "upper_case": sum(map(str.isupper, text)) / length,
        "punctuation": len(_MARK.findall(text)) / length,
        "non_ascii": 1 - len(text.encode("ascii", "ignore")) / length if text else 0.0,
        "code_marks": len(_CODE.findall(text)) + sum(map(_SQL.__contains__, words)),
        "numbers": len(_NUMBER.findall(text)),
        "asks_yes_no": wanted is None and bool(plain) and plain[0] in _AUXILIARIES,
        "negations": sum(map(_NEGATIONS.__contains__, lower)) + text.count("n't"),
        "comparisons": sum(map(_COMPARISONS.__contains__, plain)),
        "conjunctions": plain.count("and"),
        "quotations": len(_QUOTE.findall(text)),
        "line_breaks": lines,
        "list_lines": len(_LIST_LINE.findall(text)) / (lines + 1),
        "names": sum(len(word) > 1 and word[0].isupper() for word in words[1:]),
    }
    for kind in _ASKS.values():
        values[f"asks_{kind}"] = kind == asked
    for kind in _WANTS:
        values[f"wants_{kind}"] = kind == wanted
    return values
