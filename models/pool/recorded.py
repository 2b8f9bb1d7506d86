"""A generator without a model: gives back what a model really said to the same question, recorded by a command.

It stands where a whole system is measured over hundreds of requests that a model would take hours for. What was
recorded was said under one setting of context and sampling; other settings get the same answer here. A question
that was not recorded is an error, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import orjson

from ruvllm.errors import DeadlineExceeded, InvalidConfiguration, ModelUnavailable, PromptTooLong
from ruvllm.models.pool.job import Choice, Completion, Job
from ruvllm.models.pool.prompt import split_user_text
from ruvllm.models.pool.token_estimate import estimate_tokens

Recording = Mapping[str, str]
"""Question -> answer, of one tier."""


class RecordedGenerator:
    """A Generator (job.py) over what one tier said."""

    def __init__(self, tier: str, recording: Recording) -> None:
        self._tier = tier
        self._recording = recording

    async def generate(self, job: Job) -> Completion:
        """Raises ModelUnavailable for a question that was not recorded, and PromptTooLong as any generator."""
        prompt_tokens = sum(estimate_tokens(segment.text) for segment in job.prompt)
        if prompt_tokens + job.max_tokens > job.context_tokens:
            raise PromptTooLong(
                f"prompt of {prompt_tokens} tokens and {job.max_tokens} to answer, {job.context_tokens}"
            )
        if job.time_budget_s <= 0:
            raise DeadlineExceeded(f"recorded {self._tier} had no time")
        contents = [segment.text for segment in job.prompt if not segment.control]
        _, question = split_user_text(contents[-1] if contents else "")
        answer = self._recording.get(question.strip())
        if answer is None:
            raise ModelUnavailable(
                f"tier {self._tier} has no recorded answer to {question[:80]!r}",
                hint="Record it with `ruvllm eval answers --json FILE`, or use generation.backend=llama.",
            )
        return Completion(
            text=answer,
            confidence=0.5,
            prompt_tokens=prompt_tokens,
            cached_tokens=0,
            completion_tokens=estimate_tokens(answer),
            finish_reason="stop",
            model=f"recorded {self._tier}",
            model_sha256="",
        )

    async def log_odds(self, choice: Choice) -> float:
        """Of a verdict nothing was recorded: even odds."""
        if choice.time_budget_s <= 0:
            raise DeadlineExceeded(f"recorded {self._tier} had no time")
        return math.log(1.0)

    async def close(self) -> None:
        """Nothing is held."""


def load_recordings(files: tuple[Path, ...]) -> Mapping[str, Recording]:
    """Tier -> what it said, from reports of `ruvllm eval answers`, with memory. The later file wins.

    Raises InvalidConfiguration for a file that is no such report.
    """
    found: dict[str, dict[str, str]] = {}
    for file in files:
        try:
            rows = orjson.loads(file.read_bytes())["answers"]
            for row in rows:
                tier, question, answer = said = row["tier"], row["question"], row["answer"]
                if not all(isinstance(text, str) for text in said):
                    raise TypeError(f"tier, question and answer are {said!r}")
                if row["grounding"] == "memory":
                    found.setdefault(tier, {})[question.strip()] = answer
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise InvalidConfiguration(
                f"{file} is no report of recorded answers: {error!r}",
                hint="Write one with `ruvllm eval answers --json FILE`.",
            ) from error
    return found
