"""The two sides of a difference: two askings, two moments, or two checkpoints over one memory.

Invariant: each side is asked as the serving process of its moment was: that memory, that ranker and router, that
time. What was written after a moment has no say in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ruvllm.agents.past import Past
from ruvllm.agents.retrieve import Ranker
from ruvllm.errors import InvalidRequest
from ruvllm.models.memory.store import Memory
from ruvllm.models.router.features import PAST, PAST_TIERS
from ruvllm.models.router.policy import Router
from ruvllm.schemas.flow import Interaction, Route
from ruvllm.streams.history.checkpoints import UNTRAINED, Learnt
from ruvllm.streams.history.difference import Difference, RouteSide, Side, compare
from ruvllm.streams.history.look import Look, look
from ruvllm.streams.history.moments import MemoryThen, Moment, place_of
from ruvllm.streams.history.picking import picked
from ruvllm.streams.history.source import Source
from ruvllm.streams.records import Record
from ruvllm.streams.router_tools import decide
from ruvllm.streams.wiring import Wiring

NO_PAST = 0.0
"""What the features hold of a tier without a past."""


@dataclass
class _Held:
    """A clock that stands at a moment."""

    time: datetime

    def now(self) -> datetime:
        return self.time


class Comparing:
    """Looks at one log. `state_folder`: where workers keep snapshots of memory, if it is a broker's log."""

    def __init__(self, source: Source, wiring: Wiring, state_folder: Path | None) -> None:
        self._source = source
        self._wiring = wiring
        self._state_folder = state_folder

    async def askings(self, first: Interaction, second: Interaction) -> Difference:
        """Two askings of the same question. Raises InvalidRequest if it is not the same, or memory was not asked."""
        if _plain(first) != _plain(second) or first.tenant != second.tenant:
            raise InvalidRequest(
                f"{first.request_id} asks {first.request.question!r}, {second.request_id} asks "
                f"{second.request.question!r}",
                hint="A difference is between two askings of one question; `ruvllm explain` tells of each.",
            )
        learnt = await Learnt.of(self._source)
        looks, sides, then = [], [], None
        for asked in (first, second):
            found = asked.retrieval
            if found is None or asked.request.constraints.grounding == "none":
                raise InvalidRequest(f"memory was not asked for {asked.request_id}", hint="Compare two others.")
            place = await place_of(self._source, found.memory_offsets)
            then = await self._memory_at(place, then)
            ranker = learnt.ranker(found.candidates.ranker if found.candidates else None)
            where = asked.request.constraints.memory_filter
            seen = self._look(then.memory, asked.tenant, asked, found.query_vector, ranker, where)
            recorded = [passage.node_id for passage in found.passages]
            moment = Moment(asked.request_id, asked.time, place)
            side = _side(moment, then, ranker, self._route_side(asked.route) if asked.route else None)
            sides.append(replace(side, request_id=asked.request_id, as_recorded=recorded == seen.served()))
            looks.append(seen)
        return await self._compared(second.request.question, second.tenant, sides, looks, then)

    async def moments(self, question: str, tenant: str, before: Moment, after: Moment) -> Difference:
        """A question at two moments, with what had been learnt by each."""
        learnt = await Learnt.of(self._source)
        looks, sides, then = [], [], None
        for moment in (before, after):
            then = await self._memory_at(moment.place, then)
            ranker, router = learnt.in_force(moment.at, self._wiring.untrained_router)
            past = await self._past(moment.at)
            side, seen = await self._asked(question, tenant, moment, then, ranker, router, past)
            sides.append(side)
            looks.append(seen)
        return await self._compared(question, tenant, sides, looks, then)

    async def checkpoints(self, question: str, tenant: str, moment: Moment, names: tuple[str, str]) -> Difference:
        """A question under two rankers or two routers, over one memory. Raises InvalidRequest for unknown ones."""
        learnt = await Learnt.of(self._source)
        learners = {learnt.learner_of(name) for name in names if not self._is_untrained(name)}
        if len(learners) != 1:
            raise InvalidRequest(
                f"{names[0]} and {names[1]} are not two checkpoints of one learner",
                hint=f"Name two rankers or two routers; one of them may be `{UNTRAINED}`.",
            )
        then = await self._memory_at(moment.place, None)
        past = await self._past(moment.at)
        in_force = learnt.in_force(moment.at, self._wiring.untrained_router)
        looks, sides = [], []
        for name in names:
            ranker, router = in_force
            if "attention" in learners:
                ranker = learnt.ranker(name)
            else:
                router = learnt.router(name, self._wiring.untrained_router)
            under = replace(moment, name=f"{moment.name}, {name}")
            side, seen = await self._asked(question, tenant, under, then, ranker, router, past)
            sides.append(side)
            looks.append(seen)
        return await self._compared(question, tenant, sides, looks, then)

    def _is_untrained(self, name: str) -> bool:
        return name in (UNTRAINED, self._wiring.untrained_router.checkpoint.id)

    async def _memory_at(self, place: dict[int, int], known: MemoryThen | None) -> MemoryThen:
        """Folded on from what is known, if that leads there; else from a snapshot or the beginning."""
        if known is None or not known.is_before(place):
            return await MemoryThen.at(self._source, place, self._wiring.new_memory, self._state_folder)
        await known.fold_on(place)
        return known

    async def _asked(
        self,
        question: str,
        tenant: str,
        moment: Moment,
        then: MemoryThen,
        ranker: Ranker | None,
        router: Router,
        past: Past,
    ) -> tuple[Side, Look]:
        """The first question of a session, asked at a moment."""
        self._wiring.clock = _Held(moment.at)
        self._wiring.ranker = lambda: ranker
        routed = await decide(question, self._wiring, then.memory, router, past, tenant=tenant)
        seen = look(
            then.memory,
            tenant,
            question,
            routed.retrieval.query_vector,
            self._wiring.retrieval_rules,
            now_s=moment.at.timestamp(),
            ranker=ranker,
        )
        return _side(moment, then, ranker, self._route_side(routed.route)), seen

    def _look(
        self,
        memory: Memory,
        tenant: str,
        asked: Interaction,
        vector: NDArray[np.float32],
        ranker: Ranker | None,
        where: dict[str, str] | None,
    ) -> Look:
        rules, now_s = self._wiring.retrieval_rules, asked.time.timestamp()
        question = asked.request.question
        return look(memory, tenant, question, vector, rules, now_s=now_s, where=where, ranker=ranker)

    async def _compared(
        self, question: str, tenant: str, sides: list[Side], looks: list[Look], then: MemoryThen | None
    ) -> Difference:
        assert then is not None
        return await compare(self._source, question, tenant, (sides[0], sides[1]), (looks[0], looks[1]), then.memory)

    async def _past(self, moment: datetime) -> Past:
        """The outcomes written by then; where records have no times, those of questions asked by then."""
        latest_ms = moment.timestamp() * 1000

        def wanted(record: Record) -> bool:
            return record.time_ms <= latest_ms

        past = self._wiring.new_past()
        async for _, event in picked(self._source, "outcome.judged", wanted):
            if event.time <= moment:
                past.apply(event)
        for tenant in list(past.due()):
            past.refresh(tenant)
        return past

    def _route_side(self, route: Route) -> RouteSide:
        of_tiers = route.features[PAST][:PAST_TIERS].tolist()
        past = {
            tier: None if value == NO_PAST else round((value + 1.0) / 2.0, 4)
            for tier, value in zip(self._wiring.tiers, of_tiers, strict=False)
        }
        return RouteSide(
            route.checkpoint,
            route.tier,
            route.context_tokens,
            route.confidence,
            route.fallback,
            route.expected.model_dump() if route.expected else None,
            past,
        )


def _side(moment: Moment, then: MemoryThen, ranker: Ranker | None, route: RouteSide | None) -> Side:
    return Side(
        moment.name,
        moment.at,
        dict(moment.place),
        ranker.checkpoint if ranker else None,
        str(then.snapshot) if then.snapshot else None,
        route=route,
    )


def _plain(asked: Interaction) -> str:
    return " ".join(asked.request.question.casefold().split())
