"""The pool: one generator by tier, one retry after a crash, and prompts that are sure to fit.

The pool knows tiers by name only; what stands behind one (a process, an echo, a remote server) is
its affair.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TypeVar

from ruvllm.errors import DeadlineExceeded, ModelCrashed, PromptTooLong, UnknownTier
from ruvllm.models.pool.job import Choice, Completion, Generator, Job
from ruvllm.models.pool.token_estimate import CountTokens, bound_tokens, estimate_tokens

T = TypeVar("T")
QUIET_S = 2.0
"""What is not for a waiting user begins when nobody was answered for so long."""


class Pool:
    """Generators by tier, from the smallest to the largest."""

    def __init__(self, tiers: Mapping[str, Generator]) -> None:
        self._generators = dict(tiers)
        self._answering = 0
        self._answered_at = -math.inf

    @property
    def tiers(self) -> tuple[str, ...]:
        return tuple(self._generators)

    async def generate(self, tier: str, job: Job) -> Completion:
        """Run a job; after a crash once more in what is left of its time.

        Raises UnknownTier, and what the port raises (job.py); ModelCrashed after the second crash, or
        after the first if that took all the time.
        """
        generator = self._generator(tier)
        clock = asyncio.get_running_loop().time
        deadline = clock() + job.time_budget_s
        self._answering += 1
        try:
            try:
                return await generator.generate(job)
            except ModelCrashed:
                left = deadline - clock()
                if left <= 0:
                    raise
            again = await generator.generate(dataclasses.replace(job, time_budget_s=left))
            return dataclasses.replace(again, attempts=again.attempts + 1)
        finally:
            self._answering -= 1
            self._answered_at = clock()

    async def log_odds(self, tier: str, choice: Choice) -> float:
        """Weigh a choice (job.py) once nobody has been answered for a moment: all tiers share the same cores.

        After a crash once more in what is left of its time. Raises as `generate`.
        """
        generator = self._generator(tier)
        clock = asyncio.get_running_loop().time
        deadline = clock() + choice.time_budget_s
        while self._answering or clock() - self._answered_at < QUIET_S:
            if clock() > deadline:
                raise DeadlineExceeded(f"requests kept tier {tier} busy for {choice.time_budget_s:.0f} s")
            await asyncio.sleep(QUIET_S / 10)
        try:
            return await generator.log_odds(dataclasses.replace(choice, time_budget_s=deadline - clock()))
        except ModelCrashed:
            left = deadline - clock()
            if left <= 0:
                raise
        return await generator.log_odds(dataclasses.replace(choice, time_budget_s=left))

    def _generator(self, tier: str) -> Generator:
        generator = self._generators.get(tier)
        if generator is None:
            raise UnknownTier(f"tier {tier!r} is none of {', '.join(self.tiers)}")
        return generator

    async def generate_fitting(
        self, tier: str, compose: Callable[[CountTokens], tuple[Job, T]]
    ) -> tuple[Completion, T]:
        """Compose a job within its context and run it; the completion, and what `compose` gave beside it.

        `compose` counts tokens with what it is handed: first the estimate, and if the model, which
        counts exactly, refuses the prompt, the bound that no text exceeds. Raises PromptTooLong if
        `compose` cannot keep even to that.
        """
        job, beside = compose(estimate_tokens)
        try:
            return await self.generate(tier, job), beside
        except PromptTooLong:
            job, beside = compose(bound_tokens)
        return await self.generate(tier, job), beside

    async def close(self) -> None:
        """Close all generators."""
        for generator in self._generators.values():
            await generator.close()
