"""`ruvllm bench undo`: one client's part of a history taken back, beside a fold of the log without it.

A history is generated as the service would write it: questions of a hundred clients on a few subjects, answers from
passages, outcomes and revisions carried out by reinforce itself. Then one client in a hundred is undone: what the
plan takes, what the owner takes, what memory takes to fold what followed; and what a fold of the filtered log takes.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from ruvllm.agents.outbox import Emit
from ruvllm.agents.reinforce import Reinforcement, ReinforcementRules
from ruvllm.errors import InvalidRequest
from ruvllm.models.embedding import HashingEmbedder
from ruvllm.models.memory.sameness import differences
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import Candidates, Generation, Interaction, Origin, Request, Retrieval, interaction_id
from ruvllm.schemas.ids import content_id
from ruvllm.schemas.memory import MemoryChange, NodeAdded
from ruvllm.schemas.outcome import Judged, Served
from ruvllm.schemas.request import Message
from ruvllm.streams.folding import fold_records
from ruvllm.streams.guard import read
from ruvllm.streams.history.selection import Wanted
from ruvllm.streams.history.source import Place, Spans
from ruvllm.streams.history.undo import plan_undo
from ruvllm.streams.history.without import Without
from ruvllm.streams.proof.report import report
from ruvllm.streams.records import Record, outgoing
from ruvllm.streams.topology import Names, topic

CLIENTS = 100
SUBJECTS = 400
PASSAGES = 500
REVISED = 0.1
"""Share of the answers that are judged a second time."""
GRAPH_BYTES = 8_000
"""Of the candidates in an interaction's record."""
START = datetime(2026, 1, 1, tzinfo=UTC)
_PLACE = Origin(topic="outcome.judged", partition=0, offset=0)


class _Held:
    """A log in this process, one partition a topic: a source of history, and what reinforce sees of memory."""

    in_one_order = True

    def __init__(self, memory: Memory) -> None:
        self.names = Names("bench", ("small",), 1)
        self.topics: dict[str, list[Record]] = {}
        self.memory = memory
        self._folded = 0

    def offsets(self) -> Mapping[str, int]:
        return {"0": self._folded}

    async def log_id(self, name: str) -> str:
        return f"bench/{name}"

    async def spans(self, name: str) -> Spans:
        return {0: (0, len(self.topics.get(name, [])))}

    async def place_at(self, name: str, time: datetime) -> dict[int, int]:
        raise InvalidRequest("the records of this log have no times", hint="Give an offset.")

    async def read(
        self, name: str, start: Place | None = None, end: Place | None = None, only: Collection[int] | None = None
    ) -> AsyncIterator[list[Record]]:
        yield self.topics.get(name, [])[(start or {}).get(0, 0) : (end or {}).get(0)]

    def write(self, *emits: Emit) -> None:
        for emit in emits:
            made = outgoing(emit, self.names, source="bench")
            records = self.topics.setdefault(emit.event.topic, [])
            records.append(Record(made.topic, 0, made.key, made.value, made.headers, len(records)))

    def fold(self) -> None:
        """Take in what is new of memory."""
        records = self.topics.get("memory.changed", [])
        fold_records(self.memory, records[self._folded :])
        self._folded = len(records)

    def now(self) -> datetime:
        """As a clock: that of the last outcome."""
        return self.time

    time = START


async def bench_undo(interactions: int, *, seed: int) -> dict[str, Any]:
    """One row: seconds by step, the ratio to the fold of the filtered log, and whether both memories are equal."""
    embedder = HashingEmbedder()
    log = _Held(Memory(embedder.name, embedder.dimension))
    keeper = Reinforcement(log, embedder, log, ReinforcementRules())
    for event in _passages(embedder):
        log.write(Emit(event))
    log.fold()
    draws = random.Random(seed)
    passages = sorted(node.node_id for node in log.memory.contents().nodes)
    for number in range(interactions):
        for event in _interaction(number, draws, embedder, passages):
            log.write(Emit(event))
            if isinstance(event, Judged):
                log.time = event.time
                log.write(*(await keeper.handle(event, _PLACE)).emits)
        log.fold()
    changes = len(log.topics["memory.changed"])

    started = time.perf_counter()
    plan = await plan_undo(log, Wanted(client="client-0"), reason="bench", now=log.time)
    plan_s = time.perf_counter() - started

    started = time.perf_counter()
    for command in plan.retract:
        said = command.outcome
        assert said is not None
        last = said.model_copy(update={"revision": said.revision + 1, "retraction": command.retraction})
        log.write(Emit(last), *(await keeper.handle(last, _PLACE)).emits)
    owner_s = time.perf_counter() - started

    started = time.perf_counter()
    log.fold()
    take_in_s = time.perf_counter() - started

    records = log.topics["memory.changed"]
    kept = _filtered(records[:changes], frozenset(command.interaction_id for command in plan.retract))
    other = Memory(embedder.name, embedder.dimension)
    started = time.perf_counter()
    fold_records(other, kept)
    without_s = time.perf_counter() - started

    found = list(differences(log.memory.contents(), other.contents(), half_life_s=other.half_life_s))
    return report(
        "ruvllm bench undo",
        seed=seed,
        sizes={"interactions": interactions, "taken_back": len(plan.retract), "changes": changes},
        results={
            "changes_of_undo": len(records) - changes,
            "plan_s": round(plan_s, 4),
            "owner_s": round(owner_s, 4),
            "take_in_s": round(take_in_s, 4),
            "fold_without_s": round(without_s, 4),
            "times_faster": round(without_s / take_in_s, 1),
            "times_faster_with_plan_and_owner": round(without_s / (plan_s + owner_s + take_in_s), 1),
            "equal": not found,
            "differences": [str(difference) for difference in found[:5]],
        },
    )


def _filtered(records: list[Record], interactions: frozenset[str]) -> list[Record]:
    kinds = topic("memory.changed").events
    kept = Without(interactions).over(())
    events = ((record, read(record, kinds)) for record in records)
    return [record for record, event in events if isinstance(event, MemoryChange) and kept.keeps(event)]


def _passages(embedder: HashingEmbedder) -> Iterable[Event]:
    texts = [
        f"Passage {n} says of subject{n % SUBJECTS} what is known of it in place{n % 37}." for n in range(PASSAGES)
    ]
    for number, (text, vector) in enumerate(zip(texts, embedder.embed(texts), strict=True)):
        yield NodeAdded(
            time=START,
            change_id=content_id("ch", str(number)),
            node_id=f"n-{number}",
            title=f"Of {number}",
            text=text,
            document_id=f"d{number // 10}.md",
            embedder=embedder.name,
            vector=vector,
        )


def _interaction(number: int, draws: random.Random, embedder: HashingEmbedder, passages: list[str]) -> Iterable[Event]:
    """The record of one request, its outcome, and for some a revision of that."""
    subject = draws.randrange(SUBJECTS)
    question = f"What is known of subject{subject} in place{draws.randrange(40)}?"
    (vector,) = embedder.embed([question])
    at = START + timedelta(minutes=number)
    request_id = f"r-{number}"
    ids = {"session": f"s-{number}", "request_id": request_id, "time": at}
    named = interaction_id("default", f"s-{number}", request_id)
    served = draws.sample(passages, 4)
    client = f"client-{number % CLIENTS}"
    graph = np.random.default_rng(number).bytes(GRAPH_BYTES)
    yield Interaction(
        **ids,
        interaction_id=named,
        request=Request(
            messages=(Message(role="user", content=question),), client=client, submitted_at=at, origin=_PLACE
        ),
        retrieval=Retrieval(
            query_vector=vector,
            embedder=embedder.name,
            candidates=Candidates(node_ids=tuple(served), graph=graph, likeness=0.5),
        ),
        generation=Generation(
            text=f"It is known, {number}.",
            confidence=0.9,
            finish_reason="stop",
            prompt_version="bench",
            context_nodes=tuple(served),
            seed=number,
        ),
    )
    for revision in range(2 if draws.random() < REVISED else 1):
        quality = round(draws.random(), 2)
        yield Judged(
            **ids,
            interaction_id=named,
            revision=revision,
            quality=quality,
            success=quality,
            by="task",
            client=client,
            question=question,
            query_vector=vector,
            embedder=embedder.name,
            answer=f"It is known, {number}.",
            served=tuple(
                Served(node_id=node, node_kind="document", similarity=0.5, support=round(draws.random(), 2))
                for node in served
            ),
        )
