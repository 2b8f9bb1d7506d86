"""One event of every kind with every field given: what the snapshots hold, and a start for other tests.

The content is fixed for ever: a snapshot is the bytes of version 1, and readers must read it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import (
    Admitted,
    AnsweredState,
    Expected,
    Failed,
    Generated,
    Generation,
    Interaction,
    Origin,
    Passage,
    RatingAccepted,
    Request,
    Retrieval,
    Retrieved,
    Route,
    Routed,
    RouterState,
    SessionState,
    Turn,
)
from ruvllm.schemas.memory import (
    DocumentProcessed,
    DocumentState,
    EdgeAdded,
    EdgeContributed,
    EdgePruned,
    EdgeRemoved,
    MemoryFolded,
    NodeAdded,
    NodeMerged,
    NodeRemoved,
    NodeRetracted,
    PutDocument,
    RemoveDocument,
)
from ruvllm.schemas.outcome import (
    CandidatesCredited,
    Contribution,
    Judged,
    JudgementDoubted,
    JudgementSettled,
    JudgementState,
    ReinforcementState,
    Retract,
    Retraction,
    Served,
)
from ruvllm.schemas.request import Ask, Constraints, Fault, Message, Rate, Response, Source, Usage
from ruvllm.schemas.training import CheckpointChosen, CheckpointPublished, TrainingRecorded, Verdict

TIME = datetime(2031, 5, 17, 9, 0, 0, 250_000, tzinfo=UTC)
VECTOR = np.array([0.0, -1.25, 3.0e-8, 0.1], dtype=np.float32)
IDENTITY = {"tenant": "harbour", "session": "tour", "request_id": "r-1", "time": TIME}
RUN = {"tenant": "harbour", "time": TIME, "learner": "attention"}
MEMORY = {"tenant": "harbour", "time": TIME, "change_id": "ch-1"}

CONSTRAINTS = Constraints(
    max_tokens=64,
    deadline=TIME + timedelta(seconds=30),
    allowed_tiers=("135m",),
    minimum_quality=0.25,
    temperature=0.5,
    top_p=0.75,
    seed=4_294_967_295,
    stop=("\n\n", "END"),
    memory_filter={"kind": "rule"},
    grounding="open",
)
MESSAGES = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="Wer hütet die Lampe? 灯 🏮"),
)
ORIGIN = Origin(topic="ruvllm.request.submitted.v1", partition=3, offset=41)
REQUEST = Request(
    messages=MESSAGES,
    constraints=CONSTRAINTS,
    tags={"channel": "desk"},
    reply_to="answers.harbour",
    retry_of="r-0",
    submitted_at=TIME,
    origin=ORIGIN,
)
ROUTER_STATE = RouterState(
    checkpoint="router-1",
    hidden=VECTOR,
    features=(VECTOR,),
    features_version=2,
    tier="135m",
    confidence=0.75,
    finish_reason="length",
)
RETRIEVAL = Retrieval(
    query_vector=VECTOR,
    embedder="hashing-v1-384",
    passages=(
        Passage(
            node_id="n-1",
            node_kind="document",
            title="Lamps > Keepers",
            text="Osk keeps the lamp.",
            document_id="lamps.md",
            score=0.5,
            similarity=0.625,
            via=("e-1",),
            age_s=12.5,
        ),
    ),
    memory_offsets={"0": 7},
)
ROUTE = Route(
    tier="135m",
    context_tokens=2048,
    temperature=0.5,
    top_p=0.75,
    probability=0.9,
    arms={"tier": {"135m": 1.0}, "top_p": {"0.75": 1.0}},
    available_tiers=("135m",),
    features=VECTOR,
    features_version=1,
    hidden=VECTOR,
    checkpoint="router-1",
    confidence=0.5,
    fallback=True,
    expected=Expected(quality=0.75, latency_s=1.5, cost=0.125),
    policy="epsilon-greedy",
    exploration=0.1,
    seed=7,
)
GENERATION = Generation(
    text="Osk.",
    confidence=0.875,
    usage=Usage(prompt_tokens=40, cached_tokens=16, completion_tokens=3),
    finish_reason="stop",
    model="smollm2-135m-q4_1",
    model_sha256="b179c952",
    prompt_version="1",
    context_nodes=("n-1",),
    seed=7,
    attempts=2,
)
FAULT = Fault(code="model_crashed", message="it died twice", hint="look at the file", stage="generate")
LATENCY = {"retrieve": 1.5, "total": 20.25}
IN_FLIGHT = {
    **IDENTITY,
    "interaction_id": "ix-1",
    "request": REQUEST,
    "history": MESSAGES,
    "deadline": TIME + timedelta(seconds=30),
    "router_state": ROUTER_STATE,
    "latency_ms": LATENCY,
}
RESPONSE = Response(
    **IDENTITY,
    interaction_id="ix-1",
    text="Osk.",
    confidence=0.875,
    sources=(Source(node_id="n-1", title="Lamps > Keepers", snippet="Osk keeps", score=0.5),),
    tier="135m",
    model="smollm2-135m-q4_1",
    model_sha256="b179c952",
    memory_offsets={"0": 7},
    usage=Usage(prompt_tokens=40, cached_tokens=16, completion_tokens=3),
    latency_ms=LATENCY,
    finish_reason="stop",
    error=FAULT,
    repeated=True,
)
TURN = Turn(**IDENTITY, request=REQUEST, deadline=TIME + timedelta(seconds=30))

RATING = RatingAccepted(
    **IDENTITY,
    feedback_id="f-1",
    rating=5,
    score=0.5,
    passed=False,
    expected="Osk",
    correction="Osk.",
    comment="good",
)
INTERACTION = Interaction(
    **IDENTITY,
    interaction_id="ix-1",
    request=REQUEST,
    history=MESSAGES,
    router_state=ROUTER_STATE,
    retrieval=RETRIEVAL,
    route=ROUTE,
    generation=GENERATION,
    fault=FAULT,
    latency_ms=LATENCY,
)
NODE = {
    **MEMORY,
    "node_id": "n-1",
    "node_kind": "document",
    "title": "Lamps > Keepers",
    "text": "Osk keeps the lamp.",
    "document_id": "lamps.md",
    "position": 2,
    "metadata": {"kind": "rule"},
    "embedder": "hashing-v1-384",
    "vector": VECTOR,
}
RETRACTION = Retraction(
    reason="a wrong source",
    contributions={"e-1": Contribution(source="n-1", target="n-2", relation="co_retrieved", amount=0.25)},
    nodes=("n-3",),
)
JUDGED = Judged(
    **IDENTITY,
    interaction_id="ix-1",
    revision=1,
    quality=0.75,
    success=0.5,
    by="task",
    reasons=("rated 4 of 5",),
    client="c-7",
    question="Who keeps the lamp?",
    follows_on=True,
    query_vector=VECTOR,
    embedder="hashing-v1-384",
    answer="Osk.",
    accepted="Osk",
    served=(Served(node_id="n-1", node_kind="document", similarity=0.5, support=0.75, via=("e-1",)),),
    candidates=("n-1", "n-2"),
    tier="135m",
    judge_ms=1.5,
    retraction=None,  # told by Retract
)

SAMPLES: tuple[Event, ...] = (
    Ask(
        **IDENTITY,
        prompt="Who keeps the lamp?",
        messages=MESSAGES,
        constraints=CONSTRAINTS,
        tags={"channel": "desk"},
        client="c-7",
        reply_to="answers.harbour",
        retry_of="r-0",
    ),
    Rate(
        **IDENTITY,
        feedback_id="f-1",
        rating=5,
        score=0.5,
        passed=True,
        expected="Osk",
        correction="Osk.",
        comment="good",
    ),
    RESPONSE,
    TURN,
    RATING,
    Admitted(**IN_FLIGHT),
    Retrieved(**IN_FLIGHT, retrieval=RETRIEVAL),
    Routed(**IN_FLIGHT, retrieval=RETRIEVAL, route=ROUTE),
    Generated(**IN_FLIGHT, retrieval=RETRIEVAL, route=ROUTE, generation=GENERATION),
    Failed(
        **IDENTITY, fault=FAULT, interaction_id="ix-1", origin=ORIGIN, reply_to="answers.harbour", submitted_at=TIME
    ),
    INTERACTION,
    SessionState(
        **IDENTITY,
        history=MESSAGES,
        in_flight=Admitted(**IN_FLIGHT),
        waiting=(TURN,),
        repeats={"r-1": (ORIGIN,)},
        router_state=ROUTER_STATE,
        answered=3,
    ),
    AnsweredState(**IDENTITY, origins=(ORIGIN,), response=RESPONSE),
    PutDocument(
        tenant="harbour",
        time=TIME,
        command_id="c-1",
        document_id="lamps.md",
        media_type="text/plain",
        title="Lamps",
        content="Osk keeps the lamp.\n",
        metadata={"kind": "rule"},
    ),
    RemoveDocument(tenant="harbour", time=TIME, command_id="c-2", document_id="lamps.md"),
    DocumentProcessed(
        tenant="harbour",
        time=TIME,
        command_id="c-1",
        document_id="lamps.md",
        outcome="replaced",
        chunks=3,
        added=2,
        removed=1,
        memory_offsets={"0": 7},
        fault=FAULT,
    ),
    DocumentState(
        tenant="harbour",
        time=TIME,
        document_id="lamps.md",
        title="Lamps",
        content_hash="doc-1",
        embedder="hashing-v1-384",
        nodes=("n-1", "n-2"),
        edges=("e-1",),
        commands=("c-1",),
        handled={"2": 41},
        removed=True,
    ),
    NodeAdded(**NODE, made_by=""),
    NodeRemoved(**MEMORY, node_id="n-1", reason="document changed"),
    NodeMerged(**NODE, made_by="ix-2", similarity=0.96875),
    NodeRetracted(**MEMORY, node_id="n-1", made_by="ix-2", reason="the answer was wrong"),
    EdgeAdded(**MEMORY, edge_id="e-1", source="n-1", target="n-2", relation="follows", weight=0.25),
    EdgeRemoved(**MEMORY, edge_id="e-1", reason="document changed"),
    EdgeContributed(
        **MEMORY,
        edge_id="e-1",
        source="n-1",
        target="n-2",
        relation="co_retrieved",
        made_by="ix-1",
        client="c-7",
        amount=-0.25,
        outcomes=1,
        evidence=None,  # version 1 began without it
    ),
    EdgePruned(**MEMORY, edge_id="e-1", reason="its outcomes left it without weight"),
    MemoryFolded(tenant="harbour", time=TIME, view_id="answer-1", offsets={"0": 7}),
    JUDGED,
    Retract(**IDENTITY, interaction_id="ix-1", retraction=RETRACTION, outcome=JUDGED),
    JudgementDoubted(
        **IDENTITY,
        interaction_id="ix-1",
        question="Who keeps the lamp?",
        answer="Osk.",
        passages=("Osk keeps the lamp.",),
        support=(0.75,),
    ),
    JudgementSettled(**IDENTITY, interaction_id="ix-1", log_odds=-1.25, model="135m", judge_ms=850.5),
    JudgementState(**IDENTITY, interaction=INTERACTION, ratings=(RATING,), outcome=JUDGED, retracted=True),
    CandidatesCredited(**IDENTITY, interaction_id="ix-1", revision=1, credit={"n-1": 0.5}, retracted=False),
    ReinforcementState(
        **IDENTITY,
        interaction_id="ix-1",
        revision=1,
        contributions={"e-1": Contribution(source="n-1", target="n-2", relation="co_retrieved", amount=-0.25)},
        nodes=("q-1",),
        retracted=True,
    ),
    TrainingRecorded(
        **RUN,
        run_id="run-1",
        offsets={"interaction.recorded": {"0": 7}},
        seed=1,
        parent="ckpt-0",
        configuration={"epochs": 12.0},
        versions={"torch": "2.6"},
        examples=30,
        verdict=Verdict(passed=True, gain=0.125, error=0.03125, questions=30),
        measures={"effective_samples": 20.5},
        checkpoint="ckpt-1",
        seconds=1.5,
    ),
    CheckpointPublished(**RUN, checkpoint="ckpt-1", run_id="run-1", parameters=b"\x00\x01"),
    CheckpointChosen(**RUN, checkpoint="ckpt-1", reason="gain 0.125 on 30 questions"),
)
BY_KIND = {event.kind: event for event in SAMPLES}


def content(event: Event) -> tuple[type[Event], dict[str, object]]:
    """Everything in an event; vectors are base64 there, so equal content is equal bit for bit."""
    return type(event), event.model_dump()
