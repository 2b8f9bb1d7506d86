"""The attention learner at work: a run whenever enough has been judged since the last one.

One process trains: the one that owns partition 0 of the stage that credits candidates. Should two believe
that they are, both runs are recorded, and the last choice is in force.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import structlog

from ruvllm.agents.clock import Clock
from ruvllm.agents.outbox import Emit
from ruvllm.errors import MissingRequirement
from ruvllm.schemas.outcome import CandidatesCredited
from ruvllm.schemas.training import TrainingRecorded
from ruvllm.streams.log_reader import end_offsets, read_to_end
from ruvllm.streams.ranker_view import RankerView
from ruvllm.streams.records import Record
from ruvllm.streams.sender import Sender
from ruvllm.streams.training import train_attention

log = structlog.get_logger(__name__)

SEED = 1


class AttentionTrainer:
    """Looks every `every_s` seconds, and trains if `after` records or more have come since the last run."""

    def __init__(
        self,
        bootstrap: str,
        sender: Sender,
        clock: Clock,
        view: RankerView,
        *,
        is_leader: Callable[[], bool],
        every_s: float,
        after: int,
    ) -> None:
        self._bootstrap = bootstrap
        self._sender = sender
        self._clock = clock
        self._view = view
        self._is_leader = is_leader
        self._every_s = every_s
        self._after = after
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="attention-trainer")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                if self._is_leader() and await self._new_lessons() >= self._after:
                    await train_and_publish(self._bootstrap, self._sender, self._clock, seed=SEED)
            except MissingRequirement as error:
                log.warning("training_is_off", learner="attention", reason=error.message, hint=error.hint)
                return
            except Exception as error:  # learning waits, serving goes on
                log.error("training_failed", learner="attention", error=repr(error))

    async def _new_lessons(self) -> int:
        """Records since the last run (transaction markers are among them)."""
        name = CandidatesCredited.topic
        ends = await end_offsets(self._bootstrap, self._sender.names.topic(name))
        last = self._view.rankers.last_run
        seen = last.offsets.get(name, {}) if last else {}
        return sum(ends.values()) - sum(seen.values())


async def train_and_publish(bootstrap: str, sender: Sender, clock: Clock, *, seed: int) -> TrainingRecorded:
    """One run over the log at `bootstrap`; what it recorded."""

    def read_topic(name: str) -> AsyncIterator[Record]:
        return read_to_end(bootstrap, sender.names.topic(name))

    events = await train_attention(read_topic, clock, seed=seed)
    await sender.send([Emit(event) for event in events])
    recorded = events[0]
    assert isinstance(recorded, TrainingRecorded)
    log.info("trained", learner="attention", examples=recorded.examples, passed=recorded.verdict.passed)
    return recorded
