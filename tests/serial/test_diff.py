"""`ruvllm diff`: the very edge and the very event that moved a candidate between two askings."""

import asyncio
from dataclasses import replace

import numpy as np
import orjson
import pytest

from ruvllm.errors import InvalidRequest
from ruvllm.models.attention.graph_attention import Shape, initial
from ruvllm.models.attention.packing import pack_parameters
from ruvllm.models.memory.snapshot import save
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.schemas.training import CheckpointPublished
from ruvllm.streams.history.asked import find_asked
from ruvllm.streams.history.checkpoints import UNTRAINED
from ruvllm.streams.history.comparing import Comparing
from ruvllm.streams.history.gathering import tell
from ruvllm.streams.history.moments import MemoryThen, moment_of
from ruvllm.streams.history.source import SerialSource
from ruvllm.streams.wiring import Wiring
from tests.serial.island import GOATS, LAMPS, ingest
from tests.serial.test_explain import ask, rate, retract, run

FERRY = "What is the name of the ferryman's dog?"


class Told:
    """A log in a file on which a question was asked, its answer corrected, and the same question asked again."""

    def __init__(self, system, file, first, second):
        self.system, self.file, self.first, self.second = system, file, first, second

    def comparing(self):
        self.system.log.commit(self.system.log.positions)  # to the disk
        source = SerialSource(self.file, self.system.names)
        return source, Comparing(source, Wiring(self.system.settings, self.system.clock), None)

    async def askings(self, first, second):
        source, comparing = self.comparing()
        asked = [(await find_asked(source, response.request_id))[1] for response in (first, second)]
        return await comparing.askings(*asked)


@pytest.fixture
async def told(open_system, clock, tmp_path):
    file = tmp_path / "log.jsonl"
    async with open_system(file=file) as system:
        await ingest(system, lamps=LAMPS, goats=GOATS)
        first = await ask(system, FERRY, client="ann")
        await rate(system, first, correction="The ferryman's dog is called Quill.")
        clock.advance(86_400.0)
        yield Told(system, file, first, await ask(system, FERRY, client="bob"))


async def test_a_difference_names_the_edge_and_the_event_that_moved_a_candidate(told):
    # given a question asked before its answer was corrected and after; when the two askings are compared
    found = await told.askings(told.first, told.second)
    # then both are found again as the log has them, and the correction came first
    assert (found.before.as_recorded, found.after.as_recorded) == (True, True)
    come = next(c for c in found.candidates if "Quill" in c.text)
    assert (come.rank.before, come.rank.after, come.served.after) == (None, 1, True)
    # by the edge from the question to it, which was nothing before and weighs something now
    (edge,) = [e for e in found.edges if e.edge_id in come.edges]
    assert (edge.relation, edge.target, edge.weight.before) == ("answered_by", come.node_id, None)
    source, _ = told.comparing()
    explained = (await tell(source, *await find_asked(source, told.second.request_id))).sources[0]
    assert [(e.edge_id, e.weight) for e in explained.edges] == [(edge.edge_id, pytest.approx(edge.weight.after))]
    # and by the event of ann's interaction, at its place in the log
    (event,) = edge.events
    assert (event.by.interaction_id, event.by.client, event.by.question) == (told.first.interaction_id, "ann", FERRY)
    changes = told.system.log.topics[told.system.names.topic("memory.changed")]
    assert edge.edge_id.encode() in changes[event.place.offset].value
    assert event.amount > 0


async def test_the_same_two_the_other_way_round_take_the_event_back(told):
    # given the two askings; when compared from the later to the earlier; then what had come is gone, by the same event
    there, back = await told.askings(told.first, told.second), await told.askings(told.second, told.first)
    gone = next(c for c in back.candidates if "Quill" in c.text)
    assert (gone.rank.before, gone.rank.after) == (1, None)
    assert {e.place for edge in back.edges for e in edge.events} == {
        e.place for edge in there.edges for e in edge.events
    }


async def test_a_retraction_is_named_as_what_moved_an_edge_back(told):
    # given a corrected question; when the correction is retracted and the question asked a third time
    await retract(told.system, told.first, "it was a joke")
    third = await ask(told.system, FERRY)
    found = await told.askings(told.second, third)
    # then the answer has left memory, by the retraction of ann's interaction
    gone = next(c for c in found.candidates if "Quill" in c.text)
    assert (gone.rank.before, gone.rank.after) == (1, None)
    assert [(e.kind, e.by.interaction_id, e.by.retracted.reason) for e in gone.events] == [
        ("memory.node_retracted", told.first.interaction_id, "it was a joke")
    ]


async def test_a_question_at_two_moments_by_places(told):
    # given a log; when a question is compared between the places of its two askings
    source, comparing = told.comparing()
    now = told.system.clock.now()
    before, after = [
        await moment_of(source, f"0:{response.memory_offsets['0']}", "--from", now)
        for response in (told.first, told.second)
    ]
    found = await comparing.moments(FERRY, "default", before, after)
    # then it is the difference of the two askings, and the route is that of the untrained router at both
    same = await told.askings(told.first, told.second)
    assert [(c.node_id, c.rank) for c in found.candidates] == [(c.node_id, c.rank) for c in same.candidates]
    assert [e.edge_id for e in found.edges] == [e.edge_id for e in same.edges]
    assert found.before.route.checkpoint == found.after.route.checkpoint
    # and from the beginning all that is known has come
    empty = await comparing.moments(FERRY, "default", await moment_of(source, "beginning", "--from", now), after)
    assert all(c.rank.before is None for c in empty.candidates)
    assert empty.candidates


async def test_other_questions_and_other_checkpoints_are_refused(told):
    # given two askings of different questions; when compared; then both are named
    other = await ask(told.system, "Who keeps the great lamp?")
    with pytest.raises(InvalidRequest, match="great lamp"):
        await told.askings(told.first, other)
    # and checkpoints that nobody published are refused
    source, comparing = told.comparing()
    moment = await moment_of(source, "end", "--to", told.system.clock.now())
    for names in (("untrained", "untrained"), ("untrained", "ckpt-none")):
        with pytest.raises(InvalidRequest):
            await comparing.checkpoints(FERRY, "default", moment, names)


async def test_the_nearest_snapshot_is_one_that_is_not_beyond_the_place(told, tmp_path):
    # given snapshots of memory at two places; when memory is asked for at a place between them
    source, _ = told.comparing()
    wiring = Wiring(told.system.settings, told.system.clock)
    (end,) = [last for _, last in (await source.spans("memory.changed")).values()]
    log_id = await source.log_id("memory.changed")
    for offset in (3, end):
        then = await MemoryThen.at(source, {0: offset}, wiring.new_memory, None)
        save(then.memory, {"0": offset}, tmp_path / "state" / "worker", log_id=log_id, name="test")
    # then it is folded from the first, and is what a fold from the beginning gives
    found = await MemoryThen.at(source, {0: end - 1}, wiring.new_memory, tmp_path / "state")
    assert found.snapshot == tmp_path / "state" / "worker"
    whole = await MemoryThen.at(source, {0: end - 1}, wiring.new_memory, None)
    assert found.memory.digest() == whole.memory.digest() != told.system.memory.digest()
    # and before the first there is none
    assert (await MemoryThen.at(source, {0: 2}, wiring.new_memory, tmp_path / "state")).snapshot is None


async def test_the_command_prints_a_difference_and_its_json(told, monkeypatch, capsys):
    # given two askings in a file; when compared by the command line (in a thread: it has a loop of its own)
    told.comparing()
    words = ("diff", told.first.request_id, told.second.request_id, "--serial-log", told.file)
    status, out, err = await asyncio.to_thread(run, monkeypatch, capsys, *words)
    assert status == 0, err
    for part in ("rank none -> 1", "answered_by", "client ann", "found again as recorded", "route: "):
        assert part in out
    status, out, _ = await asyncio.to_thread(run, monkeypatch, capsys, *words, "--json")
    assert orjson.loads(out)["edges"][0]["events"][0]["by"]["request_id"] == told.first.request_id
    # and without two sides it says what it takes
    status, _, err = await asyncio.to_thread(run, monkeypatch, capsys, "diff", "one", "--serial-log", told.file)
    assert (status, "--question" in err) == (2, True)


async def test_two_rankers_and_two_routers_over_one_memory(told):
    # given a ranker and a router that were published; when each is compared with what has learnt nothing
    untrained = told.system.wiring.untrained_router.checkpoint
    bias = untrained.parameters.head_bias + np.float32(1.0)
    router = Checkpoint(untrained.arms, replace(untrained.parameters, head_bias=bias))
    facts = {"time": told.system.clock.now(), "run_id": "run"}
    draws = np.random.default_rng(3)
    moved = {name: p + 0.3 * draws.standard_normal(p.shape) for name, p in initial(Shape(), 3).items()}
    ranker = pack_parameters(moved, Shape())
    await told.system.send(
        CheckpointPublished(**facts, learner="router", checkpoint=router.id, parameters=router.packed()),
        CheckpointPublished(**facts, learner="attention", checkpoint="ckpt-3", parameters=ranker),
    )
    source, comparing = told.comparing()
    moment = await moment_of(source, f"0:{told.second.memory_offsets['0']}", "--to", told.system.clock.now())
    of_routers = await comparing.checkpoints(FERRY, "default", moment, (UNTRAINED, router.id))
    # then the routes differ by the checkpoint and by what it expects, and no candidate has moved
    before, after = of_routers.before.route, of_routers.after.route
    assert (before.checkpoint, after.checkpoint) == (untrained.id, router.id)
    assert after.expected["quality"] > before.expected["quality"]
    assert of_routers.route_because == (f"another checkpoint: {untrained.id} -> {router.id}",)
    assert of_routers.candidates == of_routers.because == ()
    # and the rankers put other candidates first, which no event explains
    of_rankers = await comparing.checkpoints(FERRY, "default", moment, (UNTRAINED, "ckpt-3"))
    assert of_rankers.candidates
    assert of_rankers.because[0] == "another ranker: none -> ckpt-3"
    assert not any(edge.events for edge in of_rankers.edges)
    # and one of each kind cannot be compared
    with pytest.raises(InvalidRequest, match="one learner"):
        await comparing.checkpoints(FERRY, "default", moment, (router.id, "ckpt-3"))
