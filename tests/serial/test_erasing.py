"""What goes when somebody is erased: all that holds a word of theirs, and what was learnt or answered from it."""

from __future__ import annotations

import pytest

from ruvllm.errors import InvalidRequest
from ruvllm.schemas.request import Ask, Rate, constraints_of
from ruvllm.schemas.training import CheckpointChosen, CheckpointPublished, TrainingRecorded, Verdict
from ruvllm.streams.history.erasing import Wanted, plan
from ruvllm.streams.history.exported import CARRIED
from ruvllm.streams.history.source import SerialSource
from tests.manual_clock import START
from tests.serial.island import GOATS, LAMPS, ingest, produce

SECRET = "Brannoc Tull mends the nets of Quorl Bay."
OPEN = constraints_of({"grounding": "open"})


async def ask(system, name, question, client, session=None, correction=None):
    session = session or name
    await system.send(
        Ask(time=system.clock.now(), request_id=name, session=session, client=client, prompt=question, constraints=OPEN)
    )
    await system.run()
    if correction:
        await system.send(Rate(request_id=name, session=session, correction=correction))
        await system.run()


def run_of(offset, run_id, checkpoint, parent=None):
    facts = {"time": START, "learner": "router"}
    recorded = TrainingRecorded(
        **facts,
        run_id=run_id,
        offsets={"outcome.judged": {str(p): offset for p in range(16)}},
        seed=1,
        parent=parent,
        examples=1,
        verdict=Verdict(passed=True, gain=1.0, questions=1),
        checkpoint=checkpoint,
        seconds=0.0,
    )
    published = CheckpointPublished(**facts, checkpoint=checkpoint, run_id=run_id, parameters=b"?")
    return recorded, published, CheckpointChosen(**facts, checkpoint=checkpoint, reason=run_id)


@pytest.fixture
async def source(open_system, tmp_path):
    """The log of a client who taught something, and of others who were there before, beside and after."""
    file = tmp_path / "log.jsonl"
    async with open_system(file=file) as system:
        await ingest(system, lamps=LAMPS, goats=GOATS)
        await ask(system, "before", "Who keeps the great lamp of Vellen?", "senna")
        judged = len(system.events("outcome.judged"))
        await system.send(*run_of(judged, "run-before", "c1"))
        await ask(system, "taught", "Who mends the nets of Quorl Bay?", "brannoc", "shared", SECRET)
        await ask(system, "beside", "Where is the oil of Vellen pressed?", "senna", "shared")
        await ask(system, "after", "Who mends the nets of Quorl Bay?", "senna")
        await system.send(*run_of(judged + 1, "run-after", "c2", "c1"), *run_of(judged, "run-on", "c3", "c2"))
        produce(system, b"not JSON, of brannoc")
        await system.run()
    return SerialSource(file, system.names)


async def left(source, erasure):
    """By topic what is copied, as text."""
    return {
        name: [
            made.value.decode("utf-8", "replace")
            async for batch in source.read(name)
            for record in batch
            if (made := erasure.edit(name, record)) is not None and made.value is not None
        ]
        for name in CARRIED
    }


async def test_nothing_that_is_left_holds_a_word_of_an_erased_client(source):
    # given such a log; when the client is erased; then no record in it names what was said, not even as history
    erasure = await plan(source, Wanted("default", clients=frozenset({"brannoc"})))
    kept = await left(source, erasure)
    for word in ("Quorl", "brannoc", "Brannoc"):
        assert [name for name, rows in kept.items() if any(word in row for row in rows)] == []
    # and who was answered from it goes as well, the others stay
    assert len(erasure.derived) == 1
    assert sorted(key.rpartition("\x1f")[2] for key in erasure.request_keys) == ["after", "taught"]
    assert len(kept["interaction.recorded"]) == 2
    assert any("Osk Arrin" in row for row in kept["memory.changed"])


async def test_runs_that_read_it_go_and_those_that_went_on_from_them(source):
    # given a run before, one after, and one whose parent is that one; when erased; then the first is left
    erasure = await plan(source, Wanted("default", clients=frozenset({"brannoc"})))
    assert erasure.runs == {"run-after", "run-on"}
    assert erasure.checkpoints == {"c2", "c3"}
    kept = await left(source, erasure)
    assert len(kept["training.recorded"]) == 3
    assert all('"c1"' in row for row in kept["training.recorded"])


async def test_a_document_goes_with_its_passages_and_its_commands(source):
    # given documents; when one is erased; then its words are nowhere, and answers from it are gone
    erasure = await plan(source, Wanted("default", documents=frozenset({"lamps.md"})))
    kept = await left(source, erasure)
    assert [name for name, rows in kept.items() if any("rapeseed" in row for row in rows)] == []
    assert len(kept["document.submitted"]) == len(kept["document.state"]) == 1
    assert any("Brim" in row for row in kept["memory.changed"])


@pytest.mark.parametrize("kind", ["interactions", "requests", "documents", "clients"])
async def test_what_the_log_does_not_hold_is_refused(source, kind):
    # given a name that nobody has; when it is to go; then that is said, with the name
    with pytest.raises(InvalidRequest, match=f"no {kind[:-1]} nobody of tenant default"):
        await plan(source, Wanted("default", **{kind: frozenset({"nobody"})}))
