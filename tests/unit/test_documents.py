"""The keeper of documents: a command is carried out once, however often it comes, and takes a bounded time."""

import asyncio

import orjson
import pytest

from ruvllm.agents.documents import AT_ONCE, COMMANDS_KEPT, DocumentKeeper
from ruvllm.errors import InvalidConfiguration
from ruvllm.models.embedding import HashingEmbedder
from ruvllm.schemas.flow import Origin
from ruvllm.schemas.memory import DocumentProcessed, DocumentState, MemoryChange, PutDocument, RemoveDocument
from ruvllm.schemas.wire import decode
from ruvllm.streams.guard import read
from ruvllm.streams.records import Record
from ruvllm.streams.settings import load_settings
from ruvllm.streams.stage_app import LONGEST_HANDLER_S
from tests.manual_clock import ManualClock

TOPIC = "ruvllm.document.submitted.v1"


class Life:
    """One document partition: its log of commands, and what was committed of their effects."""

    def __init__(self, **limits):
        self.limits = {"document_chars": 10_000, "document_passages": 50, **limits}
        self.states, self.changes, self.processed = [], [], []
        self.owner_starts()

    def owner_starts(self):
        """A new owner: it knows what the state records say, and nothing else."""
        self.keeper = DocumentKeeper(HashingEmbedder(), ManualClock(), ("default",), **self.limits)
        for state in self.states:
            self.keeper.apply(state)

    def delivers(self, body, offset, partition=3):
        """Deliver a body (a dict or a command) at an offset, commit its effects, and say what became of it."""
        raw = orjson.dumps(body) if isinstance(body, dict) else orjson.dumps(body.model_dump(exclude_none=True))
        headers = {} if isinstance(body, dict) else {"ce_type": f"ruvllm.{body.kind}.v1".encode()}
        record = Record(TOPIC, partition, None, raw, headers, offset)
        outbox = asyncio.run(self.keeper.handle(read(record, (PutDocument, RemoveDocument)), record.origin))
        events = [emit.event for emit in outbox.emits]
        self.states += [e for e in events if isinstance(e, DocumentState)]
        self.changes += [e for e in events if isinstance(e, MemoryChange)]
        if outbox.receipt is None:
            assert not events
            return "nothing"
        self.processed.append(outbox.receipt({}))
        return self.processed[-1].outcome


def put(text, name="lamps.md"):
    """The body of the README: no command id, no time."""
    return {"kind": "document.put", "document_id": name, "content": text}


def remove(name="lamps.md"):
    return {"kind": "document.remove", "document_id": name}


# --- once ---------------------------------------------------------------------------------------------


def test_a_redelivered_command_without_an_id_is_carried_out_once():
    # given the body that the README shows, carried out, and its owner gone before the offset was committed
    life = Life()
    assert life.delivers(put("Osk keeps the lamp."), 7) == "added"
    life.owner_starts()
    # when it is delivered again; then nothing happens
    assert life.delivers(put("Osk keeps the lamp."), 7) == "nothing"
    assert len(life.changes) == len(life.processed) == 1


def test_a_command_without_an_id_has_the_same_id_at_each_delivery():
    # given the same record handled by two owners of which the first one's effects were lost
    lost, life = Life(), Life()
    for each in (lost, life):
        each.delivers(put("# A\n\nOne.\n\n# B\n\nTwo."), 7)
    # then change ids and command id are the same, and another record's are others
    assert [c.change_id for c in life.changes] == [c.change_id for c in lost.changes]
    assert life.processed[0].command_id == lost.processed[0].command_id
    other = Life()
    other.delivers(put("# A\n\nOne.\n\n# B\n\nTwo."), 8)
    assert {c.change_id for c in other.changes}.isdisjoint(c.change_id for c in life.changes)


def test_the_same_content_may_come_again_after_a_removal():
    # given a document put, removed and put again, each without an id
    life = Life()
    commands = [put("Osk keeps the lamp."), remove(), put("Osk keeps the lamp.")]
    assert [life.delivers(c, i) for i, c in enumerate(commands)] == ["added", "removed", "added"]
    # when all three are delivered again to a new owner; then nothing happens
    life.owner_starts()
    assert [life.delivers(c, i) for i, c in enumerate(commands)] == ["nothing"] * 3
    assert not life.states[-1].removed


def test_more_quick_versions_than_ids_are_kept_are_carried_out_once():
    # given more versions of a document than its state names commands, none of them committed as offsets
    life = Life()
    versions = [PutDocument(document_id="lamps.md", content=f"Version {i}.") for i in range(COMMANDS_KEPT + 5)]
    for offset, version in enumerate(versions):
        life.delivers(version, offset)
    before = len(life.changes)
    # when all are delivered again to a new owner; then the last version stays
    life.owner_starts()
    assert {life.delivers(version, offset) for offset, version in enumerate(versions)} == {"nothing"}
    assert len(life.changes) == before


def test_a_command_sent_again_is_carried_out_once():
    # given a sender that sends a command again, with its id, and another command between
    life = Life()
    command = PutDocument(document_id="lamps.md", content="Osk keeps the lamp.", command_id="c-1")
    assert [life.delivers(c, i) for i, c in enumerate([command, remove(), command])] == ["added", "removed", "nothing"]
    # and two records without an id are two commands
    assert [life.delivers(put("New."), i) for i in (3, 4)] == ["added", "unchanged"]


def test_offsets_of_one_partition_say_nothing_of_another():
    # given a document whose commands came on one partition; when one comes on another; then it is carried out
    life = Life()
    life.delivers(put("Osk keeps the lamp."), 100, partition=3)
    assert life.delivers(put("Maru keeps the lamp."), 0, partition=4) == "replaced"
    assert life.delivers(put("Osk keeps the lamp."), 100, partition=3) == "nothing"


def test_the_state_of_an_older_version_is_read():
    # given the state that was written before offsets were; when its commands come again; then they are known
    old = {"time": "2031-05-17T09:00:00Z", "document_id": "lamps.md", "title": "", "content_hash": "x", "embedder": "e"}
    life = Life()
    life.states.append(decode((DocumentState,), orjson.dumps({**old, "commands": ["c-1"]})))
    life.owner_starts()
    assert life.delivers({**put("Osk."), "command_id": "c-1"}, 0) == "nothing"
    assert life.delivers({**put("Osk."), "command_id": "c-2"}, 1) == "replaced"


# --- bounded ------------------------------------------------------------------------------------------


def test_a_document_of_too_many_passages_is_refused_before_any_is_embedded():
    # given a file of many short lines; when put; then it fails, says how many there are and what to do
    life = Life(document_passages=3)
    lines = "\n".join(orjson.dumps({"text": f"Line {i}."}).decode() for i in range(4))
    body = {**put(lines, "lines.jsonl"), "media_type": "application/jsonl"}
    assert life.delivers(body, 0) == "failed"
    (failed,) = life.processed
    assert isinstance(failed, DocumentProcessed)
    assert (failed.fault.code, life.changes) == ("invalid_document", [])
    assert "4 passages, the limit is 3" in failed.fault.message
    assert "Split" in failed.fault.hint
    # and one line less is taken
    assert life.delivers({**body, "content": lines.rsplit("\n", 1)[0]}, 1) == "added"


async def test_a_keeper_that_is_cancelled_has_changed_nothing_and_stops_soon():
    # given an embedder, and a document of many times the passages that it is given at once
    given = []

    class Counting(HashingEmbedder):
        def embed(self, texts):
            given.append(len(texts))
            return super().embed(texts)

    keeper = DocumentKeeper(
        Counting(), ManualClock(), ("default",), document_chars=10**6, document_passages=10 * AT_ONCE
    )
    lines = b"\n".join(orjson.dumps({"text": f"Line {i}."}) for i in range(5 * AT_ONCE)).decode()
    command = PutDocument(document_id="d", content=lines, media_type="application/jsonl", command_id="c")
    origin = Origin(topic=TOPIC, partition=0, offset=0)
    # when it is cancelled at its first passages
    handling = asyncio.create_task(keeper.handle(command, origin))
    while not given:
        await asyncio.sleep(0)
    handling.cancel()
    await asyncio.wait({handling})
    # then most were not embedded, and when the command comes again, it is carried out
    assert sum(given) <= 2 * AT_ONCE
    assert handling.cancelled()
    outbox = await keeper.handle(command, origin)
    assert outbox.receipt({}).added == 5 * AT_ONCE


def test_a_generation_ends_before_a_rebalance_gives_up_on_it():
    # given the longest generation that can be configured; then it is well under what a rebalance waits for
    longest = load_settings({"generation.time_budget_s": "120"}, environ={}).generation.time_budget_s
    assert longest + 10 < LONGEST_HANDLER_S
    with pytest.raises(InvalidConfiguration, match=r"generation\.time_budget_s"):
        load_settings({"generation.time_budget_s": "121"}, environ={})
