"""Which checkpoints are tainted: they have learnt from an answer that was taken back since.

Invariant: a run is tainted if it has read an outcome, or its credit, and not yet that it was taken back; or if the
checkpoint that it went on from is. So a run over the log of today never is, unless its parent is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ruvllm.schemas.flow import Origin
from ruvllm.schemas.outcome import CandidatesCredited, Judged
from ruvllm.schemas.training import CheckpointChosen, TrainingRecorded


@dataclass(frozen=True)
class _Told:
    """Where in its partition an answer was first spoken of, and where it was taken back."""

    partition: str
    first: int
    back: int | None = None


class Learnt(Protocol):
    """The fold of one learner's events: its runs, its choices, the checkpoints kept, and the one that serves."""

    @property
    def runs(self) -> Sequence[TrainingRecorded]: ...

    @property
    def chosen(self) -> Sequence[CheckpointChosen]: ...

    @property
    def serving(self) -> str | None: ...

    def packed(self, checkpoint: str | None) -> bytes | None: ...


class TakenBack:
    """Of these interactions, where their outcomes and credits stand in the log."""

    def __init__(self, interactions: Collection[str]) -> None:
        self._interactions = frozenset(interactions)
        self._told: dict[tuple[str, str], _Told] = {}  # topic and interaction

    def take(self, event: Judged | CandidatesCredited, at: Origin) -> None:
        """Fold what was said of an answer, each partition in its order. Other interactions change nothing."""
        if event.interaction_id not in self._interactions:
            return
        is_back = event.retracted if isinstance(event, CandidatesCredited) else event.retraction is not None
        told = self._told.setdefault((event.topic, event.interaction_id), _Told(str(at.partition), at.offset))
        if is_back and told.back is None:
            self._told[event.topic, event.interaction_id] = replace(told, back=at.offset)

    @property
    def is_settled(self) -> bool:
        """Whether all that was said of them has been taken back by now."""
        return all(told.back is not None for told in self._told.values())

    def tainted(self, runs: Sequence[TrainingRecorded]) -> frozenset[str]:
        """The checkpoints of these runs (the oldest first) that are tainted."""
        found: set[str] = set()
        for run in runs:
            if run.checkpoint is None:
                continue
            if run.parent in found or self._read_by(run.offsets):
                found.add(run.checkpoint)
            else:
                found.discard(run.checkpoint)  # learnt again, without it
        return frozenset(found)

    def _read_by(self, offsets: Mapping[str, Mapping[str, int]]) -> bool:
        for (topic, _), told in self._told.items():
            end = offsets.get(topic, {}).get(told.partition, 0)
            if told.back is not None and told.first < end <= told.back:
                return True
        return False


def untainted_parent(learnt: Learnt, tainted: Collection[str]) -> tuple[str, bytes] | None:
    """Name and bytes of what a run may go on from: what serves, or its newest ancestor that is not tainted."""
    parents = {run.checkpoint: run.parent for run in learnt.runs}
    name = learnt.serving
    while name in tainted:
        name = parents.get(name)
    packed = learnt.packed(name)
    return None if name is None or packed is None else (name, packed)


def untainted_before(learnt: Learnt, tainted: Collection[str]) -> str | None:
    """The newest checkpoint that was in force, is kept and is not tainted; None for what has learnt nothing."""
    names = (choice.checkpoint for choice in reversed(learnt.chosen))
    return next((n for n in names if n is not None and n not in tainted and learnt.packed(n) is not None), None)
