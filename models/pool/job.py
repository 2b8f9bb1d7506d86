"""What a generator is asked and what it says back; the port that every generator stands behind.

A job is complete in itself: whoever runs it needs no clock, no configuration and no memory of other
jobs. The prompt is a row of segments, and only a control segment may become control tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from ruvllm.errors import ModelUnavailable, RuvllmError

FinishReason = Literal["stop", "length", "deadline"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt. `control`: written by a chat template, its control tokens are meant."""

    text: str
    control: bool


@dataclass(frozen=True, slots=True)
class Job:
    """One generation.

    `context_tokens` bounds prompt and answer together, `max_tokens` the answer alone. `time_budget_s`
    starts when the job is handed in, so waiting for the model counts. Temperature 0 is greedy.
    """

    prompt: tuple[Segment, ...]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    context_tokens: int
    time_budget_s: float
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """One question with two answers, e.g. yes or no, each with the spellings that a model may begin it with.

    `context_tokens` bounds the prompt; `time_budget_s` starts when the choice is handed in.
    """

    prompt: tuple[Segment, ...]
    yes: tuple[str, ...]
    no: tuple[str, ...]
    context_tokens: int
    time_budget_s: float


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer.

    `confidence`: exp of the mean log probability of the sampled tokens (the end of turn included)
    under the model's own softmax at temperature 1, whatever they were sampled with; 0 if there are
    none. `cached_tokens` of the prompt were in the KV cache already. `attempts`: 2 if a crash came
    between.
    """

    text: str
    confidence: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    model: str
    model_sha256: str
    attempts: int = 1


class Generator(Protocol):
    """The port: one model, one job at a time.

    Raises PromptTooLong (prompt and `max_tokens` exceed `context_tokens`), ModelCrashed (worth one
    more try), ModelUnavailable (not worth it) and DeadlineExceeded (no time was left to begin).
    """

    async def generate(self, job: Job) -> Completion: ...

    async def log_odds(self, choice: Choice) -> float:
        """ln P(yes) - ln P(no) at the next token; P of an answer is summed over its spellings.

        Nothing is sampled. Half a reading is no answer: DeadlineExceeded also where time ran out on the way.
        """
        ...

    async def close(self) -> None: ...


class UnavailableModel:
    """A Generator in the place of a model that cannot be used: its jobs fail and say why."""

    def __init__(self, why: RuvllmError) -> None:
        self._why = why

    async def generate(self, job: Job) -> Completion:
        raise ModelUnavailable(self._why.message, hint=self._why.hint)

    async def log_odds(self, choice: Choice) -> float:
        raise ModelUnavailable(self._why.message, hint=self._why.hint)

    async def close(self) -> None:
        """Nothing was opened."""
