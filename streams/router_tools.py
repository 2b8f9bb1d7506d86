"""What `ruvllm router` shows: the decision that would be taken now, its reasons, and the cost-quality curve.

Everything is folded from the log as the serving process folds it; nothing is written but a roll-back's event.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from ruvllm.agents.past import Past
from ruvllm.agents.retrieve import retrieve
from ruvllm.agents.route import route
from ruvllm.agents.routers import Routers
from ruvllm.errors import InvalidRequest, RuvllmError
from ruvllm.models.memory.store import Memory
from ruvllm.models.router.answer import Answer
from ruvllm.models.router.arms import Action
from ruvllm.models.router.policy import Expected, Preferred, Router
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import Admitted, Origin, Request, Routed
from ruvllm.schemas.ids import new_id
from ruvllm.schemas.outcome import Judged
from ruvllm.schemas.request import Constraints, Message
from ruvllm.schemas.training import CheckpointChosen
from ruvllm.streams.guard import read
from ruvllm.streams.log_reader import read_to_end
from ruvllm.streams.wiring import Wiring

WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0)
"""Of cost, along the curve."""


@dataclass(frozen=True)
class _Still:
    """A memory that nobody changes."""

    memory: Memory

    def offsets(self) -> Mapping[str, int]:
        return {}


@dataclass(frozen=True)
class Point:
    """What the policy would do under another weight of cost: means over logged requests, and the share of each tier."""

    cost_weight: float
    quality: float
    cost: float
    shares: dict[str, float]


async def events_of(bootstrap: str, wiring: Wiring, kind: type[Event]) -> AsyncIterator[Event]:
    """Those of one kind in their topic, to its end now; what cannot be read is left out."""
    async for record in read_to_end(bootstrap, wiring.names.topic(kind.topic)):
        try:
            yield read(record, (kind,))
        except RuvllmError:
            continue


async def past_now(bootstrap: str, wiring: Wiring) -> Past:
    """What became of past questions, as the serving process has it."""
    past = wiring.new_past()
    async for event in events_of(bootstrap, wiring, Judged):
        past.apply(event)
    for tenant in list(past.due()):
        past.refresh(tenant)
    return past


async def decide(prompt: str, wiring: Wiring, memory: Memory, router: Router, past: Past, *, tenant: str) -> Routed:
    """The decision that a first question of a session would get now, without exploration. Nothing is sent."""
    now = wiring.clock.now()
    name = new_id()
    admitted = Admitted(
        tenant=tenant,
        session=name,
        request_id=name,
        interaction_id=name,
        time=now,
        request=Request(
            messages=(Message(role="user", content=prompt),),
            constraints=Constraints(),
            submitted_at=now,
            origin=Origin(topic="", partition=0, offset=0),
        ),
        deadline=now + timedelta(seconds=wiring.limits.default_deadline_s),
    )
    source, rules = _Still(memory), wiring.retrieval_rules
    found = await retrieve(admitted, source, wiring.embedder, rules, wiring.clock, wiring.ranker())
    return await route(found, router, wiring.tiers, wiring.clock, past, explore=False)


def by_tier(router: Router, routed: Routed) -> tuple[dict[str, Expected], Preferred]:
    """What the checkpoint expects of each tier with the settings that it prefers, and what it prefers."""
    chosen = routed.route
    prediction = router.checkpoint.forward(chosen.features)
    permitted = router.arms.permitted(available_tiers=chosen.available_tiers)
    preferred = router.preferred(prediction, permitted)
    expected = {
        tier: router.expected(prediction, replace(preferred.action, tier=tier)) for tier in chosen.available_tiers
    }
    return expected, preferred


def curve(router: Router, answers: Sequence[Answer], weights: Sequence[float] = WEIGHTS) -> list[Point]:
    """Expected quality and cost over logged requests as the weight of cost grows. Raises InvalidRequest for none."""
    if not answers:
        raise InvalidRequest(
            "the log holds no judged answer that this router's features fit",
            hint="Ask a few questions, wait until they are judged, and look again.",
        )
    predictions = [(answer, router.checkpoint.forward(answer.features)) for answer in answers]
    found = []
    for weight in weights:
        weighed = router.with_objective(replace(router.objective, cost_weight=weight))
        actions: list[Action] = []
        expected: list[Expected] = []
        for answer, prediction in predictions:
            actions.append(weighed.preferred(prediction, answer.permitted, answer.minimum_quality).action)
            expected.append(weighed.expected(prediction, actions[-1]))
        count = len(actions)
        found.append(
            Point(
                cost_weight=weight,
                quality=sum(e.quality for e in expected) / count,
                cost=sum(e.cost for e in expected) / count,
                shares={t: sum(a.tier == t for a in actions) / count for t in router.arms.tiers},
            )
        )
    return found


def roll_back(wiring: Wiring, routers: Routers, to: str | None) -> CheckpointChosen:
    """The event that puts another checkpoint in force: `to`, or the one in force before the present one.

    Raises InvalidRequest for one that was never published, or where there is nothing to go back to.
    """
    chosen = [event.checkpoint for event in routers.chosen]
    now = chosen[-1] if chosen else None
    if now is None and to is None:
        raise InvalidRequest("the untrained router serves: there is nothing to go back to", hint="")
    if to is not None and routers.packed(to) is None:
        raise InvalidRequest(f"no checkpoint {to} was published", hint="`ruvllm router history` lists them.")
    earlier = [name for name in chosen if name != now and (name is None or routers.packed(name) is not None)]
    target = to if to is not None else (earlier[-1] if earlier else None)
    return CheckpointChosen(
        time=wiring.clock.now(),
        learner="router",
        checkpoint=target,
        reason=f"rolled back from {now or 'the untrained one'}",
    )
