"""The log as history on real Kafka: replayed beside live workers, carried to another log, and written anew without."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from ruvllm.agents.outbox import Emit
from ruvllm.schemas.flow import interaction_id
from ruvllm.schemas.ids import new_id
from ruvllm.schemas.request import Ask, Rate, constraints_of
from ruvllm.streams.cli import main
from ruvllm.streams.client import Client
from ruvllm.streams.connection import connected
from ruvllm.streams.history.exported import CARRIED
from ruvllm.streams.history.source import KafkaSource
from ruvllm.streams.lineage import learnt_from
from ruvllm.streams.proof.aftermath import outcomes_carried_out
from ruvllm.streams.proof.cluster import Cluster, remove_topics
from ruvllm.streams.sender import Sender
from ruvllm.streams.topology import Names
from ruvllm.streams.wiring import names_of
from tests.kafka.conftest import FLAGS

pytestmark = pytest.mark.kafka

QUESTION, ANSWER = "Who mends the nets of Quorl Bay?", "Brannoc Tull mends the nets of Quorl Bay."
OTHERS, OTHER = "Who paints the boats of Quorl Bay?", "Senna Voss paints the boats of Quorl Bay."

Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def ruvllm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in an installation: its exit status, what it printed (read, if JSON), its complaints."""

    def run(flags: Mapping[str, str], *words: object) -> tuple[int, Any, str]:
        sets = [word for name, value in flags.items() for word in ("--set", f"{name}={value}")]
        monkeypatch.setattr(sys, "argv", ["ruvllm", *sets, *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        out = orjson.loads(said.out) if "--json" in words and said.out else said.out
        return int(ended.value.code or 0), out, said.err

    return run


@pytest.fixture
def elsewhere(kafka: str) -> Iterator[Cluster]:
    """An installation of which nothing runs yet."""
    with Cluster(kafka, FLAGS) as made:
        yield made
    asyncio.run(remove_topics(kafka, f"{made.prefix}-g2"))


async def taught(cluster: Cluster, client: str, question: str, answer: str) -> None:
    """A client asks, corrects the answer, and memory has learnt from that."""
    names, name = names_of(cluster.settings), f"{client}-{new_id()}"
    sender = Sender(cluster.bootstrap, names, source="test")
    async with connected(cluster.bootstrap, sender):
        grounding = constraints_of({"grounding": "open"})
        asked = Ask(request_id=name, session=name, client=client, prompt=question, constraints=grounding)
        await sender.send([Emit(asked)])
        await sender.send([Emit(Rate(request_id=name, session=name, correction=answer))])
    await learnt_from(cluster.bootstrap, names, interaction_id("default", name, name), by="task")
    await at_rest(cluster)


async def at_rest(cluster: Cluster) -> None:
    give_up_at = time.monotonic() + 60
    while not await outcomes_carried_out(cluster.bootstrap, names_of(cluster.settings)):
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.3)


async def counts(bootstrap: str, names: Names) -> dict[str, int]:
    source = KafkaSource(bootstrap, names)
    return {name: sum([len(batch) async for batch in source.read(name)]) for name in CARRIED}


async def texts(bootstrap: str, names: Names, word: bytes) -> list[str]:
    """The topics of an installation that hold a word."""
    source = KafkaSource(bootstrap, names)
    return [
        name
        for name in CARRIED
        if any([word in (record.value or b"") async for batch in source.read(name) for record in batch])
    ]


async def answered(cluster: Cluster, question: str) -> str:
    async with Client(cluster.bootstrap, settings=cluster.settings) as client:
        return str((await client.ask(question)).text)


def test_a_log_is_replayed_carried_and_written_anew(
    cluster: Cluster, elsewhere: Cluster, ruvllm: Run, tmp_path: Path
) -> None:
    here, there = cluster.all_flags, elsewhere.all_flags
    # given workers that have learnt from two clients; when their log is replayed beside them, in four orders
    asyncio.run(taught(cluster, "senna", OTHERS, OTHER))
    asyncio.run(taught(cluster, "brannoc", QUESTION, ANSWER))
    asked = ("replay", "--verify", "--interleavings", 3, "--into", tmp_path / "replay", "--json")
    status, said, err = ruvllm(here, *asked)
    # then it is the memory that is live, each time
    assert (status, said and said["differences"]) == (0, []), err
    assert said["verified"]["digest"] == said["digests"]["memory"]
    assert [row["equal"] for row in said["interleavings"]] == [True] * 3
    carried_to_an_empty_log(cluster, elsewhere, ruvllm, tmp_path / "log")
    goes_on_without_doing_anything_twice(elsewhere, ruvllm, tmp_path / "log")
    written_anew_without_a_client(elsewhere, ruvllm, there)


def carried_to_an_empty_log(cluster: Cluster, elsewhere: Cluster, ruvllm: Run, folder: Path) -> None:
    # when exported and imported elsewhere; then both logs fold to the same, and it goes into empty topics only
    status, _, err = ruvllm(cluster.all_flags, "log", "export", folder)
    assert status == 0, err
    status, done, err = ruvllm(elsewhere.all_flags, "log", "import", folder, "--json")
    assert status == 0, err
    shown = ruvllm(elsewhere.all_flags, "log", "show", "--json")[1]
    assert {name: row["records"] for name, row in shown.items()} == done["written"]
    assert done["moved"]["memory.changed"]  # transactions leave gaps, a copy has none
    exported = ruvllm(cluster.all_flags, "replay", "--log", folder, "--into", folder / "replay", "--json")[1]
    imported = ruvllm(elsewhere.all_flags, "replay", "--json")[1]
    assert exported["digests"] == imported["digests"]
    assert exported["events"] == imported["events"] > 0
    status, _, err = ruvllm(elsewhere.all_flags, "log", "import", folder)
    assert (status, "is not empty" in err) == (2, True)


def goes_on_without_doing_anything_twice(elsewhere: Cluster, ruvllm: Run, folder: Path) -> None:
    # when a service starts on it and is asked; then it knows what was known, and each old record was handled once
    names = names_of(elsewhere.settings)
    before = asyncio.run(counts(elsewhere.bootstrap, names))
    for process in ("answer", "pool", "learn"):
        elsewhere.spawn(process, process)
    asyncio.run(elsewhere.until_ready())
    assert "Brannoc Tull" in asyncio.run(answered(elsewhere, QUESTION))
    asyncio.run(at_rest(elsewhere))
    after = asyncio.run(counts(elsewhere.bootstrap, names))
    for name in ("request.submitted", "interaction.recorded"):
        assert after[name] == before[name] + 1, name
    assert 1 <= after["outcome.judged"] - before["outcome.judged"] <= 2  # a second word on the one new answer
    for name in ("feedback.submitted", "rating.accepted", "document.submitted", "training.recorded"):
        assert after[name] == before[name], name


def written_anew_without_a_client(elsewhere: Cluster, ruvllm: Run, there: Mapping[str, str]) -> None:
    # when a client is to be erased while the workers run; then they are named
    command = ("log", "rewrite", "--without", "client:brannoc", "--json")
    status, _, err = ruvllm(there, *command)
    assert (status, "are at work" in err, "reinforce" in err) == (2, True, True)
    # and when they are stopped; then nothing of that client is left in any topic, and the other's is
    elsewhere.stop_workers()
    status, said, err = ruvllm(there, *command)
    assert status == 0, err
    new = Names(f"{elsewhere.prefix}-g2", names_of(elsewhere.settings).tiers, elsewhere.settings.kafka.partitions)
    assert said["to_prefix"] == new.prefix
    assert said["derived"]  # the question that was answered from it
    for word in (b"Brannoc", b"brannoc", b"nets of Quorl"):
        assert asyncio.run(texts(elsewhere.bootstrap, new, word)) == []
    assert "memory.changed" in asyncio.run(texts(elsewhere.bootstrap, new, b"Senna Voss"))
    assert any(names_of(elsewhere.settings).topic("memory.changed") == held for held in said["still_holds"])
    generation = {**there, "kafka.prefix": new.prefix}
    assert ruvllm(generation, "replay", "--json")[1]["left_out"] == 0
