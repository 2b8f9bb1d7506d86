"""The log without what somebody has the right to have erased: which records go, and what follows from them.

Invariant: no record that is left holds what goes. With an interaction go all records of its request, what it has
made of memory, and, closed under derivation, every answer that was given from a passage that only it has made; with a
document go its commands, its passages, and the answers given from them. In what is left of its session the history
is empty. Runs that read any of it go with their checkpoints and those that went on from them: what serves is then
what was in force before, until the next run. What cannot be decoded goes if it names what goes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ruvllm.errors import InvalidRequest, RuvllmError
from ruvllm.schemas.event import Event, RequestEvent, session_key
from ruvllm.schemas.flow import Interaction, SessionState
from ruvllm.schemas.memory import DocumentCommand, DocumentState, MemoryChange, NodeAdded
from ruvllm.schemas.outcome import JudgementState
from ruvllm.schemas.request import Ask, Rate
from ruvllm.schemas.training import CheckpointChosen, CheckpointPublished, TrainingRecorded
from ruvllm.schemas.wire import encode
from ruvllm.streams.guard import read
from ruvllm.streams.history.source import Source
from ruvllm.streams.history.without import Filter, Without
from ruvllm.streams.records import Record
from ruvllm.streams.topology import topic

LEARNT_FROM = ("interaction.recorded", "outcome.judged", "candidates.credited")

Passages = frozenset[tuple[str, str]]
"""Node id and text: a node that several made is one of theirs as long as it says what they said."""


@dataclass(frozen=True)
class Wanted:
    """What is to go: interactions by id, requests by id, documents by id, clients by name; of one tenant."""

    tenant: str
    interactions: frozenset[str] = frozenset()
    requests: frozenset[str] = frozenset()
    documents: frozenset[str] = frozenset()
    clients: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Asked:
    """What is kept of an interaction while it is decided."""

    request_key: str
    session_key: str
    passages: Passages


@dataclass(frozen=True)
class Erasure:
    """What goes. `derived`: interactions that were not named and go because of what they were answered from."""

    wanted: Wanted
    interactions: frozenset[str]
    derived: frozenset[str]
    request_keys: frozenset[str]
    sessions: frozenset[str]
    memory: Filter
    runs: frozenset[str] = frozenset()
    checkpoints: frozenset[str] = frozenset()
    _needles: tuple[bytes, ...] = field(default=())

    def edit(self, name: str, record: Record) -> Record | None:
        """A record as it is copied; None if it goes."""
        if record.value is None:
            key = (record.key or b"").decode("utf-8", "surrogatepass")
            return None if key in self.request_keys | self.sessions else record
        try:
            event = read(record, topic(name).events)
        except RuvllmError:
            return None if any(needle in record.value for needle in self._needles) else record
        if not self._keeps(event):
            return None
        emptied = self._without_history(event)
        return record if emptied is event else replace(record, value=encode(emptied))

    def _keeps(self, event: Event) -> bool:
        goes = False
        match event:
            case MemoryChange():
                goes = not self.memory.keeps(event)
            case DocumentCommand() | DocumentState():
                goes = event.tenant == self.wanted.tenant and event.document_id in self.wanted.documents
            case Ask() | Rate():
                goes = key_of(event) in self.request_keys or self._is_of_a_client(event)
            case SessionState():
                goes = event.partition_key in self.sessions
            case RequestEvent():
                goes = event.request_key in self.request_keys
            case TrainingRecorded() | CheckpointPublished():
                goes = event.run_id in self.runs
            case CheckpointChosen():
                goes = event.checkpoint in self.checkpoints
        return not goes

    def _is_of_a_client(self, event: Ask | Rate) -> bool:
        return isinstance(event, Ask) and event.tenant == self.wanted.tenant and event.client in self.wanted.clients

    def _without_history(self, event: Event) -> Event:
        if isinstance(event, Interaction) and event.partition_key in self.sessions and event.history:
            return event.model_copy(update={"history": ()})
        if isinstance(event, JudgementState) and event.interaction is not None:
            emptied = self._without_history(event.interaction)
            return event if emptied is event.interaction else event.model_copy(update={"interaction": emptied})
        return event


def key_of(event: Ask | Rate) -> str:
    """As `RequestEvent.request_key`."""
    return f"{session_key(event.tenant, event.session or event.request_id)}\x1f{event.request_id}"


async def plan(source: Source, wanted: Wanted) -> Erasure:
    """What goes with what is wanted gone. Raises InvalidRequest if the log holds nothing of one of its names."""
    keys = await _asks(source, wanted)
    asked, named = await _interactions(source, wanted, keys)
    gone, derived = await _derived(source, wanted, asked, named)
    keys = keys | {asked[i].request_key for i in gone}
    erasure = Erasure(
        wanted=wanted,
        interactions=gone,
        derived=derived,
        request_keys=frozenset(keys),
        sessions=frozenset({asked[i].session_key for i in gone} | {key.rpartition("\x1f")[0] for key in keys}),
        memory=await _memory(source, wanted, gone),
        _needles=tuple(n.encode() for n in (*wanted.clients, *wanted.documents, *gone, *_ids(keys))),
    )
    return await _with_runs(source, erasure)


def _ids(keys: frozenset[str] | set[str]) -> Iterator[str]:
    return (key.rpartition("\x1f")[2] for key in keys)


async def _events(source: Source, name: str) -> list[tuple[Record, Event]]:
    """Of a topic, as far as they can be read."""
    found = []
    async for batch in source.read(name):
        for record in batch:
            if record.value is not None:
                try:
                    found.append((record, read(record, topic(name).events)))
                except RuvllmError:
                    continue
    return found


async def _asks(source: Source, wanted: Wanted) -> frozenset[str]:
    """The keys of what the clients have asked, and of requests by their ids."""
    keys, seen = set(), set()
    for _, event in await _events(source, "request.submitted"):
        if not isinstance(event, Ask) or event.tenant != wanted.tenant:
            continue
        if event.client in wanted.clients or event.request_id in wanted.requests:
            keys.add(key_of(event))
            seen |= {event.client or "", event.request_id}
    _refuse("client", wanted.clients - seen, wanted)
    _refuse("request", wanted.requests - seen, wanted)
    return frozenset(keys)


async def _interactions(
    source: Source, wanted: Wanted, keys: frozenset[str]
) -> tuple[dict[str, _Asked], frozenset[str]]:
    """Every interaction of the tenant, and which of them are named."""
    asked: dict[str, _Asked] = {}
    named = set()
    for _, event in await _events(source, "interaction.recorded"):
        if not isinstance(event, Interaction) or event.tenant != wanted.tenant:
            continue
        passages = event.retrieval.passages if event.retrieval else ()
        served = frozenset((p.node_id, p.text) for p in passages)
        asked[event.interaction_id] = _Asked(event.request_key, event.partition_key, served)
        if event.request_key in keys or event.interaction_id in wanted.interactions:
            named.add(event.interaction_id)
    _refuse("interaction", wanted.interactions - asked.keys(), wanted)
    return asked, frozenset(named)


def _refuse(kind: str, unknown: frozenset[str] | set[str], wanted: Wanted) -> None:
    if unknown:
        raise InvalidRequest(
            f"the log holds no {kind} {min(unknown)} of tenant {wanted.tenant}", hint="Look at its name, and --tenant."
        )


async def _derived(
    source: Source, wanted: Wanted, asked: dict[str, _Asked], named: frozenset[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """All that go, and those of them that only go because of what they were answered from."""
    said: dict[str, set[tuple[str, str]]] = defaultdict(set)  # by interaction
    of_documents: set[tuple[str, str]] = set()
    others: set[tuple[str, str]] = set()
    documents: set[str] = set()
    for _, event in await _events(source, "memory.changed"):
        if not isinstance(event, NodeAdded) or event.tenant != wanted.tenant:
            continue
        passage = event.node_id, event.text
        if event.made_by:
            said[event.made_by].add(passage)
        elif event.document_id in wanted.documents:
            of_documents.add(passage)
            documents.add(event.document_id or "")
        else:
            others.add(passage)
    _refuse("document", wanted.documents - documents, wanted)
    gone = set(named)
    while True:
        left = others.union(*(passages for maker, passages in said.items() if maker not in gone))
        passages = of_documents.union(*(said[maker] for maker in gone if maker in said)) - left
        more = {i for i, one in asked.items() if i not in gone and one.passages & passages}
        if not more:
            return frozenset(gone), frozenset(gone - named)
        gone |= more


async def _memory(source: Source, wanted: Wanted, gone: frozenset[str]) -> Filter:
    without = Without(gone, frozenset((wanted.tenant, name) for name in wanted.documents))
    changes = await _events(source, "memory.changed") if wanted.documents else []
    return without.over([event for _, event in changes if isinstance(event, MemoryChange)])


async def _with_runs(source: Source, erasure: Erasure) -> Erasure:
    """And the runs that read something of it, or went on from one that did."""
    first: dict[str, dict[str, int]] = {name: {} for name in LEARNT_FROM}
    for name in LEARNT_FROM:
        async for batch in source.read(name):
            for record in batch:
                if erasure.edit(name, record) is None:
                    first[name].setdefault(str(record.partition or 0), record.offset)
    runs: set[str] = set()
    checkpoints: set[str] = set()
    for _, event in await _events(source, "training.recorded"):
        if isinstance(event, TrainingRecorded):
            read_it = any(
                first.get(name, {}).get(p, at) < at for name, place in event.offsets.items() for p, at in place.items()
            )
            if read_it or event.parent in checkpoints:
                runs.add(event.run_id)
                checkpoints |= {event.checkpoint} if event.checkpoint else set()
    return replace(erasure, runs=frozenset(runs), checkpoints=frozenset(checkpoints))
