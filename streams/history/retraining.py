"""Training runs of the past made again, and new ones over the same stretch of the log. Nothing is published.

Invariant: a run is a function of the log up to its offsets, its seed, its parent and its configuration. So a recorded
one that is repeated reads exactly what it read then, by topic and partition, and gives the same checkpoint; where
versions or configuration are others now, it is said which.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ruvllm.agents.clock import Clock
from ruvllm.errors import InvalidRequest
from ruvllm.schemas.training import CheckpointPublished, Learner, TrainingRecorded, Verdict
from ruvllm.streams.history.learnt import Learnt
from ruvllm.streams.history.ranges import Range
from ruvllm.streams.history.source import Place, Source
from ruvllm.streams.records import Record
from ruvllm.streams.training import Course, ReadTopic, train


@dataclass(frozen=True)
class Run:
    """A run made again (`recorded`, `repeated`: the checkpoints; None: it was held back) or a new one (`equal` None).

    `differs`: what the run depends on that is not as it was.
    """

    learner: Learner
    run_id: str
    recorded: str | None
    repeated: str | None
    equal: bool | None
    verdict: Verdict
    examples: int
    differs: tuple[str, ...] = ()


async def repeat(
    source: Source, learnt: Learnt, recorded: TrainingRecorded, new_course: Callable[[], Course], clock: Clock
) -> Run:
    """Make a recorded run again. Raises InvalidRequest if the log does not hold its parent."""
    parent = None
    if recorded.parent is not None:
        if recorded.parent not in learnt.published:
            raise InvalidRequest(
                f"run {recorded.run_id} went on from {recorded.parent}, which was published outside of the range",
                hint="Start the range earlier: --from beginning.",
            )
        parent = recorded.parent, learnt.published[recorded.parent].parameters
    ends = {name: {int(p): at for p, at in place.items()} for name, place in recorded.offsets.items()}
    for name, place in ends.items():  # of a partition that is not named nothing was read
        if not source.in_one_order:
            ends[name] = {**dict.fromkeys(await source.spans(name), 0), **place}
    made, _ = await _run(new_course(), _reader(source, {}, ends), clock, seed=recorded.seed, parent=parent)
    same = made.checkpoint == recorded.checkpoint and made.examples == recorded.examples
    return Run(
        recorded.learner,
        recorded.run_id,
        recorded.checkpoint,
        made.checkpoint,
        same and made.verdict.passed == recorded.verdict.passed,
        made.verdict,
        made.examples,
        tuple(_differences(recorded, made)),
    )


async def anew(
    source: Source,
    learnt: Learnt,
    learner: Learner,
    new_course: Callable[[], Course],
    clock: Clock,
    *,
    stretch: Range,
    seed: int,
    folder: Path,
) -> Run:
    """One new run over a stretch of the log, by the settings of now; what it learnt is kept in `folder`."""
    course = new_course()
    places = {kind.topic: await stretch.places(source, kind.topic) for kind in course.kinds}
    starts, ends = ({name: both[side] for name, both in places.items()} for side in (0, 1))
    reader = _reader(source, starts, ends)
    made, published = await _run(course, reader, clock, seed=seed, parent=learnt.parent(learner))
    if published is not None:
        _keep(published, folder)
    return Run(learner, made.run_id, None, made.checkpoint, None, made.verdict, made.examples)


async def _run(
    course: Course, read_topic: ReadTopic, clock: Clock, *, seed: int, parent: tuple[str, bytes] | None
) -> tuple[TrainingRecorded, CheckpointPublished | None]:
    events = await train(course, read_topic, clock, seed=seed, parent=parent)
    recorded = events[0]
    assert isinstance(recorded, TrainingRecorded)
    return recorded, next((event for event in events if isinstance(event, CheckpointPublished)), None)


def _keep(published: CheckpointPublished, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{published.learner}-{published.checkpoint}.bin").write_bytes(published.parameters)


def _reader(source: Source, starts: Mapping[str, Place], ends: Mapping[str, Place]) -> ReadTopic:
    async def read_topic(name: str) -> AsyncIterator[Record]:
        async for batch in source.read(name, starts.get(name), ends.get(name)):
            for record in batch:
                yield record

    return read_topic


def _differences(then: TrainingRecorded, now: TrainingRecorded) -> list[str]:
    """Of what a run depends on; the log and the seed are the same."""
    found = []
    for what, before, after in (
        ("version of", then.versions, now.versions),
        ("configuration", then.configuration, now.configuration),
    ):
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                found.append(f"{what} {name} was {before.get(name)}, is {after.get(name)}")
    return found
