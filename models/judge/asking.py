"""What a large model is asked about an answer: one question whose next token is Yes or No.

A rubric is worthless to small models; the log odds of yes against no are not (docs/log.md). The passages
come first and the answer last, so that answers to one question share the prompt's beginning.
"""

from __future__ import annotations

from typing import Final

from ruvllm.models.judge.item import Item, Judgement
from ruvllm.models.pool.chat_template import ChatMessage, ChatTemplate
from ruvllm.models.pool.job import Choice
from ruvllm.models.pool.passage_text import neutralise

YES: Final = ("Yes", " Yes", "yes", " yes", "YES")
NO: Final = ("No", " No", "no", " no", "NO")
PASSAGES: Final = 2
PASSAGE_CHARACTERS: Final = 1600
ANSWER_CHARACTERS: Final = 800
CONTEXT_TOKENS: Final = 2048
_SYSTEM: Final = "You check answers against a text."
_ASK: Final = "Is the answer right according to the text? Answer Yes or No."


def choice(item: Item, judged: Judgement, template: ChatTemplate, *, time_budget_s: float) -> Choice:
    """The choice that a pool weighs (pool/job.py), about the passages with most support."""
    text = "\n\n".join(neutralise(t.strip()[:PASSAGE_CHARACTERS]) for t in _passages(item, judged))
    question, answer = (neutralise(t.strip()[:ANSWER_CHARACTERS]) for t in (item.question, item.answer))
    content = f"Text:\n{text or '(none)'}\n\nQuestion: {question}\nAnswer: {answer}\n{_ASK}"
    prompt = template([ChatMessage("system", _SYSTEM), ChatMessage("user", content)])
    return Choice(prompt, YES, NO, context_tokens=CONTEXT_TOKENS, time_budget_s=time_budget_s)


def _passages(item: Item, judged: Judgement) -> list[str]:
    """The best, and the next if it carries nearly as much; the first served where none carries any."""
    best = sorted(item.served, key=lambda served: -judged.support.get(served.node_id, 0.0))
    top = judged.support.get(best[0].node_id, 0.0) if best else 0.0
    near = [s for s in best[1:PASSAGES] if judged.support.get(s.node_id, 0.0) >= max(0.8 * top, 0.01)]
    return [served.text for served in [*best[:1], *near]]
