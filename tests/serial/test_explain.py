"""`ruvllm explain` over a whole flow: the story of an answer, from its log alone."""

import asyncio
import sys
from io import StringIO

import orjson
import pytest
from rich.console import Console

from ruvllm.errors import InvalidRequest
from ruvllm.schemas.flow import Interaction
from ruvllm.schemas.outcome import Retract, Retraction
from ruvllm.schemas.request import Ask, Rate
from ruvllm.schemas.training import TrainingRecorded, Verdict
from ruvllm.streams.cli import main
from ruvllm.streams.cli.telling import print_story
from ruvllm.streams.history.asked import find_asked
from ruvllm.streams.history.gathering import tell
from ruvllm.streams.history.source import SerialSource
from tests.serial.conftest import FLAGS
from tests.serial.island import GOATS, LAMPS, forget, ingest

QUESTION = "Who keeps the great lamp of Vellen?"


async def ask(system, prompt=QUESTION, **fields):
    """Ask as a client of a name; the response."""
    command = Ask(time=system.clock.now(), prompt=prompt, **fields)
    await system.send(command)
    await system.run()
    return system.responses(command.request_id)[-1]


async def rate(system, response, **verdict):
    await system.send(Rate(request_id=response.request_id, session=response.session, **verdict))
    await system.run()


async def retract(system, response, reason):
    """What `ruvllm undo` sends for an interaction."""
    asked = next(e for e in system.events("interaction.recorded") if e.interaction_id == response.interaction_id)
    same = {name: getattr(asked, name) for name in ("tenant", "session", "request_id", "interaction_id")}
    await system.send(Retract(**same, time=system.clock.now(), retraction=Retraction(reason=reason)))
    await system.run()


@pytest.fixture
async def island(open_system, tmp_path):
    """A log in a file: two documents, a question of ann's that is rated, and the same one again by bob."""
    async with open_system(file=tmp_path / "log.jsonl") as system:
        await ingest(system, lamps=LAMPS, goats=GOATS)
        first = await ask(system, client="ann")
        await rate(system, first, rating=5, comment="just so")
        second = await ask(system, client="bob")
        yield system, first, second


async def story_of(system, tmp_path, request_id, **named):
    system.log.commit(system.log.positions)  # to the disk
    source = SerialSource(tmp_path / "log.jsonl", system.names)
    return await tell(source, *await find_asked(source, request_id, **named))


async def test_a_story_holds_every_part_of_an_answer(island, tmp_path):
    # given an answer that was rated; when its story is told
    system, first, _ = island
    story = await story_of(system, tmp_path, first.request_id)
    # then the question, the sources in order, the route and the generation are the interaction's
    told = story.as_json()
    assert told["request"]["question"] == QUESTION
    assert told["request"]["client"] == "ann"
    assert told["answer"] == first.text
    assert [s.node_id for s in story.sources][: len(first.sources)] == [s.node_id for s in first.sources]
    assert story.sources[0].document_id == "lamps.md"
    route = next(e for e in system.events("interaction.recorded") if isinstance(e, Interaction)).route
    assert story.route.arms == route.arms
    assert (story.route.probability, story.route.explored, story.route.lineage) == (route.probability, False, ())
    assert told["generation"]["prompt_version"]
    assert "generate" in told["latency_ms"]
    # and both verdicts with their reasons, the feedback, and what memory learnt from it
    assert [(v.revision, v.by) for v in story.verdicts][-1] == (len(story.verdicts) - 1, "task")
    assert story.verdicts[-1].quality == 1.0
    assert [r.comment for r in story.feedback] == ["just so"]
    assert {lesson.kind for lesson in story.lessons} >= {"memory.node_added", "memory.edge_contributed"}
    assert story.credit
    assert story.retraction is None


async def test_a_later_answer_names_the_interaction_whose_edge_brought_its_source(island, tmp_path):
    # given a question that was asked and rated before; when the story of its second answer is told
    system, first, second = island
    story = await story_of(system, tmp_path, second.request_id)
    # then an edge from the question asked before led to the first source, and says who taught it what
    (edge,) = [e for e in story.sources[0].edges if e.relation == "answered_by"]
    assert edge.alike == pytest.approx(1.0, abs=1e-3)
    taught = [c for c in edge.contributions if c.amount]
    assert {(c.by.interaction_id, c.by.client, c.by.question) for c in taught} == {
        (first.interaction_id, "ann", QUESTION)
    }
    # and the weight is that of memory at that moment
    live = system.memory.edge("default", edge.edge_id)
    assert edge.weight == pytest.approx(system.memory.weight_of(live, system.clock.now().timestamp()), abs=0.02)
    # while the first answer stood on nothing learnt
    assert all(
        not s.edges or s.edges[0].birth.document_id
        for s in (await story_of(system, tmp_path, first.request_id)).sources
    )


async def test_structural_edges_name_the_document_they_were_born_with(open_system, tmp_path):
    # given two passages of one document, of which the question is like one only; when the other is led to by an edge
    flags = {"retrieval.floor": "0.35"}
    async with open_system(file=tmp_path / "log.jsonl", flags=flags) as system:
        await ingest(system, lamps=LAMPS)
        response = await ask(system, "Osk Arrin keeps the great lamp of Vellen and lights it at dusk?")
        story = await story_of(system, tmp_path, response.request_id)
    # then its story says which document made the edge
    births = [e.birth for s in story.sources for e in s.edges]
    assert [b.document_id for b in births] == ["lamps.md"] * len(births) != []
    assert all(b.by is None and b.weight == 0.5 for b in births)


async def test_what_was_taken_back_is_told_of_the_answer_and_of_those_that_stand_on_it(island, tmp_path):
    # given two answers, the second by what the first had taught; when the first is retracted
    system, first, second = island
    await retract(system, first, "ann was wrong")
    # then its own story says when and why, and that it was carried out
    told = (await story_of(system, tmp_path, first.request_id)).retraction
    assert (told.reason, told.carried_out, told.at is not None) == ("ann was wrong", True, True)
    # and the other's says that it stands on it
    story = await story_of(system, tmp_path, second.request_id)
    assert story.retraction is None
    assert [m.interaction_id for m in story.stands_on_retracted] == [first.interaction_id]
    assert story.stands_on_retracted[0].retracted.reason == "ann was wrong"


async def test_a_source_that_is_gone_since_says_so(island, tmp_path):
    # given an answer from a document; when the document is removed; then the story says so of its source
    system, first, _ = island
    assert (await story_of(system, tmp_path, first.request_id)).sources[0].since is None
    await forget(system, "lamps")
    assert (await story_of(system, tmp_path, first.request_id)).sources[0].since is not None


async def test_an_unknown_request_or_one_of_several_sessions_is_an_error_that_helps(island, tmp_path):
    # given a log; when a request is asked for that nobody sent; then ids like it are named
    system, first, _ = island
    with pytest.raises(InvalidRequest) as raised:
        await story_of(system, tmp_path, first.request_id[:-1] + "?")
    assert first.request_id in raised.value.hint
    # and when two sessions have asked under one id; then they are named, and a session chooses
    for session in ("a", "b"):
        await ask(system, session=session, request_id="same")
    with pytest.raises(InvalidRequest) as raised:
        await story_of(system, tmp_path, "same")
    assert "--session a" in raised.value.message
    assert "--session b" in raised.value.message
    assert (await story_of(system, tmp_path, "same", session="b")).interaction.session == "b"


def held_back(system):
    """The record of a run of the ranker that has read the log to its present end."""
    ends = {}
    for name in ("interaction.recorded", "candidates.credited"):
        ends[name] = {str(r.partition): r.offset + 1 for r in system.log.topics[system.names.topic(name)]}
    verdict = Verdict(passed=False, gain=0.0, questions=1)
    known = {"time": system.clock.now(), "learner": "attention", "run_id": "run-1", "seed": 1, "seconds": 1.0}
    return TrainingRecorded(**known, offsets=ends, examples=1, verdict=verdict)


async def test_a_run_says_whether_it_has_read_the_answer(open_system, tmp_path):
    # given a judged answer; when a run has read the log to its end, and another question is asked
    async with open_system(file=tmp_path / "log.jsonl") as system:
        await ingest(system, lamps=LAMPS)
        first = await ask(system)
        await rate(system, first, rating=5)
        await system.send(held_back(system))
        second = await ask(system)
        # then the run has read the first answer and not the second
        assert [(r.run.learner, r.read) for r in (await story_of(system, tmp_path, first.request_id)).runs] == [
            ("attention", True)
        ]
        assert [r.read for r in (await story_of(system, tmp_path, second.request_id)).runs] == [False]


def run(monkeypatch, capsys, *words):
    flags = [word for name, value in FLAGS.items() for word in ("--set", f"{name}={value}")]
    monkeypatch.setattr(sys, "argv", ["ruvllm", *flags, *map(str, words)])
    try:
        main()
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_command_prints_the_story_and_its_json(island_file, monkeypatch, capsys):
    # given a log in a file; when explained by the command line; then people and machines read the same story
    file, first, second = island_file
    status, out, err = run(monkeypatch, capsys, "explain", second, "--serial-log", file)
    assert status == 0, err
    for part in (QUESTION, "sources, from memory below", "answered_by", "client ann", "route: ", "judged:", "learnt"):
        assert part in out
    status, out, _ = run(monkeypatch, capsys, "explain", second, "--serial-log", file, "--json")
    found = orjson.loads(out)
    assert found["request"]["request_id"] == second
    assert found["sources"][0]["edges"][0]["contributions"][0]["by"]["request_id"] == first
    # and an unknown one ends in a line
    status, _, err = run(monkeypatch, capsys, "explain", "nobody", "--serial-log", file)
    assert (status, "no interaction of a request nobody" in err) == (2, True)


@pytest.fixture
def island_file(open_system, tmp_path):
    async def make():
        async with open_system(file=tmp_path / "log.jsonl") as system:
            await ingest(system, lamps=LAMPS, goats=GOATS)
            first = await ask(system, client="ann")
            await rate(system, first, rating=5)
            return first.request_id, (await ask(system, client="bob")).request_id

    first, second = asyncio.run(make())
    return tmp_path / "log.jsonl", first, second


async def test_a_request_that_failed_has_a_story_too(open_system, clock, tmp_path):
    # given a request that nobody retrieves for until its deadline has passed; when its story is told
    async with open_system(file=tmp_path / "log.jsonl", without=("retrieve",)) as system:
        command = Ask(time=clock.now(), prompt=QUESTION)
        await system.send(command)
        await system.run()
        clock.advance(86_400.0)
        await system.run()
        story = await story_of(system, tmp_path, command.request_id)
    # then it says in which stage and why, and that it stood on nothing
    told = story.as_json()
    assert told["fault"]["code"] == "deadline_exceeded"
    assert (told["answer"], told["sources"], told["route"], told["outcomes"]) == (None, (), None, ())
    print_story(Console(file=(out := StringIO())), story)
    assert "failed in desk" in out.getvalue()
