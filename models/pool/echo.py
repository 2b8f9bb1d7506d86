"""A generator without a model: answers with the sentence of the prompt's passages that fits best.

Deterministic and quick, it keeps the port's promises (limits, stop strings, time budget, errors) and
stands where a test or a bench is about everything but the model. `delay_s` stands for the time that a
model would take.
"""

from __future__ import annotations

import asyncio
import math
import re
from typing import Final

from ruvllm.errors import DeadlineExceeded, PromptTooLong
from ruvllm.models.pool.job import Choice, Completion, FinishReason, Job, Segment
from ruvllm.models.pool.passage_text import normalised
from ruvllm.models.pool.prompt import ABSTENTION, split_user_text
from ruvllm.models.pool.token_estimate import estimate_tokens

_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")
_TOKEN: Final = re.compile(r"\s*\S+")
# Words that any question shares with any sentence say nothing.
_FUNCTION_WORDS: Final = frozenset(
    normalised(
        "a an and are as at by do does for from how in is it its many much of on or the to was what"
        " when where which who whom whose why with"
    ).split()
)


class EchoGenerator:
    """An extractive Generator (job.py). A token is a word; confidence is the share of words found."""

    def __init__(self, *, model: str = "echo", delay_s: float = 0.0) -> None:
        self._model, self._delay_s = model, delay_s

    async def generate(self, job: Job) -> Completion:
        """Raises PromptTooLong, as any generator."""
        prompt_tokens = _count(job.prompt)
        if not prompt_tokens or prompt_tokens + job.max_tokens > job.context_tokens:
            raise PromptTooLong(
                f"prompt of {prompt_tokens} tokens and {job.max_tokens} to answer exceed"
                f" the context of {job.context_tokens} tokens"
            )
        await asyncio.sleep(min(self._delay_s, job.time_budget_s))
        text, confidence = best_sentence(job)
        words = _TOKEN.findall(text)
        finish: FinishReason = "stop" if len(words) <= job.max_tokens else "length"
        if job.time_budget_s <= 0 or self._delay_s > job.time_budget_s:
            words, finish, confidence = [], "deadline", 0.0
        text = "".join(words[: job.max_tokens])
        cuts = [at for stop in job.stop if stop and (at := text.find(stop)) >= 0]
        if cuts:
            text, finish = text[: min(cuts)], "stop"
        return Completion(
            text=text,
            confidence=confidence,
            prompt_tokens=prompt_tokens,
            cached_tokens=0,
            completion_tokens=len(_TOKEN.findall(text)),
            finish_reason=finish,
            model=self._model,
            model_sha256="",
        )

    async def log_odds(self, choice: Choice) -> float:
        """How far the words of the prompt's last paragraph stand in what comes before it."""
        if not 0 < _count(choice.prompt) <= choice.context_tokens:
            raise PromptTooLong(f"prompt of {_count(choice.prompt)} tokens, context of {choice.context_tokens} tokens")
        await asyncio.sleep(min(self._delay_s, choice.time_budget_s))
        if self._delay_s > choice.time_budget_s or choice.time_budget_s <= 0:
            raise DeadlineExceeded(f"{self._model} had {choice.time_budget_s:.1f} s")
        contents = [segment.text for segment in choice.prompt if not segment.control]
        before, _, claim = "\n\n".join(contents).rpartition("\n\n")
        words = _content_words(claim)
        found = len(words & _content_words(before))
        return math.log((found + 0.5) / (len(words) - found + 0.5))

    async def close(self) -> None:
        """Nothing is held."""


def best_sentence(job: Job) -> tuple[str, float]:
    """The sentence with most of the question's words, the earlier of equals; and that share of them.

    A prompt without a place for passages is echoed; where none of them shares a word, it abstains.
    """
    contents = [segment.text for segment in job.prompt if not segment.control]
    passages, question = split_user_text(contents[-1] if contents else "")
    wanted = _content_words(question)
    if passages is None:
        return question, 1.0
    best, most = ABSTENTION, 0
    for passage in passages:
        _, _, text = passage.partition("\n")
        for sentence in _SENTENCE_END.split(text):
            shared = len(wanted & _content_words(sentence))
            if shared > most:
                best, most = sentence.strip(), shared
    return best, most / len(wanted) if wanted else 0.0


def _count(prompt: tuple[Segment, ...]) -> int:
    return sum(estimate_tokens(segment.text) for segment in prompt)


def _content_words(text: str) -> frozenset[str]:
    return frozenset(normalised(text).split()) - _FUNCTION_WORDS
