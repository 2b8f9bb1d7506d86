"""The pool: one generator by tier, one retry after a crash, and prompts that are sure to fit.

The pool knows tiers by name only; what stands behind one (a process, an echo, a remote server) is
its affair.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeVar

from ruvllm.errors import ModelCrashed, PromptTooLong, UnknownTier
from ruvllm.models.pool.job import Choice, Completion, Generator, Job
from ruvllm.models.pool.token_estimate import CountTokens, bound_tokens, estimate_tokens

T = TypeVar("T")


class Pool:
    """Generators by tier, from the smallest to the largest."""

    def __init__(self, tiers: Mapping[str, Generator]) -> None:
        self._generators = dict(tiers)

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
        try:
            return await generator.generate(job)
        except ModelCrashed:
            left = deadline - clock()
            if left <= 0:
                raise
        again = await generator.generate(dataclasses.replace(job, time_budget_s=left))
        return dataclasses.replace(again, attempts=again.attempts + 1)

    async def log_odds(self, tier: str, choice: Choice) -> float:
        """Weigh a choice (job.py); after a crash once more in what is left of its time. Raises as `generate`."""
        generator = self._generator(tier)
        clock = asyncio.get_running_loop().time
        deadline = clock() + choice.time_budget_s
        try:
            return await generator.log_odds(choice)
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
