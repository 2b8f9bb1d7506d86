"""What an undo would take back, and what stands on it: read from the log, nothing is changed.

Invariant: what an interaction has taught is what its owner's state says, or, where that is forgotten, the sum of its
changes. An answer is derived from what is taken back if a passage of a removed document stood in its prompt, or a
node that only interactions which are taken back have made. With `transitive` those are taken back as well, and what
is derived from them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import orjson

from ruvllm.agents.memory_fold import CHANGES
from ruvllm.errors import InvalidRequest
from ruvllm.schemas.memory import DocumentState, NodeAdded, NodeRetracted, RemoveDocument
from ruvllm.schemas.outcome import Contribution, Judged, ReinforcementState, Retract, Retraction
from ruvllm.schemas.wire import kind_of
from ruvllm.streams.guard import read
from ruvllm.streams.history.naming import interaction_in, maker_in
from ruvllm.streams.history.selection import Asked, Wanted, read_asked
from ruvllm.streams.history.source import Source
from ruvllm.streams.history.taught import taught_by
from ruvllm.streams.records import Record

_NODES = tuple(kind.kind for kind in CHANGES if issubclass(kind, NodeAdded | NodeRetracted))


@dataclass(frozen=True)
class Plan:
    """`retract`: one command an interaction; `remove`: one a document. `derived`: answers that stand on them.

    `before`: interactions that were taken back by an earlier undo. `gone` and `headed_anew`: ids of nodes that no
    interaction is left to have made, and of those that another one now stands for.
    """

    retract: tuple[Retract, ...]
    remove: tuple[RemoveDocument, ...]
    derived: tuple[Asked, ...]
    before: int
    gone: tuple[str, ...]
    headed_anew: tuple[str, ...]

    @property
    def edges(self) -> int:
        """Edges that lose a contribution."""
        return len({edge_id for command in self.retract for edge_id in command.retraction.contributions})

    @property
    def unjudged(self) -> int:
        """Interactions that taught nothing yet: they never will."""
        return sum(command.outcome is None for command in self.retract)

    def __bool__(self) -> bool:
        return bool(self.retract or self.remove)


@dataclass
class _Makers:
    """Of a learnt node: who has ever made it, and who still does."""

    ever: set[str] = field(default_factory=set)
    standing: dict[str, str] = field(default_factory=dict)  # and when, as the log writes it

    @property
    def head(self) -> str:
        """Whose node shows: the earliest."""
        return min(self.standing, key=lambda maker: (datetime.fromisoformat(self.standing[maker]), maker))

    def only(self, interactions: Collection[str]) -> bool:
        return all(maker in interactions for maker in self.standing or self.ever)


async def plan_undo(
    source: Source,
    wanted: Wanted | None,
    *,
    documents: tuple[str, ...] = (),
    tenant: str = "default",
    transitive: bool = False,
    reason: str,
    now: datetime,
) -> Plan:
    """What is to be taken back of the interactions that are `wanted` (none: of none) and of documents.

    Raises InvalidRequest if nothing in the log fits, or if a request id is that of several sessions.
    """
    asking = await read_asked(source, wanted)
    if wanted is not None and (not asking.meant or wanted.interactions - asking.meant):
        raise InvalidRequest(_nothing(wanted, asking.meant), hint="Ids are those of responses; a time has an offset.")
    if wanted is not None and wanted.request is not None and len(asking.meant) > 1:
        sessions = sorted(asking.all[i].session for i in asking.meant)
        raise InvalidRequest(
            f"request {wanted.request} was asked in {len(sessions)} sessions: {', '.join(sessions)}",
            hint="Name one with --session.",
        )
    makers, passages = await _nodes(source, tenant, documents)
    missing = [document for document in documents if document not in passages.values()]
    if missing:
        raise InvalidRequest(
            f"memory has never held document {missing[0]!r} of tenant {tenant}", hint="`ruvllm docs list` names them."
        )
    taken = set(asking.meant)
    while derived := _derived(asking.all.values(), taken, makers, passages):
        if not transitive:
            break
        taken |= {asked.interaction_id for asked in derived}
    last = await _last_outcomes(source, taken | {asked.interaction_id for asked in derived})
    done = {interaction_id for interaction_id, outcome in last.items() if outcome.retraction is not None}
    marked = await _marked(source)
    open_ = [
        asking.all[i]
        for i in sorted(taken - done)
        if i in last or not (i in marked or (asking.all[i].recorded and not asking.all[i].answered))
    ]
    retract = await _commands(source, open_, last, reason, now)
    held = await _documents_held(source, tenant) if documents else set()
    lost = [(node_id, by) for node_id, by in makers.items() if any(m in taken for m in by.standing)]
    return Plan(
        retract=retract,
        remove=tuple(
            RemoveDocument(tenant=tenant, time=now, document_id=document) for document in documents if document in held
        ),
        derived=tuple(
            sorted(
                (asked for asked in derived if asked.interaction_id not in done),
                key=lambda asked: (asked.time, asked.interaction_id),
            )
        ),
        before=len(taken & done) + sum(i in marked and i not in last for i in taken),
        gone=tuple(sorted(node_id for node_id, by in lost if by.only(taken))),
        headed_anew=tuple(sorted(n for n, by in lost if not by.only(taken) and by.head in taken)),
    )


def _nothing(wanted: Wanted, meant: Collection[str]) -> str:
    said = {
        "interaction": ", ".join(sorted(wanted.interactions.difference(meant))),
        "request": wanted.request,
        "session": wanted.session,
        "client": wanted.client,
        "from": wanted.since,
        "to": wanted.until,
    }
    given = ", ".join(f"{name} {value}" for name, value in said.items() if value)
    return f"no interaction of tenant {wanted.tenant} fits: {given}"


async def _nodes(source: Source, tenant: str, documents: tuple[str, ...]) -> tuple[dict[str, _Makers], dict[str, str]]:
    """Node id -> who made it, the earliest first; and node id -> document, of the passages of these documents."""
    makers: dict[str, _Makers] = {}
    passages: dict[str, str] = {}
    names = [orjson.dumps({"document_id": document})[1:-1] for document in documents]
    async for record in _records(source, "memory.changed"):
        value, kind = record.value or b"", kind_of(record.headers)
        if kind not in _NODES:
            continue
        if maker_in(record):
            body = orjson.loads(value)
            by = makers.setdefault(body["node_id"], _Makers())
            if kind == NodeRetracted.kind:
                by.standing.pop(body["made_by"], None)
            else:
                by.ever.add(body["made_by"])
                by.standing[body["made_by"]] = body["time"]
        elif any(name in value for name in names):
            body = orjson.loads(value)
            if body["tenant"] == tenant and body.get("document_id") in documents:
                passages[body["node_id"]] = body["document_id"]
    return makers, passages


def _derived(
    all_asked: Iterable[Asked],
    taken: Collection[str],
    makers: Mapping[str, _Makers],
    passages: Mapping[str, str],
) -> list[Asked]:
    """The answers, not among `taken`, that had in their prompt what is taken back."""
    lost = {node_id for node_id, by in makers.items() if by.only(taken)} | passages.keys()
    return [
        asked
        for asked in all_asked
        if asked.interaction_id not in taken and any(node_id in lost for node_id in asked.context_nodes)
    ]


async def _last_outcomes(source: Source, interactions: Collection[str]) -> dict[str, Judged]:
    """Interaction id -> the outcome in force."""
    last: dict[str, Judged] = {}
    async for record in _records(source, Judged.topic):
        if interaction_in(record) in interactions:
            event = read(record, (Judged,))
            assert isinstance(event, Judged)
            known = last.get(event.interaction_id)
            if known is None or event.revision > known.revision:
                last[event.interaction_id] = event
    return last


async def _marked(source: Source) -> set[str]:
    """The interactions whose retraction was commanded before."""
    return {interaction_in(record) async for record in _records(source, Retract.topic)}


async def _documents_held(source: Source, tenant: str) -> set[str]:
    states: dict[str, DocumentState] = {}
    async for record in _records(source, DocumentState.topic):
        if record.value is not None:
            state = read(record, (DocumentState,))
            assert isinstance(state, DocumentState)
            states[state.record_key] = state
    return {state.document_id for state in states.values() if state.tenant == tenant and not state.removed}


async def _commands(
    source: Source, asked: list[Asked], last: Mapping[str, Judged], reason: str, now: datetime
) -> tuple[Retract, ...]:
    """One for each interaction, with what it has taught."""
    by_key = {one.request_key.encode("utf-8", "surrogatepass"): one.interaction_id for one in asked}
    taught: dict[str, tuple[dict[str, Contribution], tuple[str, ...]]] = {}
    async for record in _records(source, ReinforcementState.topic):
        if record.key in by_key and record.value is None:
            taught.pop(by_key[record.key], None)  # forgotten
        elif record.key in by_key:
            state = read(record, (ReinforcementState,))
            assert isinstance(state, ReinforcementState)
            taught[state.interaction_id] = state.contributions, state.nodes
    forgotten = {one.interaction_id for one in asked if one.interaction_id in last} - taught.keys()
    if forgotten:
        made = [r async for r in _records(source, "memory.changed") if maker_in(r) in forgotten]
        for interaction_id, by in taught_by(read(record, CHANGES) for record in made).items():  # type: ignore[misc]
            taught[interaction_id] = by.contributions, tuple(by.nodes)
    found = []
    for one in asked:
        contributions, nodes = taught.get(one.interaction_id, ({}, ()))
        found.append(
            Retract(
                tenant=one.tenant,
                session=one.session,
                request_id=one.request_id,
                time=now,
                interaction_id=one.interaction_id,
                retraction=Retraction(reason=reason, contributions=contributions, nodes=nodes),
                outcome=last.get(one.interaction_id),
            )
        )
    return tuple(found)


async def _records(source: Source, name: str) -> AsyncIterator[Record]:
    async for records in source.read(name):
        for record in records:
            yield record
