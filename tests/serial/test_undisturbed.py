"""The memory that a run left: equal under interleavings and to its decisions carried out once, or the harm is named."""

import asyncio
from collections import defaultdict
from dataclasses import replace

import pytest

from ruvllm.agents.memory_fold import CHANGES
from ruvllm.schemas.memory import EdgeContributed, NodeAdded, PutDocument
from ruvllm.schemas.outcome import Judged, ReinforcementState
from ruvllm.schemas.request import Ask, Rate
from ruvllm.streams.guard import read
from ruvllm.streams.proof.undisturbed import Undisturbed
from ruvllm.streams.serial import SerialSystem
from ruvllm.streams.settings import load_settings

SETTINGS = {"profile": "tiny", "generation.backend": "echo", "retrieval.embedder": "hashing", "retrieval.floor": "0.05"}
TEXT = "# {n}\n\nThe lamp of tower {n} is kept by Mira {n}. She lights it at dusk.\n\nThe boats of {n} come at noon."


@pytest.fixture(scope="module")
def run():
    """A serial run that learnt something, some of it twice over: its wiring, changes, outcomes and states."""

    async def work():
        settings = load_settings(SETTINGS, environ={})
        async with SerialSystem(settings) as system:
            await system.send(*(PutDocument(document_id=f"d{n}", content=TEXT.format(n=n)) for n in range(6)))
            await system.run()
            for number in range(8):
                await system.send(
                    Ask(
                        request_id=f"r{number}",
                        session=f"s{number}",
                        prompt=f"Who keeps the lamp of tower {number % 6}?",
                    )
                )
                await system.run()
                await system.send(Rate(request_id=f"r{number}", session=f"s{number}", rating=number % 5 + 1))
                await system.run()
            records = defaultdict(list)
            for record in system.log.topics[system.names.topic("memory.changed")]:
                records[record.partition or 0].append(record)
            judged = [e for e in system.events("outcome.judged") if isinstance(e, Judged)]
            states = {
                e.interaction_id: e for e in system.events("reinforcement.state") if isinstance(e, ReinforcementState)
            }
            return system.wiring, dict(records), judged, states

    return asyncio.run(work())


def places_of(records, kind):
    return [
        (p, at) for p, rows in records.items() for at, record in enumerate(rows) if type(read(record, CHANGES)) is kind
    ]


def test_an_undisturbed_run_differs_in_nothing(run):
    # given a serial run; when its memory is compared; then there is no difference, and there was something to compare
    wiring, records, judged, states = run
    memory = Undisturbed(wiring, records)
    assert memory.by_interleavings(seed=1) == []
    assert memory.by_decisions(judged, states) == []
    assert any(state.contributions for state in states.values()) and len(records) > 1


def test_a_contribution_that_came_twice_is_found(run):
    # given a run in which one contribution is in the log once more; when compared with its decisions; then it is named
    wiring, records, judged, states = run
    p, at = places_of(records, EdgeContributed)[0]
    again = replace(records[p][at], offset=records[p][-1].offset + 1)
    found = Undisturbed(wiring, {**records, p: [*records[p], again]}).by_decisions(judged, states)
    assert found and "edge" in found[0]


@pytest.mark.parametrize("kind", [EdgeContributed, NodeAdded])
def test_a_change_that_is_lost_is_found(run, kind):
    # given a run from whose log one change of what was learnt is gone; when compared; then it is named
    wiring, records, judged, states = run
    p, at = next((p, at) for p, at in reversed(places_of(records, kind)) if read(records[p][at], CHANGES).made_by)
    left = [*records[p][:at], *records[p][at + 1 :]]
    found = Undisturbed(wiring, {**records, p: left}).by_decisions(judged, states)
    assert found
