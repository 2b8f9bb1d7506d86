"""What a run of faults has left in the log, counted as a read-committed consumer finds it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from ruvllm.agents.memory_fold import CHANGES, fold
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.flow import Interaction, RatingAccepted
from ruvllm.schemas.memory import EdgeContributed, MemoryChange, NodeAdded, PutDocument
from ruvllm.schemas.outcome import Judged, ReinforcementState
from ruvllm.schemas.request import Response
from ruvllm.streams.clock import SystemClock
from ruvllm.streams.guard import read
from ruvllm.streams.log_reader import read_to_end
from ruvllm.streams.proof.cluster import Cluster
from ruvllm.streams.serial import SerialSystem
from ruvllm.streams.topology import Names
from ruvllm.streams.wiring import Wiring

SAME_STRENGTH = 1e-9
COUNTS = ("lost", "answered_twice", "effects_lost", "effects_doubled", "order_inversions", "errors")
"""What is to be 0."""


def amiss(found: Mapping[str, Any]) -> list[str]:
    """What the counts say against the service, and against the run: a plan that was not carried out proves little."""
    short = [
        f"{found['done'][name]} of {planned} planned {name} happened"
        for name, planned in found["planned"].items()
        if found["done"][name] < planned
    ]
    counts = [f"{name}: {found[name]}" for name in COUNTS if found[name]]
    return short + counts + ([] if found["fold_equal"] else ["memory differs from the serial fold"])


async def count_effects(
    bootstrap: str, cluster: Cluster, submitted: list[tuple[str, str]], documents: list[PutDocument]
) -> dict[str, Any]:
    """What is in the log of a run, against what was submitted: (session, request id) in order of submission."""
    wiring = Wiring(cluster.settings, SystemClock())
    names = wiring.names
    findings: list[str] = []
    answers: dict[str, list[str]] = defaultdict(list)  # session -> ids in order of response
    errors: Counter[str] = Counter()
    async for record in read_to_end(bootstrap, names.topic("response.completed")):
        response = read(record, (Response,))
        assert isinstance(response, Response)
        answers[response.session].append(response.request_id)
        if response.error is not None:
            errors[response.error.code] += 1
    counted = Counter(r for ids in answers.values() for r in ids)
    ids = [r for _, r in submitted]
    lost = [r for r in ids if counted[r] == 0]
    twice = [r for r in ids if counted[r] > 1]
    inversions = 0
    for session, answered in answers.items():
        order = [r for s, r in submitted if s == session]
        inversions += list(dict.fromkeys(answered)) != [r for r in order if r in set(answered)]
    interactions: Counter[str] = Counter()
    async for record in read_to_end(bootstrap, names.topic("interaction.recorded")):
        interaction = read(record, (Interaction,))
        assert isinstance(interaction, Interaction)
        interactions[interaction.request_id] += 1
    nodes_wrong, fold_equal = await _memory_equal(bootstrap, cluster, names, wiring, documents)
    findings += [f"request {r} has no response" for r in lost[:5]]
    findings += [f"request {r} has {counted[r]} responses" for r in twice[:5]]
    findings += [f"the errors are {dict(errors)}"] if errors else []
    return {
        "lost": len(lost),
        "answered_twice": len(twice),
        "effects_lost": sum(interactions[r] == 0 for r in ids) + nodes_wrong["lost"],
        "effects_doubled": sum(interactions[r] > 1 for r in ids) + nodes_wrong["doubled"],
        "order_inversions": inversions,
        "errors": sum(errors.values()),
        "fold_equal": fold_equal,
        "findings": findings,
    }


async def _memory_equal(
    bootstrap: str, cluster: Cluster, names: Names, wiring: Wiring, documents: list[PutDocument]
) -> tuple[Counter[str], bool]:
    """The memory that the run left: folded in two interleavings, and beside an undisturbed serial run.

    What was learnt from answers is compared with what the owners' state says was done, once each.
    """
    by_partition: dict[int, list[tuple[MemoryChange, int]]] = defaultdict(list)
    async for record in read_to_end(bootstrap, names.topic("memory.changed")):
        change = read(record, CHANGES)
        assert isinstance(change, MemoryChange)
        by_partition[record.partition or 0].append((change, record.offset))
    forwards, backwards = wiring.new_memory(), wiring.new_memory()
    for memory, order in ((forwards, sorted(by_partition)), (backwards, sorted(by_partition, reverse=True))):
        for partition in order:
            for change, offset in by_partition[partition]:
                fold(memory, change, offset)
    changes = [change for rows in by_partition.values() for change, _ in rows]
    added = Counter(c.node_id for c in changes if isinstance(c, NodeAdded) and not c.made_by)
    async with SerialSystem(cluster.settings) as serial:
        await serial.send(*documents)
        await serial.run()
        wanted = {c.node_id for c in serial.events("memory.changed") if isinstance(c, NodeAdded)}
        same = _structure(serial.memory) == _structure(forwards)
    wrong = Counter(lost=len(wanted - added.keys()), doubled=sum(n > 1 for n in added.values()))
    wrong += await _outcomes_wrong(bootstrap, names, changes)
    return wrong, same and wanted == added.keys() and forwards.digest() == backwards.digest()


async def outcomes_carried_out(bootstrap: str, names: Names) -> bool:
    """Whether every answer has an outcome, every rating was heard, and memory has learnt from the last revisions."""
    answered = {
        interaction.interaction_id: interaction.request_id
        async for record in read_to_end(bootstrap, names.topic("interaction.recorded"))
        if isinstance(interaction := read(record, (Interaction,)), Interaction) and interaction.generation
    }
    rated = {
        rating.request_id
        async for record in read_to_end(bootstrap, names.topic("rating.accepted"))
        if isinstance(rating := read(record, (RatingAccepted,)), RatingAccepted)
    }
    judged: dict[str, Judged] = {}
    async for record in read_to_end(bootstrap, names.topic("outcome.judged")):
        outcome = read(record, (Judged,))
        assert isinstance(outcome, Judged)
        judged[outcome.interaction_id] = outcome
    done: dict[str, int] = {}
    async for record in read_to_end(bootstrap, names.topic("reinforcement.state")):
        if record.value is None:
            continue
        state = read(record, (ReinforcementState,))
        assert isinstance(state, ReinforcementState)
        done[state.interaction_id] = state.revision
    return all(
        i in judged and done.get(i, -1) >= judged[i].revision and (request_id not in rated or judged[i].by == "task")
        for i, request_id in answered.items()
    )


async def _outcomes_wrong(bootstrap: str, names: Names, changes: list[MemoryChange]) -> Counter[str]:
    """Contributions that the last states name and memory has not, or has more than once, and judgements likewise."""
    done: defaultdict[tuple[str, str], float] = defaultdict(float)
    for change in changes:
        if isinstance(change, EdgeContributed):
            done[change.made_by, change.edge_id] += change.amount
    states: dict[str, ReinforcementState] = {}
    async for record in read_to_end(bootstrap, names.topic("reinforcement.state")):
        if record.value is None:
            continue
        state = read(record, (ReinforcementState,))
        assert isinstance(state, ReinforcementState)
        states[state.interaction_id] = state
    wanted = {(i, e): c.amount for i, state in states.items() for e, c in state.contributions.items()}
    judged: Counter[tuple[str, int]] = Counter()
    async for record in read_to_end(bootstrap, names.topic("outcome.judged")):
        outcome = read(record, (Judged,))
        assert isinstance(outcome, Judged)
        judged[outcome.interaction_id, outcome.revision] += 1
    missing = [key for key in wanted if key not in done]
    other = [key for key, amount in done.items() if abs(amount - wanted.get(key, 0.0)) > SAME_STRENGTH]
    lost = len(missing) + len({i for i, _ in judged} - states.keys())
    return Counter(lost=lost, doubled=len(other) + sum(n > 1 for n in judged.values()))


def _structure(memory: Memory) -> tuple[set[str], set[str]]:
    """The ids of what documents made."""
    contents = memory.contents()
    return {n.node_id for n in contents.nodes if not n.made_by}, {e.edge_id for e in contents.edges if e.born_at}
