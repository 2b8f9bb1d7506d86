"""`ruvllm whatif`: a stretch of the log, and the policy that is to be tried on it.

Answers are those of the interactions in the stretch; their outcomes are the last word on them, whenever it came.
Left out, and counted, is what says nothing of another policy: what was never judged, what was retracted, what was
routed without exploration (a tenant of `router.unexplored_tenants`, or exploration 0), and what other tiers or
features routed.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import asdict, dataclass
from typing import Any

from ruvllm.agents.routers import RouterCourse
from ruvllm.errors import InvalidRequest, UnknownTier
from ruvllm.models.router.answer import Answer
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.models.router.policy import Router
from ruvllm.models.router.what_if import LEAST_EFFECTIVE, Supposition
from ruvllm.schemas.flow import Interaction
from ruvllm.schemas.outcome import Judged
from ruvllm.streams.history.checkpoints import Learnt
from ruvllm.streams.history.picking import anything, picked
from ruvllm.streams.history.ranges import Range
from ruvllm.streams.history.source import Source
from ruvllm.streams.wiring import Wiring


@dataclass(frozen=True)
class Asked:
    """The policy to try: what is None is as it is in force at the log's end. `always`: a tier for every request."""

    checkpoint: str | None = None
    cost_weight: float | None = None
    latency_weight: float | None = None
    minimum_quality: float | None = None
    exploration: float | None = None
    always: str | None = None


@dataclass(frozen=True)
class Stretch:
    """Explored, judged answers, and how many others there were, by why they say nothing."""

    answers: list[Answer]
    left_out: dict[str, int]


async def logged_answers(source: Source, stretch: Range, wiring: Wiring) -> Stretch:
    """The answers in a stretch of `interaction.recorded`. Raises InvalidRequest for a stretch that is not there."""
    start, end = await stretch.places(source, "interaction.recorded")
    course = RouterCourse(wiring.router_rules, recent=sys.maxsize)
    last: dict[str, Judged] = {}
    async for _, event in picked(source, "outcome.judged", anything):
        course.take(event)
        if isinstance(event, Judged) and (
            event.interaction_id not in last or last[event.interaction_id].revision < event.revision
        ):
            last[event.interaction_id] = event
    left_out = dict.fromkeys(("unjudged", "retracted", "unexplored", "of other tiers or features"), 0)
    routed: set[str] = set()
    async for _, event in picked(source, "interaction.recorded", anything, start, end):
        if not isinstance(event, Interaction) or event.route is None or event.interaction_id in routed:
            continue
        routed.add(event.interaction_id)
        outcome = last.get(event.interaction_id)
        if outcome is None:
            left_out["unjudged"] += 1
        elif outcome.retraction is not None:
            left_out["retracted"] += 1
        elif event.route.exploration == 0:
            left_out["unexplored"] += 1
        else:
            course.take(event)
    answers = list(course.lessons())
    left_out["of other tiers or features"] = len(routed) - len(answers) - sum(left_out.values())
    return Stretch(answers, left_out)


def policy_of(asked: Asked, learnt: Learnt, wiring: Wiring) -> Router:
    """The router that is asked for. Raises InvalidRequest for an unknown checkpoint, UnknownTier for such a tier."""
    untrained = wiring.untrained_router
    now = learnt.in_force(wiring.clock.now(), untrained)[1]
    router = learnt.router(asked.checkpoint, untrained) if asked.checkpoint else now
    changed = {
        name: value
        for name in ("cost_weight", "latency_weight", "minimum_quality")
        if (value := getattr(asked, name)) is not None
    }
    rules = dataclasses.replace(
        wiring.router_rules, objective=dataclasses.replace(wiring.router_rules.objective, **changed)
    )
    checkpoint = router.checkpoint
    exploration = router.exploration if asked.exploration is None else asked.exploration
    if asked.always is not None:
        if asked.always not in rules.arms.tiers:
            raise UnknownTier(f"--always {asked.always}: this profile's tiers are {', '.join(rules.arms.tiers)}")
        rules = dataclasses.replace(
            rules, default=dataclasses.replace(rules.default, tier=asked.always), confidence_threshold=1.0
        )
        checkpoint = _unsure(untrained.checkpoint, checkpoint)
        exploration = asked.exploration or 0.0
    return rules.router(checkpoint, exploration=exploration)


def report(asked: Asked, router: Router, stretch: Stretch, found: Supposition) -> dict[str, Any]:
    """What `--json` prints."""
    policy = {
        "checkpoint": None if asked.always else router.checkpoint.id,
        "always": asked.always,
        "objective": asdict(router.objective),
        "exploration": router.exploration,
    }
    figures = asdict(found)
    shown = {"policy": policy, "answers": figures.pop("answers"), "sessions": figures.pop("sessions")}
    shown |= {"left_out": stretch.left_out, "ess": round(figures.pop("ess"), 2), "least_ess": LEAST_EFFECTIVE}
    if found.supported:
        return {**shown, **figures}
    return {**shown, "supported": False, "why": refusal(found).message, "hint": refusal(found).hint}


def refusal(found: Supposition) -> InvalidRequest:
    """Why there is no estimate, and what would help."""
    if not found.answers:
        return InvalidRequest(
            "no judged answer in this stretch was routed with exploration: the log says nothing of other routes",
            hint="Set router.exploration above 0 (0.05 is usual), let it answer for a while, and ask again.",
        )
    more = math.ceil(found.answers * LEAST_EFFECTIVE / found.ess) if found.ess > 0 else 0
    wanted = f"about {more} explored answers at this rate" if more else "answers on the routes that it would take"
    return InvalidRequest(
        f"the effective sample size is {found.ess:.1f} of {found.answers} answers in {found.sessions} sessions: "
        f"under {LEAST_EFFECTIVE:g} no interval can be trusted",
        hint=f"It takes {wanted}, more exploration, a longer stretch (--from, --to), or a policy nearer to the log's.",
    )


def _unsure(untrained: Checkpoint, priced: Checkpoint) -> Checkpoint:
    """One that is never confident, so that the default is always taken, at what routes cost in force."""
    parameters = dataclasses.replace(untrained.parameters, costs=priced.parameters.costs)
    return dataclasses.replace(untrained, parameters=parameters)
