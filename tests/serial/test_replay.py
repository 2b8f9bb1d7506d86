"""`ruvllm replay` over a serial log: the same state again, in one go or in several, and runs repeated to the byte."""

from __future__ import annotations

import asyncio
import sys

import orjson
import pytest

from ruvllm.schemas.request import Rate
from ruvllm.streams.cli import main
from ruvllm.streams.history import replay as replaying
from ruvllm.streams.history.ranges import Range
from ruvllm.streams.history.replay import MEMORY, Interrupted, begin
from ruvllm.streams.history.source import SerialSource
from tests.serial.conftest import FLAGS
from tests.serial.island import GOATS, LAMPS, ingest

SMALL = {**FLAGS, "profile": "small", "router.exploration": "0.5", "learning.costly_judge": "false"}
SUBJECTS = ("Osk Arrin", "the great lamp", "the lamp oil", "the mill of Dorr", "the goat Brim", "Ida Tolm")


@pytest.fixture
def ruvllm(monkeypatch, capsys, tmp_path):
    """Runs the command line: its exit status, what it printed as JSON or text, and what it complained of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words):
        given = {**SMALL, "home": str(tmp_path / "home")}
        sets = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
        monkeypatch.setattr(sys, "argv", ["ruvllm", *sets, *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code or 0, orjson.loads(said.out) if "--json" in words and said.out else said.out, said.err

    return run


@pytest.fixture
async def island(open_system, tmp_path):
    """A serial log with documents and some rated answers; what its service knows in the end."""
    async with open_system(file=tmp_path / "log.jsonl", flags=SMALL) as system:
        await ingest(system, lamps=LAMPS, goats=GOATS)
        await rated(system, 12)
        return tmp_path / "log.jsonl", system.memory.digest()


async def rated(system, count, score=lambda n: 0.9 - n % 3 / 3):
    for n in range(count):
        response = await system.ask(f"What is said of {SUBJECTS[n % 6]} in year {n}?", session=f"s-{n}")
        await system.send(Rate(request_id=response.request_id, session=response.session, score=score(n)))
    await system.run()


def test_a_replay_is_the_memory_that_was_live_whatever_the_order_of_partitions(ruvllm, island):
    # given a log; when replayed, and three times more in other orders; then the digest is the live one's each time
    file, digest = island
    status, said, err = ruvllm("replay", "--serial-log", file, "--interleavings", 3, "--json")
    assert status == 0, err
    assert said["digests"]["memory"] == digest
    assert [(row["equal"], row["digest"]) for row in said["interleavings"]] == [(True, digest)] * 3
    assert said["events"] > 0
    assert (said["left_out"], said["differences"], said["in_force"]["attention"]) == (0, [], None)
    # and an exported log gives the same, from the folder where the replay is kept as from the start
    assert ruvllm("log", "export", "carried", "--serial-log", file)[0] == 0
    again = ruvllm("replay", "--log", "carried", "--anew", "--json")[1]
    assert (again["digests"], again["events"]) == (said["digests"], said["events"])
    assert ruvllm("replay", "--log", "carried", "--json")[1]["digests"] == said["digests"]


def test_another_range_or_log_does_not_go_on_where_one_is_kept(ruvllm, island):
    # given a replay that is kept; when another range is asked for; then it is refused, and --anew starts over
    file, digest = island
    assert ruvllm("replay", "--serial-log", file)[0] == 0
    part = ("replay", "--serial-log", file, "--to", "0:3", "--loops", "memory", "--json")
    status, _, err = ruvllm(*part)
    assert (status, "another range: beginning to end, not beginning to 0:3" in err, "--anew" in err) == (2, True, True)
    status, said, err = ruvllm(*part, "--anew")
    assert (status, said["events"]) == (0, 3), err
    assert said["digests"]["memory"] != digest
    # and places do not say where training stood
    status, _, err = ruvllm("replay", "--serial-log", file, "--to", "0:3", "--into", "elsewhere")
    assert (status, "--loops memory" in err) == (2, True)


async def test_a_replay_that_was_broken_off_ends_as_if_it_had_not(island, open_system, tmp_path, monkeypatch):
    # given batches of three, saved after every fourth; when it is stopped at the second and goes on
    file, digest = island
    monkeypatch.setattr("ruvllm.streams.history.source.RECORDS_AT_ONCE", 3)
    async with open_system(flags=SMALL) as system:
        source = SerialSource(file, system.names)
        _, end = await Range().places(source, MEMORY)
        given = (source, tmp_path / "kept", system.wiring.new_memory, Range(), ("beginning", "end"))
        first = await begin(*given, every=4)
        first.advance = lambda _: first.stop.set()
        with pytest.raises(Interrupted):
            await first.fold_to(end)
        assert first.progress.events == 3
        second = await begin(*given, every=4)
        await second.fold_to(end)
        # then nothing was folded twice or left out
        assert second.progress.events == end[0]
        assert second.memory.digest() == digest


def test_the_memory_of_a_replay_in_the_wrong_hands_is_refused(ruvllm, island, tmp_path):
    # given a kept replay whose snapshot was damaged; when it is to go on; then it is refused
    file, _ = island
    ruvllm("replay", "--serial-log", file, "--into", "kept")
    (snapshot,) = (tmp_path / "kept" / "memory").glob("*/edges.jsonl")
    snapshot.write_bytes(b"")
    status, _, err = ruvllm("replay", "--serial-log", file, "--into", "kept")
    assert (status, "fits neither this log nor these settings" in err) == (2, True)


def test_a_snapshot_is_compared_and_the_first_difference_named(ruvllm, island, monkeypatch, tmp_path):
    # given a replay whose memory is a snapshot; when compared; then it is equal
    file, _ = island
    ruvllm("replay", "--serial-log", file, "--into", "kept")
    compare = ("replay", "--serial-log", file, "--snapshot", "kept/memory", "--into", "other", "--json")
    status, said, err = ruvllm(*compare)
    assert (status, said["verified"]["equal"]) == (0, True), err
    # and when the fold of it leaves one change out; then what that made is named, with its last event in the log
    folded = replaying.fold_records
    monkeypatch.setattr(replaying, "fold_records", lambda memory, records: folded(memory, records[1:]))
    status, said, err = ruvllm(*compare, "--anew")
    found = said["verified"]["first_difference"]
    assert (status, said["verified"]["equal"], found["kind"], found["lacks"]) == (1, False, "node", "the replay")
    assert (found["last_event"]["offset"], found["last_event"]["kind"]) == (0, "memory.node_added")
    assert found["id"] in said["differences"][0]


def test_recorded_runs_are_repeated_to_the_byte(open_system, ruvllm, tmp_path):
    # given a router that was trained on a part of what the log holds, and questions after that
    pytest.importorskip("torch")
    file = tmp_path / "runs.jsonl"

    async def live():
        async with open_system(file=file, flags=SMALL) as system:
            await ingest(system, lamps=LAMPS, goats=GOATS)
            await rated(system, 64, lambda _: 0.9)
            recorded = await system.train("router", seed=3)
            await rated(system, 3)
            return recorded, system.routers.current().checkpoint.id

    recorded, in_force = asyncio.run(live())
    # when repeated; then it reads what it read then, and learns the same
    status, said, err = ruvllm("replay", "--serial-log", file, "--retrain", "recorded", "--json")
    (run,) = said["runs"]
    assert (status, run["run_id"], run["equal"]) == (0, recorded.run_id, True), err
    assert (run["recorded"], run["repeated"], run["examples"]) == (recorded.checkpoint, recorded.checkpoint, 64)
    assert recorded.checkpoint is not None
    assert said["in_force"]["router"] == in_force


def test_a_new_run_is_made_of_each_learner_and_nothing_is_published(ruvllm, island):
    # given a log of few answers; when new runs are made over it; then each says what its gate says, and none serves
    pytest.importorskip("torch")
    file, _ = island
    status, said, err = ruvllm("replay", "--serial-log", file, "--retrain", "new", "--seed", 5, "--json")
    assert status == 0, err
    assert [(r["learner"], r["recorded"], r["equal"]) for r in said["runs"]] == [
        ("attention", None, None),
        ("router", None, None),
    ]
    assert [r["verdict"]["passed"] for r in said["runs"]] == [False, False]
    assert said["in_force"]["attention"] is None
