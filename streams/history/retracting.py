"""An undo carried out on a service that runs: commands are sent, and waited for until memory has it.

Invariant: nothing is changed but by commands. The owners decide: a command for what they have taken back already
does nothing, and of what they know more than the plan does, their state counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from ruvllm.agents.outbox import Emit
from ruvllm.errors import RuvllmError
from ruvllm.schemas.outcome import JudgementState, ReinforcementState, Retract
from ruvllm.streams.connection import connected
from ruvllm.streams.guard import read
from ruvllm.streams.history.naming import maker_in
from ruvllm.streams.history.source import KafkaSource
from ruvllm.streams.ingest import until_folded
from ruvllm.streams.sender import Sender
from ruvllm.streams.topology import Names

AT_ONCE = 100
POLL_S = 0.3


async def retract(
    bootstrap: str,
    names: Names,
    commands: Iterable[Retract],
    *,
    progress: Callable[[int], None] = lambda _: None,
    timeout_s: float = 600.0,
) -> None:
    """Send the commands; returns when every view of memory has folded what followed. `progress`: so many more are done.

    Raises RuvllmError if that takes longer: the commands stay in the log and are carried out when the service is up.
    """
    given = list(commands)
    source = KafkaSource(bootstrap, names)
    before = {p: end for p, (_, end) in (await source.spans("memory.changed")).items()}
    sender = Sender(bootstrap, names, source="undo")
    async with connected(bootstrap, sender):
        for start in range(0, len(given), AT_ONCE):
            await sender.send([Emit(command) for command in given[start : start + AT_ONCE]])
    waiting = _Waiting(given)
    try:
        async with asyncio.timeout(timeout_s):
            await waiting.until_done(source, progress)
            await until_folded(bootstrap, names, await _reached(source, before, {c.interaction_id for c in given}))
    except TimeoutError as error:
        raise RuvllmError(
            f"{len(waiting)} of {len(given)} retractions are not in memory after {timeout_s:.0f} s",
            hint="They stay in the log. Are the answer and learn processes up? `ruvllm status`.",
        ) from error


class _Waiting:
    """The requests whose owners have not said yet that they are taken back."""

    def __init__(self, commands: Iterable[Retract]) -> None:
        keys: dict[bool, set[bytes]] = {True: set(), False: set()}
        for command in commands:
            keys[command.outcome is None].add(command.request_key.encode("utf-8", "surrogatepass"))
        self._unmarked = keys[True]  # the judge has to hear of those that it has not judged
        self._untaken = keys[False]
        self._places: dict[str, dict[int, int]] = {}

    def __len__(self) -> int:
        return len(self._unmarked) + len(self._untaken)

    async def until_done(self, source: KafkaSource, progress: Callable[[int], None]) -> None:
        while True:
            before = len(self)
            if self._unmarked:
                await self._read_marks(source)
            if self._untaken:
                await self._read_states(source)
            progress(before - len(self))
            if not len(self):
                return
            await asyncio.sleep(POLL_S)

    async def _read_marks(self, source: KafkaSource) -> None:
        """What was not judged is marked; what was judged meanwhile is taken back like all others."""
        places = self._places.setdefault(JudgementState.topic, {})
        async for records in source.read(JudgementState.topic, places):
            for record in records:
                places[record.partition or 0] = record.offset + 1
                if record.key in self._unmarked and record.value is not None:
                    state = read(record, (JudgementState,))
                    assert isinstance(state, JudgementState)
                    if state.retracted:
                        self._unmarked.discard(record.key)
                        if state.outcome is not None:
                            self._untaken.add(record.key)

    async def _read_states(self, source: KafkaSource) -> None:
        places = self._places.setdefault(ReinforcementState.topic, {})
        async for records in source.read(ReinforcementState.topic, places):
            for record in records:
                places[record.partition or 0] = record.offset + 1
                if record.key in self._untaken and record.value is not None:
                    state = read(record, (ReinforcementState,))
                    assert isinstance(state, ReinforcementState)
                    if state.retracted:
                        self._untaken.discard(record.key)


async def _reached(source: KafkaSource, before: dict[int, int], interactions: set[str]) -> dict[str, int]:
    """Partition -> offset up to which memory must be folded to have what these interactions have changed since."""
    offsets: dict[str, int] = {}
    async for records in source.read("memory.changed", before):
        for record in records:
            if maker_in(record) in interactions:
                offsets[str(record.partition or 0)] = record.offset + 1
    return offsets
