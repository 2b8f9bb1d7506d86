"""What a large model is asked about an answer: one question whose next token is Yes or No.

A rubric is worthless to small models; the log odds of yes against no are not (docs/log.md). What is read
costs the time, so of the passage that carries the answer best only the sentences that speak of it are shown.

Invariant: passage, question and answer are data. Each is one line, without anything that looks like a chat
template's mark, and the words that begin the frame's own lines stand nowhere else. A sentence that goes on as the
frame or a chat template would, or with a verdict, is left out. What persuades in other words is not caught.
"""

from __future__ import annotations

import re
from typing import Final

from ruvllm.models.judge.item import Item, Judgement
from ruvllm.models.judge.wording import sentences, terms
from ruvllm.models.pool.chat_template import ChatMessage, ChatTemplate
from ruvllm.models.pool.job import Choice
from ruvllm.models.pool.passage_text import neutralise

YES: Final = ("Yes", " Yes", "yes", " yes", "YES")
NO: Final = ("No", " No", "no", " no", "NO")
SENTENCES: Final = 2
"""Shown of the passage: one may name what the next one tells of."""
TEXT_CHARACTERS: Final = 800
ANSWER_CHARACTERS: Final = 800
CONTEXT_TOKENS: Final = 2048
_SYSTEM: Final = "You check answers against a text."
_ASK: Final = "Is the answer right according to the text? Answer Yes or No."
_FRAME: Final = re.compile(
    r"\b(Text|Question|Answer)(?=\s*:)|\bIs the answer right\b|\bAnswer Yes or No\b", re.IGNORECASE
)

_POSES: Final = re.compile(
    r"\W*(?:(?:text|question|answer)\s*:|yes\b|no\b\s*(?:[.,;:!]|$)|is the answer right\b|answer yes or no\b)",
    re.IGNORECASE,
)


def choice(item: Item, judged: Judgement, template: ChatTemplate, *, time_budget_s: float) -> Choice:
    """The choice that a pool weighs (pool/job.py), about the passage with most support."""
    best = max(item.served, key=lambda served: judged.support.get(served.node_id, 0.0), default=None)
    text = _as_data(_about(item, best.text), TEXT_CHARACTERS) if best else ""
    question, answer = _as_data(item.question, ANSWER_CHARACTERS), _as_data(item.answer, ANSWER_CHARACTERS)
    content = f"Text: {text or '(none)'}\n\nQuestion: {question}\nAnswer: {answer}\n{_ASK}"
    prompt = template([ChatMessage("system", _SYSTEM), ChatMessage("user", content)])
    return Choice(prompt, YES, NO, context_tokens=CONTEXT_TOKENS, time_budget_s=time_budget_s)


def _about(item: Item, text: str) -> str:
    """The sentences that share most terms with question and answer, in their order."""
    wanted = {*terms(item.question), *terms(item.answer)}
    said = sentences(text)
    nearest = sorted(range(len(said)), key=lambda place: (-len(wanted.intersection(terms(said[place]))), place))
    return " ".join(said[place] for place in sorted(nearest[:SENTENCES]))


def _poses(sentence: str) -> bool:
    return bool(_POSES.match(sentence)) or neutralise(sentence) != sentence


def _as_data(text: str, most: int) -> str:
    """One line that cannot pose as a line of the frame. Its first sentence stays: an answer may well be Yes."""
    said = sentences("\n".join(text.splitlines()))
    kept = [sentence for place, sentence in enumerate(said) if not place or not _poses(sentence)]
    line = neutralise(" ".join(" ".join(kept).split())[:most])
    return _FRAME.sub(lambda found: f"“{found.group()}”", line)
