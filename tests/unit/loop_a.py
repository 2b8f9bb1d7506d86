"""A small world for Loop A: a memory, the keeper that changes it, and outcomes of made-up answers."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from ruvllm.agents.documents import DocumentKeeper
from ruvllm.agents.memory_fold import fold
from ruvllm.agents.outbox import Outbox
from ruvllm.agents.reinforce import Reinforcement, ReinforcementRules
from ruvllm.models.embedding import HashingEmbedder
from ruvllm.models.memory.node import Edge, Node
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.flow import Origin
from ruvllm.schemas.memory import MemoryChange, PutDocument, RemoveDocument, name_edge
from ruvllm.schemas.outcome import Judged, ReinforcementState, Retraction, Served
from tests.manual_clock import START, ManualClock

NOW = START.timestamp()
LOOP = asyncio.new_event_loop()
"""One for all worlds: to make and end a loop takes longer than a step in it."""
ORIGIN = Origin(topic="outcome.judged", partition=0, offset=0)


class World:
    """Memory and the keeper of one partition; every change goes through the fold, numbered as in a log.

    `lag`: so many changes the keeper's view of memory is behind the log; `catch_up` ends that.
    """

    def __init__(self, rules: ReinforcementRules | None = None, *, lag: int = 0) -> None:
        self.embedder = HashingEmbedder()
        self.clock = ManualClock()
        self.memory = Memory(self.embedder.name, self.embedder.dimension)
        self._rules = rules or ReinforcementRules()
        self.lag = lag
        self.changes: list[MemoryChange] = []
        self.folded = 0
        self.states: list[ReinforcementState] = []
        self.last: dict[str, Judged] = {}
        self.documents = DocumentKeeper(
            self.embedder, self.clock, ("default",), document_chars=10_000, document_passages=100
        )
        self._commands = 0
        self.restart()

    def offsets(self) -> dict[str, int]:
        return {"0": self.folded}

    def restart(self) -> None:
        """Another owner takes over: it knows what its predecessor's records say."""
        self.keeper = Reinforcement(self, self.embedder, self.clock, self._rules)
        for state in self.states:
            self.keeper.apply(state)

    def passage(self, node_id: str, text: str) -> str:
        (vector,) = self.embedder.embed([text])
        self.memory.put_node(
            Node(node_id, "default", "document", f"Of {node_id}", text, "d.md", 0, {}, self.embedder.name, vector, NOW)
        )
        return node_id

    def link(self, source: str, target: str, relation: str = "follows", weight: float = 0.5) -> str:
        edge_id = name_edge("default", relation, source, target)
        self.memory.put_edge(Edge(edge_id, "default", source, target, relation, weight, NOW))
        return edge_id

    def outcome(self, request_id: str, quality: float, served: dict[str, float], **facts: object) -> Judged:
        """`served`: node id -> support."""
        question = facts.pop("question", f"What of {request_id}?")
        (vector,) = self.embedder.embed([question])
        given = {
            "session": request_id,
            "request_id": request_id,
            "time": START,
            "interaction_id": f"ix-{request_id}",
            "revision": 0,
            "quality": quality,
            "success": quality,
            "by": "task",
            "question": question,
            "query_vector": vector,
            "embedder": self.embedder.name,
            "answer": "A goat.",
            "served": tuple(
                Served(node_id=n, node_kind="document", similarity=0.5, support=s) for n, s in served.items()
            ),
        }
        return Judged.model_validate({**given, **facts})

    def learn(self, *outcomes: Judged) -> list[MemoryChange]:
        """Hand outcomes to the keeper and fold what follows, as far as the view has come; the changes."""
        before = len(self.changes)
        for outcome in outcomes:
            self.last[outcome.request_id] = outcome
            self._take(LOOP.run_until_complete(self.keeper.handle(outcome, ORIGIN)))
        return self.changes[before:]

    def take_back(self, request_id: str, told: Retraction | None = None) -> list[MemoryChange]:
        """Retract what was learnt from a request, as the judge does: by the last revision of its outcome."""
        last = self.last[request_id]
        told = told or Retraction(reason="taken back")
        return self.learn(last.model_copy(update={"revision": last.revision + 1, "retraction": told}))

    def put(self, name: str, content: str | None) -> None:
        """Put a document into memory, or remove it (no content)."""
        self._commands += 1
        origin = Origin(topic="document.submitted", partition=0, offset=self._commands)
        named = {"document_id": name, "time": self.clock.now(), "command_id": f"c{self._commands}"}
        command = RemoveDocument(**named) if content is None else PutDocument(**named, content=content)
        self._take(LOOP.run_until_complete(self.documents.handle(command, origin)))

    def _take(self, outbox: Outbox) -> None:
        for emit in outbox.emits:
            if isinstance(emit.event, MemoryChange):
                self.changes.append(emit.event)
            elif isinstance(emit.event, ReinforcementState):
                self.states.append(emit.event)
        self._fold_to(len(self.changes) - self.lag)

    def catch_up(self) -> None:
        """The view has come to the log's end, and stays there."""
        self.lag = 0
        self._fold_to(len(self.changes))

    def _fold_to(self, end: int) -> None:
        while self.folded < end:
            fold(self.memory, self.changes[self.folded], self.folded)
            self.folded += 1

    def weight(self, edge_id: str, after: timedelta = timedelta()) -> float:
        edge = self.memory.edge("default", edge_id)
        return self.memory.weight_of(edge, NOW + after.total_seconds()) if edge else 0.0

    def nodes(self, kind: str) -> list[str]:
        return sorted(n.text for n in self.memory.contents().nodes if n.kind == kind)
