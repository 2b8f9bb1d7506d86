"""What followed from an interaction: how its answer was judged, and what memory learnt from that. Read from the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from ruvllm.agents.memory_fold import CHANGES
from ruvllm.errors import RuvllmError
from ruvllm.schemas.memory import EdgeContributed, MemoryChange, NodeAdded, NodeRetracted
from ruvllm.schemas.outcome import Judged, ReinforcementState
from ruvllm.streams.guard import read
from ruvllm.streams.log_reader import read_to_end
from ruvllm.streams.topology import Names

POLL_S = 0.3


@dataclass(frozen=True)
class Learnt:
    """The outcome in force, the changes of memory that the interaction made, and how far memory must be folded."""

    outcome: Judged
    changes: tuple[MemoryChange, ...]
    offsets: dict[str, int]


async def learnt_from(
    bootstrap: str, names: Names, interaction_id: str, *, by: str | None = None, timeout_s: float = 60.0
) -> Learnt:
    """What an interaction has taught memory, once it was judged (`by` whom: `Judged.by`) and that was carried out.

    Raises RuvllmError if that takes longer than `timeout_s`.
    """
    give_up_at = time.monotonic() + timeout_s
    while True:
        outcomes = [o async for o in _outcomes(bootstrap, names, interaction_id) if by is None or o.by == by]
        if outcomes and await _carried_out(bootstrap, names, interaction_id) >= outcomes[-1].revision:
            return await _learnt(bootstrap, names, outcomes[-1])
        if time.monotonic() > give_up_at:
            raise RuvllmError(
                f"memory has not learnt from {interaction_id} within {timeout_s:.0f} s",
                hint="Is the learn process up? `ruvllm status`.",
            )
        await asyncio.sleep(POLL_S)


async def _outcomes(bootstrap: str, names: Names, interaction_id: str) -> AsyncIterator[Judged]:
    async for record in read_to_end(bootstrap, names.topic("outcome.judged")):
        event = read(record, (Judged,))
        if isinstance(event, Judged) and event.interaction_id == interaction_id:
            yield event


async def _carried_out(bootstrap: str, names: Names, interaction_id: str) -> int:
    """The revision whose effects memory has; -1 for none."""
    revision = -1
    async for record in read_to_end(bootstrap, names.topic("reinforcement.state")):
        if record.value is not None:
            state = read(record, (ReinforcementState,))
            if isinstance(state, ReinforcementState) and state.interaction_id == interaction_id:
                revision = state.revision
    return revision


async def _learnt(bootstrap: str, names: Names, outcome: Judged) -> Learnt:
    changes: list[MemoryChange] = []
    offsets: dict[str, int] = {}
    async for record in read_to_end(bootstrap, names.topic("memory.changed")):
        change = read(record, CHANGES)
        if isinstance(change, NodeAdded | NodeRetracted | EdgeContributed) and change.made_by == outcome.interaction_id:
            changes.append(change)
            offsets[str(record.partition or 0)] = record.offset + 1
    return Learnt(outcome, tuple(changes), offsets)
