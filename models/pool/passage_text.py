"""Passages are data: what in them could pass for a template or for our own markers is made harmless.

Control tokens are already impossible (content is tokenised without them); this is for models that
have learnt the *look* of a template from text. Neutralising only inserts spaces: words stay whole.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final, TypeVar

# <|im_start|>, <s>, </s>, [INST], <<SYS>>, <start_of_turn>: the marks of the common chat templates
_TEMPLATE_MARK: Final = re.compile(
    r"<\|[^<>|\n]{0,64}\|>"
    r"|<</?SYS>>"
    r"|\[/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
    r"|</?(?:s|unk|pad|bos|eos|start_of_turn|end_of_turn|tool_call|tool_response|think)>",
    re.IGNORECASE,
)
_MARKER_LINE: Final = re.compile(r"^(\s*)(\[\d+\]|Passages:|End of passages\.|Question:)", re.MULTILINE)
_WORD: Final = re.compile(r"\w+")

NEAR_DUPLICATE: Final = 0.9  # shared words over the words of the larger set

T = TypeVar("T")


def neutralise(text: str) -> str:
    """`text` without anything that looks like a chat template's mark or like a marker of ours."""
    text = _TEMPLATE_MARK.sub(lambda found: f"{found.group()[0]} {found.group()[1:]}", text)
    return _MARKER_LINE.sub(r"\1> \2", text)


def normalised(text: str) -> str:
    """The words of `text`, lower case, one space between: equal for texts that say the same."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def without_near_duplicates(items: Iterable[tuple[str, T]]) -> list[T]:
    """The items whose text adds something to those before it, in order.

    Two texts are near-duplicates if they share NEAR_DUPLICATE of their words, over the larger set (a
    text inside a longer one that says more is none), and all their figures: "in 1911" and "in 1922"
    are two facts.
    """
    kept: list[tuple[frozenset[str], T]] = []
    for text, item in items:
        words = frozenset(normalised(text).split())
        if all(_overlap(words, other) < NEAR_DUPLICATE for other, _ in kept):
            kept.append((words, item))
    return [item for _, item in kept]


def _overlap(one: frozenset[str], other: frozenset[str]) -> float:
    if any(word.isdigit() for word in one ^ other):
        return 0.0
    larger = max(len(one), len(other))
    return len(one & other) / larger if larger else 1.0
