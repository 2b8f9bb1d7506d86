"""Loop A through the whole flow: what is said of an answer changes the next one (specification 4.3)."""

import pytest

from ruvllm.schemas.outcome import Judged
from ruvllm.schemas.request import Rate
from ruvllm.streams.serial import SerialSystem
from ruvllm.streams.settings import load_settings
from tests.serial.conftest import FLAGS
from tests.serial.island import GOATS, LAMPS, ingest


@pytest.fixture
async def island(system):
    await ingest(system, lamps=LAMPS, goats=GOATS)
    return system


async def rate(system, response, **verdict):
    await system.send(Rate(request_id=response.request_id, session=response.session, **verdict))
    await system.run()


async def test_learning_updates_memory(island):
    # given what memory holds; when a novel question is answered and its answer is rated the best
    before = island.memory.stats().nodes
    response = await island.ask("Which stars does the keeper count before the lamp is lit?")
    await rate(island, response, rating=5)
    # then memory has grown
    assert island.memory.stats().nodes > before


async def test_a_correction_answers_the_same_question_the_next_time(island):
    # given a question that memory cannot answer, and its correction; when it is asked again
    question = "What is the name of the ferryman's dog?"
    first = await island.ask(question)
    assert "Quill" not in first.text
    await rate(island, first, correction="The ferryman's dog is called Quill.")
    second = await island.ask(question)
    # then the correction is the first source of the answer
    assert "Quill" in second.text
    assert second.sources[0].snippet == "The ferryman's dog is called Quill."
    # and when that is rated bad; then it is a source no longer
    await rate(island, first, correction="Nobody knows.")
    assert "Quill" not in (await island.ask(question)).text


async def test_a_correction_is_not_unlearnt_by_the_answers_that_it_gives(island):
    # given a correction; when the question is asked again and again, and nobody says a word on the answers
    question = "What is the name of the ferryman's dog?"
    await rate(island, await island.ask(question), correction="The ferryman's dog is called Quill.")
    answers = [await island.ask(question) for _ in range(4)]
    # then the correction stays their source, and they are judged by it
    assert ["Quill" in answer.text for answer in answers] == [True] * 4
    last = [e for e in island.events("outcome.judged") if e.request_id == answers[-1].request_id][-1]
    assert last.quality > 0.5
    assert last.served[0].support > 0.5


async def test_an_outcome_is_logged_for_each_answer_and_each_word_on_it(island):
    # given an answer; when it is rated twice; then there are three revisions of one outcome
    response = await island.ask("Who keeps the lamp?")
    await rate(island, response, rating=4)
    await rate(island, response, rating=2)
    outcomes = [e for e in island.events("outcome.judged") if isinstance(e, Judged) and e.by != "log_odds"]
    assert [o.quality for o in outcomes][1:] == [0.75, 0.25]
    assert len({o.interaction_id for o in outcomes}) == 1


async def test_memory_from_the_log_is_what_learning_left(island, open_system, tmp_path):
    # given a system that keeps its log in a file, and has learnt; when another one is opened on that file
    file = tmp_path / "log.jsonl"
    async with open_system(file=file) as learning:
        await ingest(learning, lamps=LAMPS, goats=GOATS)
        for question, verdict in (("Who keeps the lamp?", {"rating": 5}), ("Whose is the goat Brim?", {"score": 0.1})):
            await rate(learning, await learning.ask(question), **verdict)
        digest = learning.memory.digest()
    async with open_system(file=file) as other:
        # then its memory is the same
        assert other.memory.digest() == digest


async def test_a_stage_that_is_stopped_learns_nothing_and_catches_up_later(clock, tmp_path):
    # given a system without the judge, on a log in a file; when a question is answered and rated
    settings = load_settings({**FLAGS, "home": str(tmp_path)}, environ={})
    file = tmp_path / "log.jsonl"
    async with SerialSystem(settings, file=file, clock=clock, without=("judge",)) as stopped:
        await ingest(stopped, lamps=LAMPS)
        await rate(stopped, await stopped.ask("Who keeps the great lamp?"), rating=5)
        assert stopped.events("outcome.judged") == []
        nodes = stopped.memory.stats().nodes
    # and the judge runs again; then it judges what it has missed, and memory learns from it
    async with SerialSystem(settings, file=file, clock=clock) as whole:
        await whole.run()
        assert [e.by for e in whole.events("outcome.judged")][-1] == "task"
        assert whole.memory.stats().nodes > nodes
