"""Judge: what became of an answer. The cheap judge speaks at once, a large model where that one wavers,
and what users say of the answer overrides both, whenever it comes.

Invariant: outcomes of a request are numbered; the same interaction, feedback or opinion that comes again
makes none. Feedback that comes before its interaction waits for it, in a place of its own: words on requests
that nobody made push out no answer. Only the tenant and session that asked can be heard on an answer: both are
part of the key that leads here. After a retraction nothing more is said of an answer.

The keeper's state is a fold of the records that it returns: one for each request.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from ruvllm.agents.clock import Clock
from ruvllm.agents.kept import Kept
from ruvllm.agents.outbox import Outbox
from ruvllm.errors import DeadlineExceeded, InvalidRequest
from ruvllm.models.judge.asking import choice
from ruvllm.models.judge.item import Item, Judgement
from ruvllm.models.judge.item import Served as Shown
from ruvllm.models.judge.judge import Judge
from ruvllm.models.judge.verdict import by_task
from ruvllm.models.judge.wording import words
from ruvllm.models.pool.chat_template import ChatTemplate
from ruvllm.models.pool.pool import Pool
from ruvllm.schemas.event import Event, RequestEvent
from ruvllm.schemas.flow import Interaction, Origin, Passage, RatingAccepted
from ruvllm.schemas.outcome import Judged, JudgementDoubted, JudgementSettled, JudgementState, Retract, Served

CARRIES = 0.5
"""Support from which a passage carries an answer."""
RATINGS_KEPT = 32
"""Of a request, the newest: what is older was overridden long ago."""


@dataclass(frozen=True)
class JudgeRules:
    """`costly`: whether a large model is asked in doubt. `interactions_kept`: whose feedback can still be heard.

    `requests_waited_for`: those that were rated before their interaction came.
    """

    costly: bool = True
    interactions_kept: int = 5_000
    requests_waited_for: int = 500


class JudgeDesk:
    """The requests of one partition, as far as they are judged."""

    def __init__(self, judge: Judge, clock: Clock, rules: JudgeRules) -> None:
        self._judge = judge
        self._clock = clock
        self._rules = rules
        self._states: Kept[JudgementState] = Kept()
        self._waiting: Kept[JudgementState] = Kept()  # those without an interaction

    def apply(self, event: Event) -> None:
        """Fold one of its own records. Other events change nothing."""
        if isinstance(event, JudgementState):
            self._waiting.forget(event.record_key)
            (self._waiting if event.interaction is None else self._states).apply(event)

    def forget(self, record_key: str) -> None:
        """Fold a tombstone."""
        self._states.forget(record_key)
        self._waiting.forget(record_key)

    def tick(self) -> Outbox:
        """Judgements have no deadlines."""
        return Outbox()

    async def handle(self, event: Event, _: Origin) -> Outbox:
        """The effects of an interaction, of feedback on it, of a large model's opinion, or of its retraction."""
        if isinstance(event, Interaction):
            return await self._interaction(event)
        if isinstance(event, RatingAccepted):
            return await self._rating(event)
        if isinstance(event, JudgementSettled):
            return self._settled(event)
        if isinstance(event, Retract):
            return self._retract(event)
        raise InvalidRequest(f"the judge has no use for {event.kind}")

    async def _interaction(self, event: Interaction) -> Outbox:
        out = Outbox()
        state = self._state(event)
        if state.interaction is not None or event.generation is None or state.retracted:
            return out  # redelivered, or there is no answer to judge
        await self._judge_anew(out, state.model_copy(update={"interaction": event}))
        return out

    async def _rating(self, event: RatingAccepted) -> Outbox:
        out = Outbox()
        state = self._state(event)
        if state.retracted or any(known.feedback_id == event.feedback_id for known in state.ratings):
            return out
        state = state.model_copy(update={"ratings": (*state.ratings, event)[-RATINGS_KEPT:]})
        if state.interaction is None:
            self._waiting.remember(out, state, self._rules.requests_waited_for)
        else:
            await self._judge_anew(out, state)
        return out

    def _settled(self, event: JudgementSettled) -> Outbox:
        out = Outbox()
        state = self._state(event)
        before = state.outcome
        if before is None or before.by != "cheap" or state.retracted:
            return out  # settled already, or users have spoken
        known = Judgement(
            before.quality, before.success, before.reasons, {s.node_id: s.support for s in before.served}, "cheap"
        )
        assert state.interaction is not None
        self._say(out, state, self._judge.with_log_odds(known, event.log_odds), before.judge_ms + event.judge_ms)
        return out

    def _retract(self, event: Retract) -> Outbox:
        """The last revision of its outcome. What is not known here was told with the command."""
        out = Outbox()
        state = self._state(event)
        if state.retracted:
            return out
        said = state.outcome or event.outcome
        if said is not None:
            said = said.model_copy(update={"revision": said.revision + 1, "retraction": event.retraction})
            out.add(said)
        state = state.model_copy(update={"outcome": said, "retracted": True})
        if state.interaction is not None:
            self._states.remember(out, state, self._rules.interactions_kept)
        elif said is None:  # it is on its way
            self._waiting.remember(out, state, self._rules.requests_waited_for)
        return out

    async def _judge_anew(self, out: Outbox, state: JudgementState) -> None:
        """Judge an answer under all that is known of it. `state` has its interaction."""
        assert state.interaction is not None
        item = _item(state.interaction)
        started = time.perf_counter()
        cheap = await asyncio.to_thread(self._judge.judge, item)
        judged = by_task(
            item,
            rating=_last(state.ratings, "rating"),
            score=_last(state.ratings, "score"),
            passed=_last(state.ratings, "passed"),
            expected=_last(state.ratings, "expected"),
            correction=_last(state.ratings, "correction"),
            judged=cheap,
        )
        self._say(out, state, judged, (time.perf_counter() - started) * 1000)
        interaction = state.interaction
        doubted = self._judge.uncertain(judged) and not _vouched_for(interaction, judged)
        if self._rules.costly and doubted and state.outcome is None:
            out.add(
                JudgementDoubted(
                    tenant=interaction.tenant,
                    session=interaction.session,
                    request_id=interaction.request_id,
                    time=self._clock.now(),
                    interaction_id=interaction.interaction_id,
                    question=item.question,
                    answer=item.answer,
                    passages=tuple(shown.text for shown in item.served),
                    support=tuple(judged.support.get(shown.node_id, 0.0) for shown in item.served),
                )
            )

    def _say(self, out: Outbox, state: JudgementState, judged: Judgement, judge_ms: float) -> None:
        """The next revision of an outcome, and the record that it was made."""
        interaction = state.interaction
        assert interaction is not None and interaction.retrieval is not None and interaction.generation is not None
        outcome = Judged(
            tenant=interaction.tenant,
            session=interaction.session,
            request_id=interaction.request_id,
            time=interaction.time,
            interaction_id=interaction.interaction_id,
            revision=0 if state.outcome is None else state.outcome.revision + 1,
            quality=judged.quality,
            success=judged.success,
            by=judged.by,
            reasons=judged.reasons,
            client=interaction.request.client or "",
            question=interaction.request.question,
            follows_on=bool(interaction.history),
            query_vector=interaction.retrieval.query_vector,
            embedder=interaction.retrieval.embedder,
            answer=interaction.generation.text,
            accepted=_accepted(state.ratings),
            served=tuple(
                Served(
                    node_id=p.node_id,
                    node_kind=p.node_kind,
                    similarity=p.similarity,
                    support=min(1.0, judged.support.get(p.node_id, 0.0)),
                    via=p.via,
                )
                for p in interaction.retrieval.passages
                if p.node_id in interaction.generation.context_nodes
            ),
            candidates=interaction.retrieval.candidates.node_ids if interaction.retrieval.candidates else (),
            tier=interaction.route.tier if interaction.route else None,
            judge_ms=round(judge_ms, 3),
        )
        out.add(outcome)
        said = state.model_copy(update={"outcome": outcome})
        self._waiting.forget(said.record_key)
        self._states.remember(out, said, self._rules.interactions_kept)

    def _state(self, event: RequestEvent) -> JudgementState:
        known = self._states.get(event.request_key) or self._waiting.get(event.request_key)
        return known or JudgementState(
            tenant=event.tenant, session=event.session, request_id=event.request_id, time=self._clock.now()
        )


async def settle(
    event: JudgementDoubted, pool: Pool, templates: dict[str, ChatTemplate], clock: Clock, *, time_budget_s: float
) -> JudgementSettled | None:
    """Ask the largest tier whether the text says so; None if requests kept it busy: the cheap word stands."""
    tier = pool.tiers[-1]
    item = Item(
        event.question,
        event.answer,
        tuple(Shown(str(place), text) for place, text in enumerate(event.passages)),
        abstained=False,
        confidence=0.0,
    )
    support = {str(place): value for place, value in enumerate(event.support)}
    doubted = Judgement(0.5, 0.5, (), support, "cheap")
    started = time.perf_counter()
    asked = choice(item, doubted, templates[tier], time_budget_s=time_budget_s)
    try:
        log_odds = await pool.log_odds(tier, asked)
    except DeadlineExceeded:
        return None
    return JudgementSettled(
        tenant=event.tenant,
        session=event.session,
        request_id=event.request_id,
        time=clock.now(),
        interaction_id=event.interaction_id,
        log_odds=log_odds,
        model=tier,
        judge_ms=round((time.perf_counter() - started) * 1000, 3),
    )


def _evidence(interaction: Interaction) -> list[Passage]:
    """The passages that stood in the prompt, without what memory remembers of its own answers.

    What a person has said is evidence: else each answer that a correction gave would be judged bad, and unlearn it.
    """
    assert interaction.retrieval is not None and interaction.generation is not None
    shown = interaction.generation.context_nodes
    return [
        p for p in interaction.retrieval.passages if p.node_id in shown and (p.node_kind != "answer" or p.said_by_user)
    ]


def _vouched_for(interaction: Interaction, judged: Judgement) -> bool:
    """Whether a person has said what carries the answer: no model is asked then."""
    return any(p.said_by_user and judged.support.get(p.node_id, 0.0) >= CARRIES for p in _evidence(interaction))


def _item(interaction: Interaction) -> Item:
    assert interaction.retrieval is not None and interaction.generation is not None
    return Item(
        question=interaction.request.question,
        answer=interaction.generation.text,
        served=tuple(Shown(p.node_id, p.text) for p in _evidence(interaction)),
        abstained=interaction.generation.finish_reason == "abstained",
        confidence=interaction.generation.confidence,
    )


def _accepted(ratings: tuple[RatingAccepted, ...]) -> str | None:
    """What users say is right, if there are words in it."""
    told = (_last(ratings, "correction"), _last(ratings, "expected"))
    return next((text for text in told if text and words(text)), None)


def _last(ratings: tuple[RatingAccepted, ...], verdict: str) -> Any:
    """The newest word of one kind."""
    return next((getattr(r, verdict) for r in reversed(ratings) if getattr(r, verdict) is not None), None)
