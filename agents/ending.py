"""How a request ends: the response that its user gets and the interaction that everybody learns from."""

from __future__ import annotations

from datetime import datetime

from ruvllm.schemas.flow import Admitted, Failed, Generated, Interaction, Origin, RouterState, Turn, interaction_id
from ruvllm.schemas.request import Fault, Response, Source

SNIPPET_CHARS = 280
TURNS_KEPT = 4
"""Of a session, whose features are kept: another checkpoint makes its state from them."""


def submission_of(event: Turn | Admitted | Failed) -> tuple[Origin | None, str | None]:
    """Where it was submitted, and the topic that wants a copy of its response."""
    if isinstance(event, Failed):
        return event.origin, event.reply_to
    return event.request.origin, event.request.reply_to


def response_to(
    event: Turn | Admitted | Failed, answer: Generated | None, fault: Fault | None, now: datetime
) -> Response:
    """The terminal response: of an answer, or of a fault when there is none."""
    submitted = event.submitted_at if isinstance(event, Failed) else event.request.submitted_at
    total = {"total": (now - submitted).total_seconds() * 1000} if submitted else {}
    identity = {
        "tenant": event.tenant,
        "session": event.session,
        "request_id": event.request_id,
        "time": now,
        "interaction_id": interaction_id(event.tenant, event.session, event.request_id),
    }
    if answer is None:
        return Response(**identity, finish_reason="error", error=fault, latency_ms=total)
    used = {p.node_id: p for p in answer.retrieval.passages}
    shown = () if answer.generation.finish_reason == "abstained" else answer.generation.context_nodes
    return Response(
        **identity,
        text=answer.generation.text,
        confidence=answer.generation.confidence,
        sources=tuple(
            Source(node_id=p.node_id, title=p.title, snippet=p.text[:SNIPPET_CHARS], score=p.score)
            for p in (used[n] for n in shown if n in used)
        ),
        tier=answer.route.tier,
        model=answer.generation.model,
        model_sha256=answer.generation.model_sha256,
        memory_offsets=answer.retrieval.memory_offsets,
        usage=answer.generation.usage,
        latency_ms={**answer.latency_ms, **total},
        finish_reason=answer.generation.finish_reason,
    )


def router_state_after(before: RouterState | None, answer: Generated) -> RouterState:
    """What the router knows of a session once a turn of it is answered."""
    route = answer.route
    earlier = before.features if before is not None and before.features_version == route.features_version else ()
    return RouterState(
        checkpoint=route.checkpoint,
        hidden=route.hidden,
        features=(*earlier, route.features)[-TURNS_KEPT:],
        features_version=route.features_version,
        tier=route.tier,
        confidence=answer.generation.confidence,
        finish_reason=answer.generation.finish_reason,
    )


def interaction_of(flight: Admitted, answer: Generated | None, fault: Fault | None, now: datetime) -> Interaction:
    """What was asked, all that was decided on the way, and how it ended: what the loops learn from."""
    return Interaction(
        tenant=flight.tenant,
        session=flight.session,
        request_id=flight.request_id,
        time=now,
        interaction_id=flight.interaction_id,
        request=flight.request,
        history=flight.history,
        router_state=flight.router_state,
        retrieval=answer.retrieval if answer else None,
        route=answer.route if answer else None,
        generation=answer.generation if answer else None,
        fault=fault,
        latency_ms=answer.latency_ms if answer else {},
    )
