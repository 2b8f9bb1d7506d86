"""`ruvllm undo` against running workers: memory becomes the fold of the log without it, once and for good."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from ruvllm.agents.memory_fold import CHANGES, fold
from ruvllm.agents.outbox import Emit
from ruvllm.models.memory.sameness import differences
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import interaction_id
from ruvllm.schemas.memory import MemoryChange
from ruvllm.schemas.request import Ask, Constraints, Rate
from ruvllm.streams.cli import main
from ruvllm.streams.clock import SystemClock
from ruvllm.streams.connection import connected
from ruvllm.streams.guard import read
from ruvllm.streams.history.source import KafkaSource
from ruvllm.streams.history.without import Without
from ruvllm.streams.lineage import learnt_from
from ruvllm.streams.memory_tools.reading import fold_to_end
from ruvllm.streams.proof.cluster import Cluster
from ruvllm.streams.sender import Sender
from ruvllm.streams.wiring import Wiring, names_of

pytestmark = pytest.mark.kafka

Undo = Callable[..., tuple[int, Any]]
SESSION = "undo-session"


@pytest.fixture
def undo(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Undo:
    """Runs the command: its exit status, and its report or its words."""

    def run(*words: str, flags: Mapping[str, str] | None = None) -> tuple[int, Any]:
        sets = [word for name, value in (flags or cluster.all_flags).items() for word in ("--set", f"{name}={value}")]
        monkeypatch.setattr(sys, "argv", ["ruvllm", *sets, "undo", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        status = int(ended.value.code or 0)
        return status, orjson.loads(said.out) if "--json" in words and not status else said.out + said.err

    return run


def taught(cluster: Cluster, request_id: str, client: str, question: str, correction: str) -> str:
    """Let a client ask and correct the answer, and wait until memory has learnt that; the interaction's id."""
    grounding = Constraints(grounding="open")
    ask = Ask(
        time=datetime.now(UTC),
        request_id=request_id,
        session=SESSION,
        client=client,
        prompt=question,
        constraints=grounding,
    )
    named = interaction_id("default", SESSION, request_id)

    async def teach() -> None:
        await send(cluster, ask, Rate(request_id=request_id, session=SESSION, correction=correction))
        await learnt_from(cluster.bootstrap, names_of(cluster.settings), named, by="task")

    asyncio.run(teach())
    return named


async def send(cluster: Cluster, *events: Event) -> None:
    sender = Sender(cluster.bootstrap, names_of(cluster.settings), source="test")
    async with connected(cluster.bootstrap, sender):
        await sender.send([Emit(event) for event in events])


async def differs_from(cluster: Cluster, without: Without) -> list[str]:
    """Where memory, as a worker folds it, is not the fold of the log without some of its effects."""
    wiring = Wiring(cluster.settings, SystemClock())
    memory = (await fold_to_end(cluster.bootstrap, wiring.names, wiring.new_memory, cluster.folder / "none")).memory
    other: Memory = wiring.new_memory()
    kept = without.over(())
    async for records in KafkaSource(cluster.bootstrap, wiring.names).read("memory.changed"):
        for record in records:
            change = read(record, CHANGES)
            assert isinstance(change, MemoryChange)
            if kept.keeps(change):
                fold(other, change, record.offset)
    found = differences(memory.contents(), other.contents(), half_life_s=memory.half_life_s)
    return [str(difference) for difference in found]


def test_what_a_client_has_taught_is_taken_back_while_the_service_runs(cluster: Cluster, undo: Undo) -> None:
    # given what a client has taught the service; when all of that client is undone
    question = "Who oils the hinges of the gate of Marl?"
    first = taught(cluster, "undo-1", "mallory", question, "Bert Oyle oils the hinges of the gate of Marl.")
    status, told = undo("--client", "mallory", "--json")
    # then the report names it, and memory is the fold of the log without it
    assert (status, told["done"], told["interactions"]) == (0, True, [first])
    assert len(told["nodes_gone"]) == 2
    without = Without(frozenset({first}))
    assert asyncio.run(differs_from(cluster, without)) == []
    # and feedback that comes after changes nothing: another of its session is heard, and this is not
    again = Rate(request_id="undo-1", session=SESSION, correction="Bert Oyle, as I said.")
    asyncio.run(send(cluster, again))
    taught(cluster, "undo-2", "ada", "Who paints the gate of Marl?", "Cora Teint paints the gate of Marl.")
    assert asyncio.run(differs_from(cluster, without)) == []
    # and a second undo says that nothing is left
    status, said = undo("--client", "mallory", "--yes")
    assert (status, "nothing is left to take back: 1 interaction taken back before" in said) == (0, True), said


def test_without_a_broker_it_says_so(cluster: Cluster, undo: Undo) -> None:
    # given no broker; when something is to be undone; then the error names it
    flags = {**cluster.all_flags, "kafka.bootstrap_servers": "127.0.0.1:1"}
    status, said = undo("--client", "mallory", "--yes", flags=flags)
    assert (status, "no Kafka broker answers at 127.0.0.1:1" in said) == (2, True), said
