"""The serial log in a file: what is opened again is what was closed, and a broken file says where."""

import pytest

from ruvllm.errors import InvalidConfiguration
from ruvllm.schemas.memory import NodeAdded
from ruvllm.schemas.request import Ask
from ruvllm.streams import serial
from ruvllm.streams.topology import STAGES
from tests.manual_clock import START
from tests.serial.island import GOATS, LAMPS, forget, ingest, told


@pytest.fixture
def file(tmp_path):
    return tmp_path / "deep" / "log.jsonl"


async def lived(open_system, file):
    """A file with documents that came, changed and went, and a session with two answers."""
    async with open_system(file=file) as system:
        await ingest(system, lamps=LAMPS, goats=GOATS)
        await ingest(system, lamps=LAMPS.replace("rapeseed", "beechnuts"))
        await forget(system, "goats")
        for request_id in ("r-1", "r-2"):
            await system.send(Ask(request_id=request_id, session="tour", prompt="Who keeps the great lamp?"))
            await system.run()
        return system.memory.digest(), told(system)


async def test_a_system_opened_again_has_the_same_memory_and_does_nothing_anew(open_system, file):
    # given a file of an earlier life; when opened again
    digest, said = await lived(open_system, file)
    async with open_system(file=file) as system:
        # then memory is the same, and nothing is left to do
        assert system.memory.digest() == digest
        assert await system.run() == 0
        assert told(system) == said


async def test_a_system_opened_again_knows_its_sessions_answers_and_documents(open_system, file):
    # given a file of an earlier life; when it goes on
    await lived(open_system, file)
    async with open_system(file=file) as system:
        await system.send(Ask(request_id="r-1", session="tour", prompt="Who keeps the great lamp?"))
        await system.run()
        again = await system.ask("And the oil?", session="tour")
        # then an answered id is answered from the store, and the session's history goes on
        assert told(system)[2][1:] == ("r-1", told(system)[0][2], "again")
        admitted = system.events("request.admitted")[-1]
        assert (admitted.request_id, len(admitted.history)) == (again.request_id, 4)
        assert admitted.router_state is not None
        # and a document that is known is not added again
        assert await ingest(system, lamps=LAMPS.replace("rapeseed", "beechnuts")) == ["unchanged"]


async def test_a_deadline_outlives_its_process(open_system, file, clock, monkeypatch):
    # given a request that nobody has served when its process ends
    monkeypatch.setattr(serial, "STAGES", tuple(s for s in STAGES if s.name != "generate"))
    async with open_system(file=file) as system:
        await system.send(Ask(request_id="r-1", prompt="Who?"))
        await system.run()
    # when another opens the log after the deadline; then it is answered
    clock.advance(120)
    async with open_system(file=file) as system:
        await system.run()
        assert told(system) == [("r-1", "r-1", "deadline_exceeded")]


@pytest.mark.parametrize("cut", [2, 10])
async def test_a_file_that_is_cut_in_its_last_line_says_so(open_system, file, cut):
    # given a file whose last line was not written whole
    digest, said = await lived(open_system, file)
    whole = file.read_bytes()
    lines = whole.count(b"\n")
    file.write_bytes(whole[:-cut])
    # when opened; then the error names file and line, and what to do
    with pytest.raises(InvalidConfiguration, match=rf"log\.jsonl, line {lines} is not JSON") as caught:
        open_system(file=file)
    assert "delete it" in caught.value.hint
    # and when that is done, the log is worked through from its last commit, and nobody is answered twice
    file.write_bytes(whole[: whole[:-1].rfind(b"\n") + 1])
    async with open_system(file=file) as system:
        assert await system.run() > 0
        assert told(system) == said
        assert system.memory.digest() == digest


async def test_a_file_that_is_cut_before_its_last_lines_end_goes_on(open_system, file):
    # given a file of which only the last line's end is missing; when opened twice and used
    digest, said = await lived(open_system, file)
    file.write_bytes(file.read_bytes()[:-1])
    for _ in range(2):
        async with open_system(file=file) as system:
            # then nothing is lost, and what is written next has a line of its own
            assert (system.memory.digest(), told(system)) == (digest, said)
            await system.run()


async def test_a_log_of_another_embedder_is_refused(open_system, file):
    # given a log with a node of another embedder; when opened; then the error names both and what to do
    async with open_system(file=file) as system:
        await ingest(system, lamps=LAMPS)
        node = next(e for e in system.events("memory.changed") if isinstance(e, NodeAdded))
        await system.send(node.model_copy(update={"embedder": "another"}))
    with pytest.raises(InvalidConfiguration, match=r"embedded by 'another', this memory holds 'hashing-v1-384'"):
        open_system(file=file)


async def test_a_log_in_memory_leaves_no_file(open_system, tmp_path):
    # given a system without a file; when it has worked; then nothing was written
    async with open_system() as system:
        await ingest(system, lamps=LAMPS)
        await system.ask("Who keeps the great lamp?")
        assert system.clock.now() == START
    assert list(tmp_path.iterdir()) == []
