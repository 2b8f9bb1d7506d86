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
from ruvllm.agents.taint import Learnt, untainted_before, untainted_parent
from ruvllm.errors import MissingRequirement
from ruvllm.schemas.event import Event
from ruvllm.schemas.training import CheckpointChosen, Learner, TrainingRecorded
from ruvllm.streams.log_reader import end_offsets, read_to_end
from ruvllm.streams.records import Record
from ruvllm.streams.sender import Sender
from ruvllm.streams.tainted import commanded, taken_back
from ruvllm.streams.topology import Names
from ruvllm.streams.training import Course, ReadTopic, train
from ruvllm.streams.wiring import Wiring

log = structlog.get_logger(__name__)

SEED = 1


@dataclass
class Learning:
    """What a trainer needs to know of a learner: its course, and the fold of what it has published.

    `goes_on`: whether a run starts from what serves, or from scratch.
    """

    new_course: Callable[[], Course]
    learnt: Learnt
    goes_on: bool = False
    _sound: tuple[str, frozenset[str]] | None = None  # what serves, and what it surely has not learnt from

    async def has_new(self, bootstrap: str, names: Names, after: int) -> bool:
        """Whether `after` records or more have come since the last run (transaction markers are among them)."""
        name = self.new_course().counted
        ends = await end_offsets(bootstrap, names.topic(name))
        seen = self.learnt.runs[-1].offsets.get(name, {}) if self.learnt.runs else {}
        return sum(ends.values()) - sum(seen.values()) >= after

    async def is_tainted(self, read_topic: ReadTopic) -> bool:
        """Whether what serves has learnt from an answer that was taken back since."""
        return self.learnt.serving in await self._tainted(read_topic)

    async def run(self, read_topic: ReadTopic, clock: Clock, *, seed: int) -> list[Event]:
        """One run over the log; its events. What is tainted is neither gone on from nor left to serve."""
        tainted = await self._tainted(read_topic)
        parent = untainted_parent(self.learnt, tainted) if self.goes_on else None
        course = self.new_course()
        instead = None
        if self.learnt.serving in tainted:
            instead = CheckpointChosen(
                time=clock.now(),
                learner=course.learner,
                checkpoint=untainted_before(self.learnt, tainted),
                reason=f"{self.learnt.serving} has learnt from answers that were taken back since",
            )
        return await train(course, read_topic, clock, seed=seed, parent=parent, instead=instead)

    async def _tainted(self, read_topic: ReadTopic) -> frozenset[str]:
        """The tainted checkpoints, as far as it matters: none while what serves is known to be sound."""
        serving = self.learnt.serving
        if serving is None:
            return frozenset()
        interactions = await commanded(read_topic)
        if self._sound == (serving, interactions):
            return frozenset()
        back = await taken_back(read_topic, interactions, (self.new_course().counted,))
        tainted = back.tainted(self.learnt.runs)
        if back.is_settled and serving not in tainted:
            self._sound = serving, interactions
        return tainted


def learnings(wiring: Wiring, rankers: Rankers, routers: Routers) -> dict[Learner, Learning]:
    """Of every learner; `rankers` and `routers` are the folds of what they have published."""
    courses = wiring.new_courses()
    return {
        "attention": Learning(courses["attention"], rankers),
        "router": Learning(courses["router"], routers, goes_on=True),
    }


class Trainer:
    """Looks every `every_s` seconds, and trains if `after` records or more have come since the last run.

    If what serves has learnt from what was taken back since, it trains at once, however little is new.
    """

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
                if self._is_leader() and (await self._has_new() or await self._is_tainted()):
                    await train_and_publish(self._bootstrap, self._sender, self._clock, self._learning, seed=SEED)
            except MissingRequirement as error:
                log.warning("training_is_off", learner=self._learner, reason=error.message, hint=error.hint)
                return
            except Exception as error:  # learning waits, serving goes on
                log.error("training_failed", learner=self._learner, error=repr(error))

    async def _has_new(self) -> bool:
        return await self._learning.has_new(self._bootstrap, self._sender.names, self._after)

    async def _is_tainted(self) -> bool:
        return await self._learning.is_tainted(reader(self._bootstrap, self._sender.names))


def reader(bootstrap: str, names: Names) -> ReadTopic:
    """How a run reads the log at `bootstrap`."""

    def read_topic(name: str) -> AsyncIterator[Record]:
        return read_to_end(bootstrap, names.topic(name))

    return read_topic


async def train_and_publish(
    bootstrap: str, sender: Sender, clock: Clock, learning: Learning, *, seed: int
) -> TrainingRecorded:
    """One run over the log at `bootstrap`; what it recorded."""
    events = await learning.run(reader(bootstrap, sender.names), clock, seed=seed)
    await sender.send([Emit(event) for event in events])
    recorded = events[0]
    assert isinstance(recorded, TrainingRecorded)
    log.info("trained", learner=recorded.learner, examples=recorded.examples, passed=recorded.verdict.passed)
    return recorded
