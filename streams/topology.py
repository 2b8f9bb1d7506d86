"""The flow, once, as data: stages in the order in which an event meets them.

Everything that lists stages or topics (workers, `ruvllm topology`, the README's diagram, AsyncAPI,
tests, dashboards) is made from these rows. A new stage is one row here and one function in agents.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from ruvllm.agents.memory_fold import CHANGES
from ruvllm.schemas import flow, memory, outcome, request, training
from ruvllm.schemas.event import Event

Process = Literal["answer", "pool", "learn"]


class Keeping(Enum):
    """What becomes of a topic's records."""

    LOG = "kept: part of the log that learned state is folded from"
    PASSING = "kept for a week: what stages hand on"
    STATE = "compacted: the last record of a key is in force"


@dataclass(frozen=True)
class Topic:
    """A topic by its `<entity>.<event>` name, with the events that travel in it."""

    name: str
    events: tuple[type[Event], ...]
    keeping: Keeping
    meaning: str
    by_tier: bool = False  # the tier is the entity's suffix: one topic a tier


class Shape(Enum):
    """How a stage consumes."""

    EACH = "one event to the next, in order within a partition"
    OWNER = "fenced owner of its partition: effects happen exactly once"
    JOBS = "many at once, in any order; duplicates are told apart by id"


@dataclass(frozen=True)
class Stage:
    """One consumer group."""

    name: str
    process: Process
    shape: Shape
    consumes: tuple[str, ...]
    produces: tuple[str, ...]
    does: str
    state: str | None = None
    batch: int = 64  # records that an owner may handle in one transaction
    recalls: bool = False  # whether it needs memory, and so a process that folds it


TOPICS: tuple[Topic, ...] = (
    Topic("request.submitted", (request.Ask,), Keeping.LOG, "what users ask: produce here"),
    Topic("feedback.submitted", (request.Rate,), Keeping.LOG, "what users say of answers: produce here"),
    Topic("turn.accepted", (flow.Turn,), Keeping.PASSING, "valid requests, keyed to their session"),
    Topic("rating.accepted", (flow.RatingAccepted,), Keeping.LOG, "valid feedback, keyed to its request's session"),
    Topic("request.admitted", (flow.Admitted,), Keeping.PASSING, "one in flight a session"),
    Topic("context.retrieved", (flow.Retrieved,), Keeping.PASSING, "with what memory had on it"),
    Topic("request.routed", (flow.Routed,), Keeping.PASSING, "with a tier and its settings", by_tier=True),
    Topic("answer.generated", (flow.Generated,), Keeping.PASSING, "with what the model said"),
    Topic("request.failed", (flow.Failed,), Keeping.PASSING, "what a stage gave up on"),
    Topic("response.completed", (request.Response,), Keeping.PASSING, "terminal answers and errors: consume here"),
    Topic("interaction.recorded", (flow.Interaction,), Keeping.LOG, "each request whole: what loops learn from"),
    Topic("session.state", (flow.SessionState, flow.AnsweredState), Keeping.STATE, "the desk's memory"),
    Topic(
        "document.submitted",
        (memory.PutDocument, memory.RemoveDocument),
        Keeping.LOG,
        "documents to remember or forget: produce here",
    ),
    Topic("document.processed", (memory.DocumentProcessed,), Keeping.PASSING, "what became of each command"),
    Topic("document.state", (memory.DocumentState,), Keeping.STATE, "what each document has put into memory"),
    Topic(
        "memory.changed",
        CHANGES,
        Keeping.LOG,
        "the memory: its fold is all that is known",
    ),
    Topic("memory.folded", (memory.MemoryFolded,), Keeping.STATE, "how far each view of memory has come"),
    Topic("outcome.judged", (outcome.Judged,), Keeping.LOG, "how good each answer was: what loops learn from"),
    Topic("retraction.submitted", (outcome.Retract,), Keeping.LOG, "what is to have taught nothing: `ruvllm undo`"),
    Topic("judgement.doubted", (outcome.JudgementDoubted,), Keeping.PASSING, "what the cheap judge wavers on"),
    Topic("judgement.settled", (outcome.JudgementSettled,), Keeping.PASSING, "what a large model said of it"),
    Topic("judgement.state", (outcome.JudgementState,), Keeping.STATE, "what the judge knows of each request"),
    Topic("candidates.credited", (outcome.CandidatesCredited,), Keeping.LOG, "what the ranker learns from"),
    Topic(
        "training.recorded",
        (training.TrainingRecorded, training.CheckpointPublished, training.CheckpointChosen),
        Keeping.LOG,
        "runs, what they learnt, and what serves since",
    ),
    Topic("reinforcement.state", (outcome.ReinforcementState,), Keeping.STATE, "what memory learnt from each"),
)

STAGES: tuple[Stage, ...] = (
    Stage(
        "intake",
        "answer",
        Shape.EACH,
        ("request.submitted", "feedback.submitted"),
        ("turn.accepted", "rating.accepted"),
        "validate, clamp event time, key by tenant and session",
    ),
    Stage(
        "desk",
        "answer",
        Shape.OWNER,
        ("turn.accepted", "answer.generated", "request.failed"),
        ("request.admitted", "response.completed", "interaction.recorded", "session.state"),
        "admit one request a session, answer each exactly once, watch deadlines",
        state="session.state",
    ),
    Stage(
        "retrieve",
        "answer",
        Shape.EACH,
        ("request.admitted",),
        ("context.retrieved",),
        "embed the question, search memory, walk the graph",
        recalls=True,
    ),
    Stage(
        "route",
        "answer",
        Shape.EACH,
        ("context.retrieved",),
        ("request.routed",),
        "128 features, FastGRNN: tier, context size, temperature, top_p",
    ),
    Stage(
        "generate",
        "pool",
        Shape.JOBS,
        ("request.routed",),
        ("answer.generated",),
        "build the context, generate",
    ),
    Stage(
        "judge",
        "learn",
        Shape.OWNER,
        ("interaction.recorded", "rating.accepted", "judgement.settled", "retraction.submitted"),
        ("outcome.judged", "judgement.doubted", "judgement.state"),
        "how good was the answer, and which passages carried it",
        state="judgement.state",
        batch=16,
    ),
    Stage(
        "verify",
        "pool",
        Shape.JOBS,
        ("judgement.doubted",),
        ("judgement.settled",),
        "the largest tier: does the text say so, yes or no",
    ),
    Stage(
        "reinforce",
        "learn",
        Shape.OWNER,
        ("outcome.judged",),
        ("memory.changed", "candidates.credited", "reinforcement.state"),
        "Loop A: what an outcome means for edges and nodes",
        state="reinforcement.state",
        recalls=True,
    ),
    Stage(
        "documents",
        "learn",
        Shape.OWNER,
        ("document.submitted",),
        ("memory.changed", "document.processed", "document.state"),
        "chunk, embed, link; replace what changed",
        state="document.state",
        batch=1,  # one may take a minute
    ),
)

FAILURES = "request.failed"
"""Every stage may give up on a request: its failure goes here, and the desk answers."""

_TOPIC = {topic.name: topic for topic in TOPICS}
_STAGE = {stage.name: stage for stage in STAGES}


def topic(name: str) -> Topic:
    return _TOPIC[name]


def stage(name: str) -> Stage:
    return _STAGE[name]


def stages_of(process: Process) -> tuple[Stage, ...]:
    return tuple(s for s in STAGES if s.process == process)


@dataclass(frozen=True)
class Names:
    """Topic and group names of one installation: `<prefix>.<entity>.<event>.v1`."""

    prefix: str
    tiers: tuple[str, ...]
    partitions: int

    def topic(self, name: str, tier: str | None = None, version: int = 1) -> str:
        """The Kafka name of a topic. A topic by tier needs the tier."""
        if _TOPIC[name].by_tier:
            if tier is None:
                raise ValueError(f"topic {name} is one a tier: which?")
            entity, event = name.split(".")
            name = f"{entity}-{tier}.{event}"
        return f"{self.prefix}.{name}.v{version}"

    def topics(self, name: str) -> tuple[str, ...]:
        """All Kafka names of a topic: one, or one a tier."""
        if _TOPIC[name].by_tier:
            return tuple(self.topic(name, tier) for tier in self.tiers)
        return (self.topic(name),)

    def group(self, stage_name: str) -> str:
        return f"{self.prefix}.{stage_name}"

    def dead_letters(self, kafka_topic: str, stage_name: str) -> str:
        return f"{kafka_topic}.{stage_name}.dlq"

    def consumed(self, stage_row: Stage) -> tuple[str, ...]:
        return tuple(name for topic_name in stage_row.consumes for name in self.topics(topic_name))

    def every(self) -> Iterator[tuple[str, Topic]]:
        """Every Kafka topic of the flow (dead letters aside) with its row."""
        for row in TOPICS:
            for name in self.topics(row.name):
                yield name, row

    def every_dead_letter(self) -> Iterator[str]:
        for row in STAGES:
            for name in self.consumed(row):
                yield self.dead_letters(name, row.name)

    def destination(self, event: Event) -> str:
        """Where an event travels."""
        tier = event.route.tier if isinstance(event, flow.Routed) else None
        return self.topic(event.topic, tier)

    def partition(self, event: Event) -> int:
        return partition_of(event.partition_key, self.partitions)


def client_names(prefix: str, partitions: int) -> Names:
    """The names that a client needs: it neither knows nor uses the topics of the tiers."""
    return Names(prefix, (), partitions)


def partition_of(key: str, partitions: int) -> int:
    """Our own partitioner, the same in every language: CRC-32 of the UTF-8 key, modulo partitions."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % partitions
