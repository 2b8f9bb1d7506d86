"""Undo through the whole flow, on a serial log: what it takes back, what it names, and that twice is once."""

import asyncio
import sys

import orjson
import pytest

from ruvllm.agents.memory_fold import CHANGES, fold
from ruvllm.models.memory.sameness import differences
from ruvllm.schemas.flow import Turn
from ruvllm.schemas.outcome import Judged
from ruvllm.schemas.request import Ask, Rate
from ruvllm.streams.cli import main
from ruvllm.streams.guard import read
from ruvllm.streams.history.without import Without
from ruvllm.streams.serial import SerialSystem
from ruvllm.streams.settings import load_settings
from tests.manual_clock import ManualClock
from tests.serial.conftest import FLAGS
from tests.serial.island import GOATS, LAMPS, ingest

DOG = "What is the name of the ferryman's dog?"


class Isle:
    """A serial log in a file, the service that is opened on it anew for each step, and the command line beside it."""

    def __init__(self, home, monkeypatch, capsys):
        self.flags = {**FLAGS, "home": str(home)}
        self.file = home / "log.jsonl"
        self.clock = ManualClock()
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.do(lambda system: ingest(system, lamps=LAMPS, goats=GOATS))

    def do(self, work, **options):
        async def opened():
            async with SerialSystem(
                load_settings(self.flags, environ={}), file=self.file, clock=self.clock, **options
            ) as system:
                return await work(system)

        return asyncio.run(opened())

    def ask(self, question, *, client, without=(), **verdict):
        """One question of a client, and what it says of the answer; the interaction's id."""
        ask = Ask(time=self.clock.now(), prompt=question, client=client)
        self.clock.advance(60)

        async def asked(system):
            await system.send(ask)
            await system.run()
            if verdict:
                await system.send(Rate(request_id=ask.request_id, **verdict))
                await system.run()
            return system.responses(ask.request_id)

        responses = self.do(asked, without=without)
        return responses[-1] if responses else ask

    def rate(self, response, **verdict):
        async def rated(system):
            await system.send(Rate(request_id=response.request_id, session=response.session, **verdict))
            await system.run()

        self.do(rated)

    def undo(self, *words):
        """The command: its exit status, and its report or its words."""
        pairs = [word for name, value in self.flags.items() for word in ("--set", f"{name}={value}")]
        self._monkeypatch.setattr(sys, "argv", ["ruvllm", *pairs, "undo", *words, "--serial-log", str(self.file)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._capsys.readouterr()
        return ended.value.code or 0, orjson.loads(said.out) if "--json" in words else said.out + said.err

    def differs_from(self, without):
        """Where memory is not the fold of the log without some of its effects."""

        async def compared(system):
            records = system.log.topics[system.names.topic("memory.changed")]
            changes = [read(record, CHANGES) for record in records]
            kept = without.over(changes)
            other = system.wiring.new_memory()
            for record, change in zip(records, changes, strict=True):
                if kept.keeps(change):
                    fold(other, change, record.offset)
            found = differences(system.memory.contents(), other.contents(), half_life_s=other.half_life_s)
            return [str(difference) for difference in found]

        return self.do(compared)


@pytest.fixture
def isle(tmp_path, monkeypatch, capsys):
    return Isle(tmp_path, monkeypatch, capsys)


def test_what_a_client_has_taught_is_taken_back_once_and_stays_back(isle):
    # given a correction of one client, an answer made from it, and what another client has taught
    first = isle.ask(DOG, client="mallory", correction="The ferryman's dog is called Quill.")
    second = isle.ask(DOG, client="ada")
    isle.ask("Who keeps the great lamp of Vellen?", client="ada", rating=5)
    assert "Quill" in second.text
    # when a dry run looks at it; then nothing has changed
    status, told = isle.undo("--client", "mallory", "--dry-run", "--json")
    assert (status, told["done"], told["interactions"]) == (0, False, [first.interaction_id])
    assert isle.undo("--client", "mallory", "--dry-run", "--json")[1]["taken_back_before"] == 0
    # and when it is carried out; then the node is gone, and the answer that stands on it is named
    status, told = isle.undo("--client", "mallory", "--json")
    assert (status, told["done"], told["interactions"]) == (0, True, [first.interaction_id])
    assert told["nodes_gone"] and [d["interaction_id"] for d in told["derived"]] == [second.interaction_id]
    assert isle.differs_from(Without(frozenset({first.interaction_id}))) == []
    assert "Quill" not in isle.ask(DOG, client="bob").text
    # and feedback that comes after changes nothing, and a second undo finds nothing left
    isle.rate(first, correction="The ferryman's dog is called Quill, truly.")
    assert isle.differs_from(Without(frozenset({first.interaction_id}))) == []
    status, said = isle.undo("--client", "mallory", "--yes")
    assert (status, "nothing is left to take back" in said) == (0, True)


def test_what_stands_on_it_is_taken_back_as_well_if_that_is_wanted(isle):
    # given a correction, and an answer made from it that was rated good
    first = isle.ask(DOG, client="mallory", correction="The ferryman's dog is called Quill.")
    second = isle.ask(DOG, client="ada", rating=5)
    # when it is undone with all that stands on it; then both are, and memory is as without both
    status, told = isle.undo("--request", first.request_id, "--transitive", "--json")
    assert (status, sorted(told["interactions"])) == (0, sorted([first.interaction_id, second.interaction_id]))
    assert (told["derived"], isle.differs_from(Without(frozenset(told["interactions"])))) == ([], [])


def test_a_removed_document_names_the_answers_that_stand_on_it(isle):
    # given an answer from a document; when the document is undone
    answer = isle.ask("Who keeps the great lamp of Vellen?", client="ada", rating=5)
    status, told = isle.undo("--document", "lamps.md", "--json")
    # then it is gone, the answer is named, and memory is as without the document
    assert (status, told["documents"]) == (0, ["lamps.md"])
    assert [d["interaction_id"] for d in told["derived"]] == [answer.interaction_id]
    assert isle.differs_from(Without(documents=frozenset({("default", "lamps.md")}))) == []


def test_what_is_under_way_is_marked_and_never_learnt_from(isle):
    # given a request that nobody has answered yet; when its client is undone, and the service works on
    isle.ask("Who keeps the great lamp of Vellen?", client="mallory", without=("desk",))
    status, told = isle.undo("--client", "mallory", "--json")
    assert (status, told["unjudged"]) == (0, 1)

    async def went_on(system):
        await system.run()
        assert [e for e in system.events("turn.accepted") if isinstance(e, Turn)]
        return len(system.responses()), [e for e in system.events("outcome.judged") if isinstance(e, Judged)]

    # then it is answered, and never judged
    assert isle.do(went_on) == (1, [])
    assert "nothing is left" in isle.undo("--client", "mallory", "--yes")[1]


def test_what_an_owner_has_forgotten_is_taken_back_by_what_the_command_tells(isle):
    # given owners that remember one interaction, and two that were judged
    isle.flags = {**isle.flags, "learning.judged_kept": "1", "learning.learnt_kept": "1", "kafka.partitions": "1"}
    first = isle.ask("Who keeps the great lamp of Vellen?", client="ada", rating=5)
    isle.ask("Whose is the goat Brim?", client="bob", rating=5)
    # when the first is undone; then memory is as without it
    status, told = isle.undo("--interaction", first.interaction_id, "--json")
    assert (status, told["edges"] > 0) == (0, True)
    assert isle.differs_from(Without(frozenset({first.interaction_id}))) == []


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((), "nothing is selected"),
        (("--client", "nobody"), "no interaction of tenant default fits: client nobody"),
        (("--request", "r-9"), "no interaction of tenant default fits: request r-9"),
        (("--document", "fog.md"), "memory has never held document 'fog.md'"),
        (("--client", "a", "--document", "lamps.md"), "selected apart"),
        (("--from", "2031-05-17"), "has no offset"),
        (("--from", "yesterday"), "'yesterday' is not a time"),
        (("--session", "s"), "--session s has no --request"),
    ],
)
def test_a_selection_that_means_nothing_says_so(isle, words, names):
    # given a log; when undo is asked for what is not there; then it says what, and changes nothing
    status, said = isle.undo(*words, "--yes")
    assert (status, names in said) == (2, True), said
