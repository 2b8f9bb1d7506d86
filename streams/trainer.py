"""A learner at work: a run whenever enough has been judged since the last one.

One process trains: the one that owns partition 0 of the stage that learns. Should two believe that they are, both
runs are recorded, and the last choice is in force.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import structlog

from ruvllm.agents.clock import Clock
from ruvllm.agents.outbox import Emit
from ruvllm.agents.rankers import Rankers
from ruvllm.agents.routers import Routers
from ruvllm.errors import MissingRequirement
from ruvllm.schemas.training import Learner, TrainingRecorded
from ruvllm.streams.log_reader import end_offsets, read_to_end
from ruvllm.streams.records import Record
from ruvllm.streams.sender import Sender
from ruvllm.streams.topology import Names
from ruvllm.streams.training import Course, train
from ruvllm.streams.wiring import Wiring

log = structlog.get_logger(__name__)

SEED = 1


@dataclass(frozen=True)
class Learning:
    """What a trainer needs to know of a learner: its course, its last run, and what serves now."""

    new_course: Callable[[], Course]
    last_run: Callable[[], TrainingRecorded | None]
    parent: Callable[[], tuple[str, bytes] | None] = lambda: None

    async def has_new(self, bootstrap: str, names: Names, after: int) -> bool:
        """Whether `after` records or more have come since the last run (transaction markers are among them)."""
        name = self.new_course().counted
        ends = await end_offsets(bootstrap, names.topic(name))
        last = self.last_run()
        seen = last.offsets.get(name, {}) if last else {}
        return sum(ends.values()) - sum(seen.values()) >= after


def learnings(wiring: Wiring, rankers: Rankers, routers: Routers) -> dict[Learner, Learning]:
    """Of every learner; `rankers` and `routers` are the folds of what they have published."""

    def parent() -> tuple[str, bytes] | None:
        name = routers.current().checkpoint.id
        packed = routers.packed(name)
        return None if packed is None else (name, packed)

    courses = wiring.new_courses()
    return {
        "attention": Learning(courses["attention"], lambda: rankers.last_run),
        "router": Learning(courses["router"], lambda: routers.last_run, parent),
    }


class Trainer:
    """Looks every `every_s` seconds, and trains if `after` records or more have come since the last run."""

    def __init__(
        self,
        bootstrap: str,
        sender: Sender,
        clock: Clock,
        learning: Learning,
        *,
        is_leader: Callable[[], bool],
        every_s: float,
        after: int,
    ) -> None:
        self._bootstrap = bootstrap
        self._sender = sender
        self._clock = clock
        self._learning = learning
        self._is_leader = is_leader
        self._every_s = every_s
        self._after = after
        self._learner = learning.new_course().learner
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"{self._learner}-trainer")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                if self._is_leader() and await self._has_new():
                    await train_and_publish(self._bootstrap, self._sender, self._clock, self._learning, seed=SEED)
            except MissingRequirement as error:
                log.warning("training_is_off", learner=self._learner, reason=error.message, hint=error.hint)
                return
            except Exception as error:  # learning waits, serving goes on
                log.error("training_failed", learner=self._learner, error=repr(error))

    async def _has_new(self) -> bool:
        return await self._learning.has_new(self._bootstrap, self._sender.names, self._after)


async def train_and_publish(
    bootstrap: str, sender: Sender, clock: Clock, learning: Learning, *, seed: int
) -> TrainingRecorded:
    """One run over the log at `bootstrap`; what it recorded."""

    def read_topic(name: str) -> AsyncIterator[Record]:
        return read_to_end(bootstrap, sender.names.topic(name))

    events = await train(learning.new_course(), read_topic, clock, seed=seed, parent=learning.parent())
    await sender.send([Emit(event) for event in events])
    recorded = events[0]
    assert isinstance(recorded, TrainingRecorded)
    log.info("trained", learner=recorded.learner, examples=recorded.examples, passed=recorded.verdict.passed)
    return recorded
