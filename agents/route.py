"""Route: which model answers, with how much context and which sampling settings (Loop B's policy)."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from typing import Protocol

from ruvllm.agents.clock import Clock
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.models.router.fastgrnn import Float32s
from ruvllm.models.router.features import FEATURES_VERSION, FORM, request_features, with_past
from ruvllm.models.router.past_outcomes import Outlook
from ruvllm.models.router.policy import Router
from ruvllm.models.router.signals import Hit, MemorySignals, PreviousTurn
from ruvllm.schemas.flow import Expected, Retrieved, Route, Routed, RouterState


class PastSource(Protocol):
    """What became of past questions, by tenant."""

    def outlook(self, tenant: str, vector: Float32s, form: Float32s) -> Outlook | None: ...


async def route(
    event: Retrieved,
    router: Router,
    available_tiers: Collection[str],
    clock: Clock,
    past: PastSource | None = None,
    *,
    explore: bool = True,
) -> Routed:
    """Decide for one request. Raises UnknownTier or ModelUnavailable if no permitted tier is served.

    The hidden state of another checkpoint means nothing to this one: its own is made from what the session's last
    turns looked like. The draw's seed
    follows from the interaction id: a redelivered request takes the same route.
    """
    now = clock.now()
    before = event.router_state
    constraints = event.request.constraints
    features = request_features(
        event.request.question,
        query_vector=event.retrieval.query_vector,
        signals=MemorySignals.of(
            Hit(p.similarity, p.node_kind, bool(p.via), p.age_s, len(p.text)) for p in event.retrieval.passages
        ),
        history_turns=len(event.history) // 2,
        history_characters=sum(len(m.content) for m in event.history),
        previous=PreviousTurn(before.confidence, before.tier, before.finish_reason) if before else None,
        tiers=router.arms.tiers,
        deadline_slack_s=(event.deadline - now).total_seconds(),
        max_tokens=constraints.max_tokens,
        minimum_quality=constraints.minimum_quality,
        grounding=constraints.grounding,
    )
    if past is not None:
        outlook = past.outlook(event.tenant, event.retrieval.query_vector, features[FORM])
        features = with_past(features, outlook)
    decision = router.decide(
        features,
        _hidden(before, router.checkpoint),
        available_tiers=available_tiers,
        allowed_tiers=constraints.allowed_tiers,
        temperature=constraints.temperature,
        top_p=constraints.top_p,
        minimum_quality=constraints.minimum_quality,
        explore=explore,
        seed=zlib.crc32(event.interaction_id.encode()),
    )
    chosen = Route(
        tier=decision.action.tier,
        context_tokens=decision.action.context_tokens,
        temperature=decision.action.temperature,
        top_p=decision.action.top_p,
        probability=decision.probability,
        arms=decision.probabilities,
        available_tiers=tuple(t for t in router.arms.tiers if t in available_tiers),
        features=features,
        features_version=FEATURES_VERSION,
        hidden=decision.hidden,
        checkpoint=decision.checkpoint,
        confidence=decision.confidence,
        fallback=decision.fallback,
        expected=Expected(**decision.expected._asdict()),
        policy=decision.policy,
        exploration=decision.exploration,
        seed=decision.seed,
    )
    return event.followed_by(Routed, time=now, route=chosen)


def _hidden(before: RouterState | None, checkpoint: Checkpoint) -> Float32s | None:
    """The session's state under a checkpoint, None at its start or where nothing of it can be read."""
    if before is None:
        return None
    if before.checkpoint == checkpoint.id:
        return before.hidden
    if before.features_version != FEATURES_VERSION or not before.features:
        return None
    return checkpoint.after(before.features)
