"""What a run of faults has left in the log, counted as a read-committed consumer finds it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ruvllm.agents.memory_fold import CHANGES
from ruvllm.schemas.flow import Interaction, RatingAccepted
from ruvllm.schemas.memory import EdgeContributed, MemoryChange, NodeAdded, PutDocument
from ruvllm.schemas.outcome import Judged, ReinforcementState
from ruvllm.schemas.request import Response
from ruvllm.streams.clock import SystemClock
from ruvllm.streams.guard import read
from ruvllm.streams.history.source import KafkaSource
from ruvllm.streams.log_reader import read_to_end
from ruvllm.streams.proof.cluster import Cluster
from ruvllm.streams.proof.dead_letters import check_dead_letters
from ruvllm.streams.proof.load import Sent, Submission
from ruvllm.streams.proof.undisturbed import Undisturbed, memory_records
from ruvllm.streams.serial import SerialSystem
from ruvllm.streams.topology import Names
from ruvllm.streams.wiring import Wiring

SAME_STRENGTH = 1e-9
SHOWN = 5
COUNTS = ("lost", "answered_twice", "effects_lost", "effects_doubled", "order_inversions", "errors")
"""What is to be 0."""


def amiss(found: Mapping[str, Any]) -> list[str]:
    """What the counts say against the service, and against the run: a plan that was not carried out proves little."""
    short = [
        f"{found['done'].get(name, 0)} of {planned} planned {name} happened"
        for name, planned in found["planned"].items()
        if found["done"].get(name, 0) < planned
    ]
    counts = [f"{name}: {found[name]}" for name in COUNTS if found[name]]
    return short + counts + ([] if found["fold_equal"] else ["memory differs from the serial fold"])


async def count_effects(
    bootstrap: str, cluster: Cluster, sent: Sent, documents: list[PutDocument], *, folders: Iterable[Path], seed: int
) -> dict[str, Any]:
    """What is in the log of a run, against what was sent. `folders`: of the snapshots that workers left."""
    wiring = Wiring(cluster.settings, SystemClock())
    names = wiring.names
    responses = [
        response
        async for record in read_to_end(bootstrap, names.topic("response.completed"))
        if isinstance(response := read(record, (Response,)), Response)
    ]
    interactions: Counter[Submission] = Counter()
    async for record in read_to_end(bootstrap, names.topic("interaction.recorded")):
        interaction = read(record, (Interaction,))
        assert isinstance(interaction, Interaction)
        interactions[interaction.session, interaction.request_id] += 1
    answered = count_responses(responses, sent)
    source = KafkaSource(bootstrap, names)
    records = await memory_records(source)
    changes: list[MemoryChange] = []
    for record in (r for rows in records.values() for r in rows):
        change = read(record, CHANGES)
        assert isinstance(change, MemoryChange)
        changes.append(change)
    judged, states = await _outcomes(bootstrap, names)
    wrong = _outcomes_wrong(changes, judged, states) + await _documents_wrong(cluster, documents, changes)
    undisturbed = Undisturbed(wiring, records)
    differences = [
        *undisturbed.by_interleavings(seed),
        *undisturbed.by_decisions(judged, states),
        *await undisturbed.by_workers(source, folders),
    ]
    letters = await check_dead_letters(bootstrap, names)
    return {
        **answered,
        "effects_lost": sum(interactions[s] == 0 for s in sent.order) + wrong["lost"],
        "effects_doubled": sum(interactions[s] > 1 for s in sent.order) + wrong["doubled"],
        "fold_equal": not differences,
        "poison": letters.poison,
        "dead_letters_repeated": letters.repeated,
        "findings": [*answered["findings"], *differences, *letters.findings[:SHOWN]],
    }


def count_responses(responses: list[Response], sent: Sent) -> dict[str, Any]:
    """One terminal response for each id: lost, answered twice, out of order in their session, errors nobody earned.

    A response that the desk repeats for an id sent again is none of its own, but there are no more of
    them than there were further submissions.
    """
    first: Counter[Submission] = Counter()
    repeated: Counter[Submission] = Counter()
    errors: Counter[str] = Counter()
    order: defaultdict[str, list[Submission]] = defaultdict(list)
    for response in responses:
        submission = response.session, response.request_id
        (repeated if response.repeated else first)[submission] += 1
        if not response.repeated:
            order[response.session].append(submission)
        if response.error is not None and submission not in sent.refused:
            errors[response.error.code] += 1
    wanted = sorted(sent.every)
    lost = [s for s in wanted if not first[s]]
    twice = [s for s in wanted if first[s] > 1 or repeated[s] > max(0, sent.times[s] - 1)]
    inversions = []
    for session, came in order.items():
        once = list(dict.fromkeys(came))
        if once != [s for s in sent.order if s[0] == session and first[s]] and set(once) <= set(sent.order):
            inversions.append(session)
    findings = [f"request {r} of {s} has no response" for s, r in lost[:SHOWN]]
    findings += [
        f"request {r} of {s} has {first[s, r]} responses and {repeated[s, r]} repeated" for s, r in twice[:SHOWN]
    ]
    findings += [f"session {s} was answered out of order" for s in inversions[:SHOWN]]
    findings += [f"the errors are {dict(errors)}"] if errors else []
    return {
        "lost": len(lost),
        "answered_twice": len(twice),
        "order_inversions": len(inversions),
        "errors": sum(errors.values()),
        "findings": findings,
    }


async def _documents_wrong(cluster: Cluster, documents: list[PutDocument], changes: list[MemoryChange]) -> Counter[str]:
    """Passages that an undisturbed serial run of the documents makes and this one has not, or has more than once."""
    added = Counter(c.node_id for c in changes if isinstance(c, NodeAdded) and not c.made_by)
    async with SerialSystem(cluster.settings) as serial:
        await serial.send(*documents)
        await serial.run()
        wanted = {c.node_id for c in serial.events("memory.changed") if isinstance(c, NodeAdded)}
    return Counter(lost=len(wanted ^ added.keys()), doubled=sum(n > 1 for n in added.values()))


async def _outcomes(bootstrap: str, names: Names) -> tuple[list[Judged], dict[str, ReinforcementState]]:
    """All that was judged, and the last record of what was learnt from each interaction."""
    judged = [
        outcome
        async for record in read_to_end(bootstrap, names.topic("outcome.judged"))
        if isinstance(outcome := read(record, (Judged,)), Judged)
    ]
    states: dict[str, ReinforcementState] = {}
    async for record in read_to_end(bootstrap, names.topic("reinforcement.state")):
        if record.value is None:
            continue
        state = read(record, (ReinforcementState,))
        assert isinstance(state, ReinforcementState)
        states[state.interaction_id] = state
    return judged, states


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
    outcomes, states = await _outcomes(bootstrap, names)
    judged = {outcome.interaction_id: outcome for outcome in outcomes}
    done = {i: state.revision for i, state in states.items()}
    return all(
        i in judged and done.get(i, -1) >= judged[i].revision and (request_id not in rated or judged[i].by == "task")
        for i, request_id in answered.items()
    )


def _outcomes_wrong(
    changes: list[MemoryChange], judged: list[Judged], states: Mapping[str, ReinforcementState]
) -> Counter[str]:
    """Contributions that the last states name and memory has not, or has more than once, and judgements likewise."""
    done: defaultdict[tuple[str, str], float] = defaultdict(float)
    for change in changes:
        if isinstance(change, EdgeContributed):
            done[change.made_by, change.edge_id] += change.amount
    wanted = {(i, e): c.amount for i, state in states.items() for e, c in state.contributions.items()}
    revisions = Counter((outcome.interaction_id, outcome.revision) for outcome in judged)
    missing = [key for key in wanted if key not in done]
    other = [key for key, amount in done.items() if abs(amount - wanted.get(key, 0.0)) > SAME_STRENGTH]
    lost = len(missing) + len({i for i, _ in revisions} - states.keys())
    return Counter(lost=lost, doubled=len(other) + sum(n > 1 for n in revisions.values()))
