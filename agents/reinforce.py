"""Loop A: an outcome becomes changes of memory. Good answers strengthen the edges that led to them.

Invariant: what memory has learnt from an interaction is its outcome's last revision and nothing else:
each revision is carried out as the difference to what was done before, and a retraction leaves nothing.
Recalled text is never written back as new, and what a bad answer says never becomes a source.

The keeper's state is a fold of the records that it returns: one for each interaction, with its
contributions by edge and the nodes that it made. Which node a question duplicates, and which edges there
were, it sees in its own view of memory; what it decided stands in the events.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from ruvllm.agents.clock import Clock
from ruvllm.agents.crediting import credited
from ruvllm.agents.kept import Kept
from ruvllm.agents.outbox import Outbox
from ruvllm.agents.retrieve import MemorySource
from ruvllm.errors import InvalidRequest
from ruvllm.models.embedding import Embedder
from ruvllm.models.memory.edge_strength import LEAST_OUTCOMES
from ruvllm.models.memory.edges import contributed
from ruvllm.models.memory.found import Hit
from ruvllm.models.memory.lexicon import names_of, words_of
from ruvllm.models.memory.reinforcement import THETA, Addition, Used, additions, values
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import Origin
from ruvllm.schemas.ids import content_id
from ruvllm.schemas.memory import (
    SAID_BY,
    USER,
    EdgeContributed,
    EdgePruned,
    NodeAdded,
    NodeKind,
    NodeMerged,
    NodeRetracted,
    name_edge,
)
from ruvllm.schemas.outcome import Contribution, Judged, ReinforcementState
from ruvllm.schemas.vector import Float32s

TITLE_CHARS = 300
"""Of the question that an answer is remembered under: it stands in other users' prompts."""


@dataclass(frozen=True)
class ReinforcementRules:
    """`write_back`: the quality from which an answer is remembered. `same`: cosine of near-duplicates."""

    write_back: float = 0.8
    same: float = 0.97
    answer_chars: int = 2_000
    interactions_kept: int = 20_000


class Reinforcement:
    """What the interactions of one partition have taught memory."""

    def __init__(self, source: MemorySource, embedder: Embedder, clock: Clock, rules: ReinforcementRules) -> None:
        self._source = source
        self._embedder = embedder
        self._clock = clock
        self._rules = rules
        self._states: Kept[ReinforcementState] = Kept()

    def apply(self, event: Event) -> None:
        """Fold one of its own records. Other events change nothing."""
        if isinstance(event, ReinforcementState):
            self._states.apply(event)

    def forget(self, record_key: str) -> None:
        """Fold a tombstone."""
        self._states.forget(record_key)

    def tick(self) -> Outbox:
        """Outcomes have no deadlines."""
        return Outbox()

    async def handle(self, event: Event, _: Origin) -> Outbox:
        """The effects of an outcome: the difference to what its interaction has done so far."""
        if not isinstance(event, Judged):
            raise InvalidRequest(f"reinforce has no use for {event.kind}")
        out = Outbox()
        before = self._states.get(event.request_key)
        if before is not None and (event.revision <= before.revision or before.retracted):
            return out  # redelivered, or overtaken
        if before is None and event.retraction is not None:
            told = event.retraction  # the outcome was forgotten here
            before = self._state(event, dict(told.contributions), told.nodes)
        state = await asyncio.to_thread(self._carry_out, out, event, before)  # it may have to wait for memory
        self._states.remember(out, state, self._rules.interactions_kept)
        return out

    def _carry_out(self, out: Outbox, event: Judged, before: ReinforcementState | None) -> ReinforcementState:
        """The changes of memory, as it is at one moment, and the record of what was done."""
        value = values(
            [Used(served.node_id, served.support) for served in event.served],
            event.quality,
            answer_known=event.accepted is not None,
        )
        with self._source.memory.lock:
            nodes = self._nodes(event, value)
            now = {addition.edge_id: addition for addition in self._additions(event, value, nodes)}
            self._move_nodes(out, event, nodes, before)
            self._move_edges(out, event, now, before.contributions if before else {})
            if event.candidates:
                out.add(credited(event, self._source.memory))
        made = {
            i: Contribution(source=a.source, target=a.target, relation=a.relation, amount=a.amount)
            for i, a in now.items()
        }
        return self._state(event, made, tuple(node.node_id for node in nodes))

    def _state(
        self, event: Judged, contributions: dict[str, Contribution], nodes: tuple[str, ...]
    ) -> ReinforcementState:
        return ReinforcementState(
            tenant=event.tenant,
            session=event.session,
            request_id=event.request_id,
            time=self._clock.now(),
            interaction_id=event.interaction_id,
            revision=event.revision,
            contributions=contributions,
            nodes=nodes,
            retracted=event.retraction is not None,
        )

    # --- nodes ------------------------------------------------------------------------------------

    def _nodes(self, event: Judged, value: Mapping[str, float]) -> list[NodeAdded]:
        """The question's node and the answer's, as far as this outcome is worth remembering.

        What was asked within a conversation is not: the same words mean something else in another.
        """
        if event.follows_on or event.retraction is not None:
            return []
        memory = self._source.memory
        answer = self._answer_to_remember(event, memory)
        if answer is None and not any(v > 0 for v in value.values()):
            return []
        nodes = [self._node(event, "question", _question_id(event), event.question, event.query_vector, memory)]
        if answer is not None:
            text = f"{event.question}\n{answer}"
            (vector,) = self._embedder.embed([text])
            nodes.append(self._node(event, "answer", _answer_id(event, answer), answer, vector, memory))
        return nodes

    def _answer_to_remember(self, event: Judged, memory: Memory) -> str | None:
        """What the user says is right, or a good answer; not what memory said itself."""
        good = event.answer if event.quality >= self._rules.write_back else ""
        words = words_of(event.accepted or good)
        if not words or len(event.accepted or good) > self._rules.answer_chars:
            return None
        if event.accepted:
            return event.accepted
        served = (memory.node(event.tenant, served.node_id) for served in event.served)
        recalled = any(node is not None and f" {words} " in f" {words_of(node.text)} " for node in served)
        return None if recalled else good

    def _node(
        self, event: Judged, kind: NodeKind, node_id: str, text: str, vector: Float32s, memory: Memory
    ) -> NodeAdded:
        """A new node, or a member of the one that says the same."""
        twin = self._twin(event.tenant, kind, text, vector, memory)
        if twin is not None and twin.node.node_id == node_id:
            twin = None  # the same words: another member of the same node
        if twin is not None:
            node_id = twin.node.node_id
        fields = {
            "tenant": event.tenant,
            "time": event.time,
            "change_id": content_id("ch", node_id, event.interaction_id, str(event.revision)),
            "node_id": node_id,
            "node_kind": kind,
            "title": event.question[:TITLE_CHARS] if kind == "answer" else "",
            "text": text,
            "embedder": event.embedder,
            "vector": vector,
            "made_by": event.interaction_id,
            "metadata": {SAID_BY: USER} if kind == "answer" and event.accepted else {},
        }
        if twin is not None:
            return NodeMerged(**fields, similarity=round(twin.similarity, 6))
        return NodeAdded(**fields)

    def _twin(self, tenant: str, kind: NodeKind, text: str, vector: Float32s, memory: Memory) -> Hit | None:
        """The known node that says the same: near it, and with the same names and numbers (questions) or words."""
        near = memory.search(tenant, vector, 1, kinds=(kind,)) if np.any(vector) else []
        if not near or near[0].similarity < self._rules.same:
            return None
        tells_apart = words_of if kind == "answer" else particulars
        return near[0] if tells_apart(text) == tells_apart(near[0].node.text) else None

    def _move_nodes(
        self, out: Outbox, event: Judged, nodes: list[NodeAdded], before: ReinforcementState | None
    ) -> None:
        kept = {node.node_id for node in nodes}
        for node_id in before.nodes if before else ():
            if node_id not in kept:
                out.add(
                    NodeRetracted(
                        tenant=event.tenant,
                        time=event.time,
                        change_id=content_id("ch", node_id, event.interaction_id, str(event.revision), "back"),
                        node_id=node_id,
                        made_by=event.interaction_id,
                        reason=event.retraction.reason
                        if event.retraction
                        else f"judged anew: quality {event.quality:.2f}",
                    )
                )
        for node in nodes:
            if before is None or node.node_id not in before.nodes:
                out.add(node)

    # --- edges ------------------------------------------------------------------------------------

    def _additions(self, event: Judged, value: Mapping[str, float], nodes: list[NodeAdded]) -> list[Addition]:
        if event.retraction is not None:
            return []
        memory = self._source.memory
        worth_it = {node.node_id: 1.0 - THETA for node in nodes[1:]}  # the answer that is remembered
        value = {**value, **worth_it}
        question_id = nodes[0].node_id if nodes else _question_id(event)
        among = memory.edges_among(event.tenant, {*value, question_id})
        return additions(value, question_id, among, partial(name_edge, event.tenant), remember=bool(nodes))

    def _move_edges(
        self, out: Outbox, event: Judged, now: dict[str, Addition], before: dict[str, Contribution]
    ) -> None:
        for edge_id in sorted({*now, *before}):
            new, old = now.get(edge_id), before.get(edge_id)
            now_adds, added = new.amount if new else 0.0, old.amount if old else 0.0
            amount = now_adds - added
            edge = new or old
            assert edge is not None
            if not amount:
                continue
            contributed = EdgeContributed(
                tenant=event.tenant,
                time=event.time,
                change_id=content_id("ch", edge_id, event.interaction_id, str(event.revision)),
                edge_id=edge_id,
                source=edge.source,
                target=edge.target,
                relation=edge.relation,
                made_by=event.interaction_id,
                client=event.client,
                amount=amount,
                outcomes=0 if old and new else (1 if new else -1),
                evidence=abs(now_adds) - abs(added),
            )
            out.add(contributed)
            if amount < 0 and event.retraction is None and self._is_worn_out(contributed):
                out.add(
                    EdgePruned(
                        tenant=event.tenant,
                        time=self._clock.now(),
                        change_id=content_id("ch", edge_id, event.interaction_id, str(event.revision), "pruned"),
                        edge_id=edge_id,
                        reason="its outcomes left it without weight",
                    )
                )

    def _is_worn_out(self, change: EdgeContributed) -> bool:
        """Whether an edge leads nowhere once a contribution has reached it."""
        memory = self._source.memory
        edge = memory.edge(change.tenant, change.edge_id)
        if edge is None or memory.pruned(edge):
            return False
        at = change.time.timestamp()
        half_life_s = memory.half_life_s
        after = contributed(
            edge, change.client, change.amount, at, change.outcomes, change.evidence, half_life_s=half_life_s
        )
        return after.outcomes >= LEAST_OUTCOMES and not memory.leads(after, self._clock.now().timestamp())


def particulars(text: str) -> set[str]:
    """What tells apart two texts that are alike in meaning: numbers and names."""
    return {*names_of(text), *re.findall(r"\d+", text)}


def _question_id(event: Judged) -> str:
    """Of the node of a question: two askings of the same words are one question."""
    return content_id("n", event.tenant, "question", _plain(event.question))


def _answer_id(event: Judged, answer: str) -> str:
    return content_id("n", event.tenant, "answer", _plain(event.question), _plain(answer))


def _plain(text: str) -> str:
    """Case, spaces and closing marks aside; C++ and C# stay apart, and 5 and -5."""
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'")
