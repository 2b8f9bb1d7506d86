"""Which interactions an undo means, read from their bytes."""

from datetime import timedelta

import pytest

from ruvllm.agents.outbox import Emit
from ruvllm.errors import InvalidRequest
from ruvllm.schemas.flow import interaction_id
from ruvllm.streams.history.naming import interaction_in, maker_in
from ruvllm.streams.history.selection import Wanted, read_asked
from ruvllm.streams.proof.bench_undo import bench_undo
from ruvllm.streams.records import outgoing
from ruvllm.streams.topology import Names
from tests.unit.sample_events import INTERACTION, SAMPLES, TURN

NAMES = Names("t", ("small",), 4)
TENANT = INTERACTION.tenant


class Log:
    """A source of what it was given."""

    def __init__(self, *events):
        self._records = {}
        for event in events:
            self._records.setdefault(event.topic, []).append(outgoing(Emit(event), NAMES, source="test"))

    async def read(self, name, start=None, end=None):
        yield self._records.get(name, [])


def asked(request_id, session="s", client=None, minutes=0, **facts):
    named = interaction_id(TENANT, session, request_id)
    request = INTERACTION.request.model_copy(update={"client": client, **facts})
    time = INTERACTION.time + timedelta(minutes=minutes)
    update = {"session": session, "request_id": request_id, "interaction_id": named, "time": time, "request": request}
    return INTERACTION.model_copy(update=update)


async def meant(wanted, *events):
    found = await read_asked(Log(*events), wanted)
    return sorted(found.all[i].request_id for i in found.meant)


async def test_a_client_is_who_asked_and_not_who_is_spoken_of():
    # given a client, and one whose words and tags name it; when that client is meant; then only its own are
    odd = 'mallory "the\\ second" \u00e9'
    events = (
        asked("a", client=odd),
        asked("b", client="ada", tags={"client": odd}),
        asked("c", tags={"context_nodes": '"client":"mallory"'}),
    )
    assert await meant(Wanted(tenant=TENANT, client=odd), *events) == ["a"]


async def test_time_and_client_must_both_fit_and_tenants_stay_apart():
    # given questions of two clients at minutes 0, 1, 2; when a client's of minute 1 on are meant
    events = [asked(f"{client}{m}", client=client, minutes=m) for client in ("ada", "bob") for m in range(3)]
    wanted = {"client": "ada", "since": INTERACTION.time + timedelta(minutes=1)}
    # then these are; up to minute 2 it is one; and of another tenant none
    assert await meant(Wanted(tenant=TENANT, **wanted), *events) == ["ada1", "ada2"]
    until = INTERACTION.time + timedelta(minutes=2)
    assert await meant(Wanted(tenant=TENANT, **wanted, until=until), *events) == ["ada1"]
    assert await meant(Wanted(tenant="another", **wanted), *events) == []


async def test_what_is_under_way_is_known_by_its_turn_until_it_is_recorded():
    # given a turn without an interaction, and one with; when both sessions' requests are looked at
    session = 'a "quoted"\\session'
    under_way = TURN.model_copy(update={"session": session, "request_id": "r-8"})
    done = asked("r-9", session="t")
    found = await read_asked(Log(under_way, TURN.model_copy(update={"session": "t", "request_id": "r-9"}), done), None)
    # then each is known once, with its own id, and what stood in its prompt
    assert [(a.session, a.recorded, a.answered) for a in found.all.values()] == [
        ("t", True, True),
        (session, False, False),
    ]
    assert found.all[done.interaction_id].context_nodes == INTERACTION.generation.context_nodes


def test_what_bytes_name_is_what_decoding_says():
    # given a record of every kind; when asked whom it names; then it says what its fields say
    for event in SAMPLES:
        record = outgoing(Emit(event), NAMES, source="test")
        assert interaction_in(record) == getattr(event, "interaction_id", None) or not hasattr(event, "interaction_id")
        if hasattr(event, "made_by"):
            assert maker_in(record) == event.made_by


def test_nothing_and_an_empty_range_are_refused():
    # given no criterion, or a range that ends before it starts; then that is said
    with pytest.raises(InvalidRequest, match="nothing is selected"):
        Wanted()
    with pytest.raises(InvalidRequest, match="is empty"):
        Wanted(since=INTERACTION.time, until=INTERACTION.time)


async def test_the_figure_of_undo_is_of_memories_that_are_equal():
    # given a small history; when one client in a hundred is undone; then memory is the fold of the log without it
    found = await bench_undo(120, seed=3)
    assert (found["equal"], found["sizes"]["taken_back"]) == (True, 2)
    assert found["changes_of_undo"] > 0
