"""The memory that a run left beside the one that it would have left undisturbed.

What is recorded decides: the memory that each surviving worker holds is to be the serial fold of the log up to
where it has come; the fold is to be the same whatever the interleaving of the partitions; and it is to be what
the recorded decisions give when each of them is carried out once (documents: each change by its id; outcomes:
what the last state of each interaction says of its contributions and nodes).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ruvllm.agents.memory_fold import CHANGES, fold
from ruvllm.models.memory.node import Contents
from ruvllm.models.memory.sameness import differences
from ruvllm.models.memory.snapshot import load_latest
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.memory import EdgeContributed, EdgePruned, MemoryChange, NodeAdded, NodeRetracted
from ruvllm.schemas.outcome import Judged, ReinforcementState
from ruvllm.streams.folding import fold_records
from ruvllm.streams.guard import read
from ruvllm.streams.history.source import Source
from ruvllm.streams.records import Record
from ruvllm.streams.wiring import Wiring

INTERLEAVINGS = 3
SHOWN = 3
"""Differences that are named."""


class Undisturbed:
    """The log of a run's memory, and what it is to be equal to."""

    def __init__(self, wiring: Wiring, records: Mapping[int, list[Record]]) -> None:
        """`records`: partition -> records of `memory.changed`, in order."""
        self._wiring = wiring
        self._records = records
        self.serial = self._folded(sorted(records))

    def by_interleavings(self, seed: int) -> list[str]:
        """Where folds in other orders of the partitions differ from the serial one."""
        found = []
        for number in range(INTERLEAVINGS):
            draws = random.Random(f"{seed}:{number}")
            turns = [p for p, rows in sorted(self._records.items()) for _ in rows]
            draws.shuffle(turns)
            places = dict.fromkeys(self._records, 0)
            memory = self._wiring.new_memory()
            for partition in turns:
                fold_records(memory, [self._records[partition][places[partition]]])
                places[partition] += 1
            found += self._differences(f"interleaving {number}", memory, self.serial)
        return found

    def by_decisions(self, judged: Iterable[Judged], states: Mapping[str, ReinforcementState]) -> list[str]:
        """Where the memory differs from what the recorded decisions give, each carried out once.

        `judged`: all outcomes; `states`: interaction -> the last record of what was learnt from it.
        """
        memory = self._wiring.new_memory()
        once = {change.change_id: change for change in self._changes() if _is_kept(change, states)}
        prunings = [change for change in once.values() if isinstance(change, EdgePruned)]
        for change in once.values():
            fold(memory, change)
        for contribution in _last_contributions(judged, states):
            fold(memory, contribution)
        for change in prunings:  # of edges that are known by now
            fold(memory, change)
        made = {(c.made_by, c.node_id) for c in once.values() if isinstance(c, NodeAdded)}
        missing = [
            f"node {n} by {i} is not in the log" for i, s in states.items() for n in s.nodes if (i, n) not in made
        ]
        return missing + self._differences("the decisions carried out once", memory, self.serial)

    async def by_workers(self, source: Source, folders: Iterable[Path]) -> list[str]:
        """Where the memory that a worker left in its folder is not the serial fold up to where it had come."""
        spans = {str(p): span for p, span in (await source.spans("memory.changed")).items()}
        log_id = await source.log_id("memory.changed")
        embedder = self._wiring.embedder
        found = []
        for folder in folders:
            kept = load_latest(folder, log_id=log_id, spans=spans, embedder=embedder.name, dimension=embedder.dimension)
            if kept is None:
                continue
            memory, offsets = kept
            until = {int(p): offset for p, offset in offsets.items()}
            serial = self._folded(sorted(self._records), until)
            found += self._differences(f"the memory of {folder.name}", memory, serial)
        return found

    def _changes(self) -> list[MemoryChange]:
        found = []
        for record in (r for rows in self._records.values() for r in rows):
            change = read(record, CHANGES)
            assert isinstance(change, MemoryChange)
            found.append(change)
        return found

    def _folded(self, order: Iterable[int], until: Mapping[int, int] | None = None) -> Memory:
        memory = self._wiring.new_memory()
        for p in order:
            fold_records(memory, [r for r in self._records[p] if until is None or r.offset < until.get(p, 0)])
        return memory

    def _differences(self, what: str, one: Memory, other: Memory) -> list[str]:
        first: Contents = one.contents()
        found = list(differences(first, other.contents(), half_life_s=one.half_life_s))
        more = [f"{what}: {len(found)} differences in all"] if len(found) > SHOWN else []
        return [f"{what}: {difference}" for difference in found[:SHOWN]] + more


async def memory_records(source: Source) -> dict[int, list[Record]]:
    """Partition -> all records of `memory.changed`."""
    found: defaultdict[int, list[Record]] = defaultdict(list)
    async for batch in source.read("memory.changed"):
        for record in batch:
            found[record.partition or 0].append(record)
    return dict(found)


def _is_kept(change: MemoryChange, states: Mapping[str, ReinforcementState]) -> bool:
    """Whether a change is in force: what documents made, and of what was learnt what the last states name.

    Contributions are not taken from the log: what is left of them stands in the states.
    """
    if isinstance(change, NodeAdded) and change.made_by:
        return change.made_by in states and change.node_id in states[change.made_by].nodes
    return not isinstance(change, EdgeContributed | NodeRetracted)


def _last_contributions(
    judged: Iterable[Judged], states: Mapping[str, ReinforcementState]
) -> Iterator[EdgeContributed]:
    """What each interaction has added to each edge in the end, in one piece."""
    outcomes = {outcome.interaction_id: outcome for outcome in judged}
    for interaction_id, state in states.items():
        outcome = outcomes[interaction_id]
        for edge_id, told in state.contributions.items():
            yield EdgeContributed(
                tenant=state.tenant,
                time=outcome.time,
                change_id=edge_id,
                edge_id=edge_id,
                source=told.source,
                target=told.target,
                relation=told.relation,
                made_by=interaction_id,
                client=outcome.client,
                amount=told.amount,
                outcomes=1,
                evidence=abs(told.amount),
            )
