"""The context builder: question, history and passages become messages within a token budget.

Pure. Passages enter by score while they fit, near-duplicates not at all, and stand between markers
that no passage can forge. The wording was chosen by measurement (docs/log.md): change it, and
PROMPT_VERSION with it, only with figures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ruvllm.errors import PromptTooLong
from ruvllm.models.pool.chat_template import (
    MESSAGE_OVERHEAD_TOKENS,
    OPEN_TURN_OVERHEAD_TOKENS,
    ChatMessage,
    Role,
)
from ruvllm.models.pool.passage_text import neutralise, without_near_duplicates
from ruvllm.models.pool.token_estimate import CountTokens

Grounding = Literal["memory", "open", "none"]

PROMPT_VERSION: Final = "1"
ABSTENTION: Final = "I don't know."
HISTORY_SHARE: Final = 0.25  # of what the question leaves; passages get the rest

_SYSTEM: Final[dict[Grounding, str]] = {
    "memory": "Answer the question from the passages only, in as few words as possible. "
    f"If the passages do not hold the answer, reply exactly: {ABSTENTION}",
    "open": "Answer the question shortly. The passages may help; where they do not, use what you know.",
    "none": "Answer the question shortly.",
}
# Said again after the question: near-misses are then refused three to six times as often, at no
# loss of right answers (docs/log.md).
_REMINDER: Final[dict[Grounding, str]] = {
    "memory": f"\nAnswer from the passages only. If they do not state it, say exactly: {ABSTENTION}",
    "open": "",
    "none": "",
}
_OPENING: Final = "Passages:\n"
_QUESTION: Final = "\n\nQuestion: "
_NO_PASSAGES: Final = "(none)"


@dataclass(frozen=True, slots=True)
class PromptPassage:
    """A passage that may enter the prompt. Higher scores enter first."""

    node_id: str
    title: str
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages for a chat template. `used`: ids of the passages in it, best first."""

    messages: tuple[ChatMessage, ...]
    used: tuple[str, ...]
    version: str


def build_prompt(
    question: str,
    history: Sequence[tuple[Role, str]],
    passages: Sequence[PromptPassage],
    *,
    budget_tokens: int,
    count_tokens: CountTokens,
    grounding: Grounding,
) -> Prompt:
    """The prompt whose template text, by `count_tokens`, is at most `budget_tokens`.

    History comes oldest first and keeps its newest turns within HISTORY_SHARE of what question and
    instruction leave. With grounding `none` passages are ignored. Raises PromptTooLong if question
    and instruction alone exceed the budget.
    """
    system = _SYSTEM[grounding]
    fixed = OPEN_TURN_OVERHEAD_TOKENS + 2 * MESSAGE_OVERHEAD_TOKENS + count_tokens(system)
    fixed += count_tokens(_user_text((), question, grounding))
    room = budget_tokens - fixed
    if room < 0:
        raise PromptTooLong(f"the question needs {fixed} tokens with its instruction, {budget_tokens} are to be had")
    turns = _newest_turns(history, int(room * HISTORY_SHARE), count_tokens)
    room -= sum(MESSAGE_OVERHEAD_TOKENS + count_tokens(turn.content) for turn in turns)
    chosen = _best_passages(passages, room, count_tokens) if grounding != "none" else []
    user = _user_text([block for _, block in chosen], question, grounding)
    return Prompt(
        messages=(ChatMessage("system", system), *turns, ChatMessage("user", user)),
        used=tuple(passage.node_id for passage, _ in chosen),
        version=PROMPT_VERSION,
    )


def split_user_text(text: str) -> tuple[tuple[str, ...] | None, str]:
    """Passages (title and text, best first) and question of a user message that this module wrote.

    A message without a place for passages (grounding `none`) is all question, and None. Markers
    inside passages were neutralised and the question comes last, so neither can move the border.
    """
    if not text.startswith(_OPENING):
        return None, text
    body, _, question = text[len(_OPENING) :].partition(_QUESTION)
    blocks = re.split(r"(?:\A|\n\n)\[\d+\] ", body)[1:]
    return tuple(reversed(blocks)), question.removesuffix(_REMINDER["memory"])


def _user_text(blocks: Sequence[str], question: str, grounding: Grounding) -> str:
    """Passages, worst first so that the best stands nearest to the question, then the question."""
    if grounding == "none":
        return question
    numbered = [f"[{number}] {block}" for number, block in enumerate(reversed(blocks), start=1)]
    body = "\n\n".join(numbered) or _NO_PASSAGES
    return f"{_OPENING}{body}{_QUESTION}{question}{_REMINDER[grounding]}"


def _newest_turns(history: Sequence[tuple[Role, str]], room: int, count_tokens: CountTokens) -> list[ChatMessage]:
    """The newest turns that fit, without a gap, oldest first."""
    turns: list[ChatMessage] = []
    for role, content in reversed(history):
        room -= MESSAGE_OVERHEAD_TOKENS + count_tokens(content)
        if room < 0:
            break
        turns.append(ChatMessage(role, content))
    return turns[::-1]


def _best_passages(
    passages: Sequence[PromptPassage], room: int, count_tokens: CountTokens
) -> list[tuple[PromptPassage, str]]:
    """Passages by score with the text that they enter as, greedily while they fit."""
    best = sorted(passages, key=lambda passage: (-passage.score, passage.node_id))
    chosen: list[tuple[PromptPassage, str]] = []
    for passage in without_near_duplicates((passage.text, passage) for passage in best):
        block = f"{neutralise(' '.join(passage.title.split()))}\n{neutralise(passage.text.strip())}"
        needed = count_tokens(f"[{len(chosen) + 1}] {block}\n\n")
        if needed <= room:
            chosen.append((passage, block))
            room -= needed
    return chosen
