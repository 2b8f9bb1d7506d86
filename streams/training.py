"""Training runs over the log: read what was judged, learn in a child process, publish what passed the gate.

Invariant: a run is recorded with the offsets that it read to, its seed and its configuration, whether or
not its checkpoint was good enough to serve; what serves changes by an event and by nothing else.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import math
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import structlog

from ruvllm.agents.clock import Clock
from ruvllm.agents.lessons import Lessons
from ruvllm.errors import MissingRequirement, RuvllmError
from ruvllm.models.attention.lesson import LEAST_QUESTIONS
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import Interaction
from ruvllm.schemas.ids import content_id, new_id
from ruvllm.schemas.outcome import CandidatesCredited
from ruvllm.schemas.training import CheckpointChosen, CheckpointPublished, TrainingRecorded, Verdict
from ruvllm.streams.guard import read
from ruvllm.streams.records import Record

log = structlog.get_logger(__name__)

MOST_LESSONS = 5_000

ReadTopic = Callable[[str], AsyncIterator[Record]]
"""A topic of the flow by its name -> its records to the end it has now, each partition in order."""
E = TypeVar("E", bound=Event)
T = TypeVar("T")


async def train_attention(read_topic: ReadTopic, clock: Clock, *, seed: int) -> list[Event]:
    """One run over the whole log; the events that record it, to be sent in order.

    Raises MissingRequirement without torch.
    """
    offsets: dict[str, dict[str, int]] = {}
    book = Lessons(most=MOST_LESSONS)
    async for credited in _events(read_topic, CandidatesCredited, offsets):
        book.credit(credited)
    async for interaction in _events(read_topic, Interaction, offsets):
        book.add(interaction)
    started = time.perf_counter()
    run_id = new_id()
    try:
        from ruvllm.models.attention.run import configuration, run  # noqa: PLC0415  # torch
    except ModuleNotFoundError as error:
        raise MissingRequirement(
            f"training needs {error.name}, which is not installed", hint="Install ruvllm[train]."
        ) from error
    result = await _in_child(run, book.chosen(), seed)
    checkpoint = None if result.parameters is None else content_id("ckpt", "attention", result.parameters.hex())
    said = f"gain {result.gain:+.3f} on {result.questions} held-out questions"
    events: list[Event] = [
        TrainingRecorded(
            time=clock.now(),
            learner="attention",
            run_id=run_id,
            offsets=offsets,
            seed=seed,
            configuration=configuration(),
            versions={name: importlib.metadata.version(name) for name in ("torch", "numpy")},
            examples=result.examples,
            verdict=Verdict(
                passed=result.passed,
                gain=result.gain,
                error=result.error if math.isfinite(result.error) else None,
                questions=result.questions,
            ),
            checkpoint=checkpoint,
            seconds=round(time.perf_counter() - started, 3),
        )
    ]
    if checkpoint is not None and result.parameters is not None:
        of_it = {"time": clock.now(), "learner": "attention", "checkpoint": checkpoint}
        events.append(CheckpointPublished(**of_it, run_id=run_id, parameters=result.parameters))
        events.append(CheckpointChosen(**of_it, reason=said))
    elif result.questions >= LEAST_QUESTIONS:  # what serves was trained the same way: it is out as well
        events.append(CheckpointChosen(time=clock.now(), learner="attention", reason=f"held back: {said}"))
    return events


async def _in_child(work: Callable[..., T], *arguments: object) -> T:
    """Run in a process of its own. Cancelled, the process is ended: nobody waits for what it would say."""
    spawning = multiprocessing.get_context("spawn")  # a fork would share threads and their locks
    executor = ProcessPoolExecutor(1, mp_context=spawning)
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, work, *arguments)
    except asyncio.CancelledError:
        for process in list(executor._processes.values()):
            process.terminate()
        raise
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


async def _events(read_topic: ReadTopic, kind: type[E], offsets: dict[str, dict[str, int]]) -> AsyncIterator[E]:
    """The events of a topic, and in `offsets` the end of what was read. What cannot be read teaches nothing."""
    ends = offsets.setdefault(kind.topic, {})
    async for record in read_topic(kind.topic):
        partition = str(record.partition or 0)
        ends[partition] = max(ends.get(partition, 0), record.offset + 1)
        try:
            event = read(record, (kind,))
        except RuvllmError as error:
            log.warning("lesson_skipped", topic=kind.topic, offset=record.offset, error=error.message)
            continue
        assert isinstance(event, kind)
        yield event
        await asyncio.sleep(0)  # other stages of this process go on
