"""What was taken back, read from the log: for whoever must know which checkpoints have learnt from it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable
from typing import TYPE_CHECKING

from ruvllm.agents.taint import TakenBack
from ruvllm.errors import RuvllmError
from ruvllm.schemas.outcome import CandidatesCredited, Judged, Retract
from ruvllm.schemas.training import Learner, TrainingRecorded
from ruvllm.schemas.wire import kind_of
from ruvllm.streams.guard import read
from ruvllm.streams.history.naming import interaction_in
from ruvllm.streams.records import Record
from ruvllm.streams.training import ReadTopic

if TYPE_CHECKING:
    from ruvllm.streams.history.source import Source

LEARNT_FROM = (Judged.topic, CandidatesCredited.topic)


async def commanded(read_topic: ReadTopic) -> frozenset[str]:
    """The interactions whose retraction was commanded."""
    return frozenset({interaction_in(record) async for record in read_topic(Retract.topic)})


async def taken_back(
    read_topic: ReadTopic, interactions: Collection[str], topics: Iterable[str] = LEARNT_FROM
) -> TakenBack:
    """Where in `topics` what was said of these interactions stands. What cannot be read has taught nothing."""
    found = TakenBack(interactions)
    for name in topics if interactions else ():
        async for record in read_topic(name):
            if interaction_in(record) not in interactions:
                continue
            try:
                said = read(record, (Judged, CandidatesCredited))
            except RuvllmError:
                continue
            if isinstance(said, Judged | CandidatesCredited):
                found.take(said, record.origin)
    return found


async def tainted_checkpoints(source: Source) -> dict[Learner, list[str]]:
    """Learner -> its tainted checkpoints, the oldest first."""

    async def read_topic(name: str) -> AsyncIterator[Record]:
        async for records in source.read(name):
            for record in records:
                yield record

    runs: dict[Learner, list[TrainingRecorded]] = {}
    async for record in read_topic(TrainingRecorded.topic):
        if kind_of(record.headers) == TrainingRecorded.kind:
            run = read(record, (TrainingRecorded,))
            assert isinstance(run, TrainingRecorded)
            runs.setdefault(run.learner, []).append(run)
    if not any(run.checkpoint for of_one in runs.values() for run in of_one):
        return {}
    back = await taken_back(read_topic, await commanded(read_topic))
    found = {learner: back.tainted(of_one) for learner, of_one in runs.items()}
    return {
        learner: list(
            dict.fromkeys(run.checkpoint for run in runs[learner] if run.checkpoint and run.checkpoint in names)
        )
        for learner, names in found.items()
    }
