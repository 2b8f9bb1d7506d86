"""Training runs over the log: read what was judged, learn in a child process, publish what passed the gate.

Invariant: a run is recorded with the offsets that it read to, its parent, its seed and its configuration, whether
or not its checkpoint was good enough to serve; what serves changes by an event and by nothing else.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import math
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Protocol, TypeVar

import structlog

from ruvllm.agents.clock import Clock
from ruvllm.errors import MissingRequirement, RuvllmError
from ruvllm.models.learning_run import Result
from ruvllm.schemas.event import Event
from ruvllm.schemas.ids import content_id, new_id
from ruvllm.schemas.training import CheckpointChosen, CheckpointPublished, Learner, TrainingRecorded, Verdict
from ruvllm.streams.guard import read
from ruvllm.streams.records import Record

log = structlog.get_logger(__name__)

ReadTopic = Callable[[str], AsyncIterator[Record]]
"""A topic of the flow by its name -> the records of it that the run is to learn from, each partition in order."""
T = TypeVar("T")


class Course(Protocol):
    """What a learner learns from, and by what. One is made for each run."""

    @property
    def learner(self) -> Learner: ...

    @property
    def counted(self) -> str:
        """The topic whose new records make another run worth while."""

    @property
    def kinds(self) -> tuple[type[Event], ...]:
        """The events that it is told, all of one kind before the next."""

    @property
    def retires(self) -> bool:
        """Whether a run that is held back puts out what serves."""

    def take(self, event: Event) -> None: ...

    def lessons(self) -> Sequence[object]:
        """In canonical order."""

    def job(self) -> tuple[Callable[..., Result], tuple[object, ...]]:
        """The child's function of lessons, seed and parent, and what it is handed beside them."""

    def configuration(self) -> dict[str, float]: ...


async def train(
    course: Course,
    read_topic: ReadTopic,
    clock: Clock,
    *,
    seed: int,
    parent: tuple[str, bytes] | None = None,
    instead: CheckpointChosen | None = None,
) -> list[Event]:
    """One run over what is read; the events that record it, to be sent in order.

    `parent`: name and bytes of the checkpoint to go on from. `instead`: the choice to make unless the run makes one.
    Raises MissingRequirement without torch.
    """
    try:
        work, beside = course.job()
        configuration = course.configuration()
    except ModuleNotFoundError as error:
        raise MissingRequirement(
            f"training needs {error.name}, which is not installed", hint="Install ruvllm[train]."
        ) from error
    offsets: dict[str, dict[str, int]] = {}
    for kind in course.kinds:
        async for event in _events(read_topic, kind, offsets):
            course.take(event)
    lessons = course.lessons()
    started = time.perf_counter()
    result = await _in_child(work, lessons, seed, parent[1] if parent else None, *beside)
    recorded = TrainingRecorded(
        time=clock.now(),
        learner=course.learner,
        run_id=new_id(),
        offsets=offsets,
        seed=seed,
        parent=parent[0] if parent else None,
        configuration=configuration,
        versions={name: importlib.metadata.version(name) for name in ("torch", "numpy")},
        examples=result.examples,
        verdict=Verdict(
            passed=result.passed,
            gain=result.gain,
            error=result.error if math.isfinite(result.error) else None,
            questions=result.questions,
        ),
        measures=dict(result.measures),
        checkpoint=_name(course.learner, result),
        seconds=round(time.perf_counter() - started, 3),
    )
    consequences = _consequences(recorded, result, course.retires)
    return [recorded, *(consequences or ([instead] if instead else []))]


def _consequences(recorded: TrainingRecorded, result: Result, retires: bool) -> list[Event]:
    """What serves from here on, if that changes."""
    of_it = {"time": recorded.time, "learner": recorded.learner, "checkpoint": recorded.checkpoint}
    said = f"gain {result.gain:+.3f} on {result.questions} held-out questions"
    if result.parameters is not None:
        published = CheckpointPublished(**of_it, run_id=recorded.run_id, parameters=result.parameters)
        return [published, CheckpointChosen(**of_it, reason=said)]
    if retires and math.isfinite(result.error):
        return [CheckpointChosen(**of_it, reason=f"held back: {said}")]
    return []


def _name(learner: Learner, result: Result) -> str | None:
    if result.parameters is None:
        return None
    return result.checkpoint or content_id("ckpt", learner, result.parameters.hex())


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


async def _events(read_topic: ReadTopic, kind: type[Event], offsets: dict[str, dict[str, int]]) -> AsyncIterator[Event]:
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
        yield event
        await asyncio.sleep(0)  # other stages of this process go on
