"""`ruvllm bench junk`: what memory keeps of interactions of which half were answered badly.

Questions are about sentences of a corpus; they repeat, the common ones often. Good answers say the sentence
in another order, or copy it (recalled text, which must not be written back); bad ones are sentences of other
passages, sentences with a number or a name changed, and sentences mixed from two. Each interaction goes
through the judge and through reinforce; then it is counted what was kept and who made it. Junk is a node that
only badly answered interactions made.

In place of the judge there can be the truth. It comes as it does from users: a third of the first verdicts are
wrong, and the truth follows as a revision, so memory has to take back what it learnt.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Literal

from ruvllm.agents.clock import Clock
from ruvllm.agents.documents import DocumentKeeper
from ruvllm.agents.memory_fold import fold
from ruvllm.agents.reinforce import Reinforcement, ReinforcementRules
from ruvllm.models.embedding import Embedder
from ruvllm.models.judge.item import Item
from ruvllm.models.judge.item import Served as Shown
from ruvllm.models.judge.judge import Judge
from ruvllm.models.judge.weights import packaged_weights
from ruvllm.models.memory.found import Hit
from ruvllm.models.memory.node import Node
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.flow import Origin
from ruvllm.schemas.memory import MemoryChange
from ruvllm.schemas.outcome import Judged, Served
from ruvllm.schemas.vector import Float32s
from ruvllm.streams.ingest import documents_in
from ruvllm.streams.proof.report import report

Truth = Literal["truth", "cheap"]
KINDS = ("reworded", "copied", "elsewhere", "altered", "mixed")
WEIGHTS = (0.25, 0.25, 0.2, 0.2, 0.1)
GOOD = frozenset({"reworded", "copied"})
SERVED = 4
MISTAKEN = 1 / 3
TOLD_AFTER = 50
"""Interactions between a wrong verdict and the truth."""
TENANT = "default"
BEGAN = datetime(2030, 1, 1, tzinfo=UTC)
ORIGIN = Origin(topic="junk", partition=0, offset=0)


@dataclass(frozen=True)
class Asking:
    """A question about one sentence of a passage."""

    question: str
    passage: str
    sentence: str


class _Stepping:
    """A clock that stands where the simulation is."""

    def __init__(self) -> None:
        self.at = BEGAN

    def now(self) -> datetime:
        return self.at


async def bench_junk(embedder: Embedder, corpus: Path, *, interactions: int, judge: Truth, seed: int) -> dict[str, Any]:
    """Simulate, and count what was kept."""
    clock, draws = _Stepping(), random.Random(seed)
    memory = await _documents(embedder, corpus, clock)
    askings = _askings([n for n in memory.contents().nodes if n.kind == "document"])
    keeper = Reinforcement(_Source(memory), embedder, clock, ReinforcementRules())
    judging = Judge(packaged_weights(), embedder.embed) if judge == "cheap" else None
    popularity = [1 / (rank + 1) for rank in range(len(askings))]  # Zipf: the common ones come often
    draws.shuffle(askings)
    kinds: dict[str, str] = {}
    mistakes, untold = random.Random(seed), deque[Judged]()
    started = time.perf_counter()
    changes = count()

    async def learn(outcome: Judged) -> None:
        for emit in (await keeper.handle(outcome, ORIGIN)).emits:
            if isinstance(emit.event, MemoryChange):
                fold(memory, emit.event, next(changes))

    for number in range(interactions):
        clock.at = BEGAN + timedelta(minutes=number)
        (asking,) = draws.choices(askings, popularity)
        (kind,) = draws.choices(KINDS, WEIGHTS)
        (vector,) = embedder.embed([asking.question])
        hits = memory.search(TENANT, vector, SERVED, kinds=("document",))
        if kind == "copied" and asking.passage not in [h.node.node_id for h in hits]:
            kind = "reworded"  # nobody can copy what was not served
        answer = _answer(kind, asking, askings, draws)
        outcome = _outcome(number, asking, answer, vector, hits, embedder.name, clock.now())
        kinds[outcome.interaction_id] = kind
        if judging is not None:
            await learn(_judged(outcome, judging, hits))
            continue
        good = kind in GOOD
        if len(untold) > TOLD_AFTER:
            await learn(untold.popleft())
        mistaken = mistakes.random() < MISTAKEN
        await learn(_told(outcome, good != mistaken, asking, revision=0))
        untold.append(_told(outcome, good, asking, revision=1))
    while untold:
        await learn(untold.popleft())
    return report(
        "ruvllm bench junk",
        seed=seed,
        sizes={"interactions": interactions, "questions": len(askings), "embedder": embedder.name},
        results={
            "judge": judge,
            "answered_badly": sum(kind not in GOOD for kind in kinds.values()),
            **_counts(memory, kinds),
            "ms_an_interaction": round(1000 * (time.perf_counter() - started) / interactions, 2),
        },
    )


class _Source:
    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def offsets(self) -> Mapping[str, int]:
        return {}


async def _documents(embedder: Embedder, corpus: Path, clock: Clock) -> Memory:
    memory = Memory(embedder.name, embedder.dimension)
    keeper = DocumentKeeper(embedder, clock, (TENANT,), document_chars=10**7, document_passages=10**4)
    for offset, command in enumerate(documents_in([corpus])):
        origin = Origin(topic="document.submitted", partition=0, offset=offset)
        for emit in (await keeper.handle(command, origin)).emits:
            if isinstance(emit.event, MemoryChange):
                fold(memory, emit.event)
    return memory


def _askings(passages: Sequence[Node]) -> list[Asking]:
    """One question for each sentence that is long enough to be asked about."""
    found = []
    for node in passages:
        for sentence in re.split(r"(?<=[.!?])\s+", node.text):
            words = sentence.split()
            if len(words) >= 8:
                about = " ".join(words[1:5])
                found.append(Asking(f"What is said under {node.title} of {about}?", node.node_id, sentence))
    return found


def _answer(kind: str, asking: Asking, askings: Sequence[Asking], draws: random.Random) -> str:
    words = asking.sentence.rstrip(".").split()
    half = len(words) // 2
    other = draws.choice([a for a in draws.sample(askings, 8) if a.passage != asking.passage] or [asking])
    if kind == "copied":
        return asking.sentence
    if kind == "elsewhere":
        return other.sentence
    if kind == "mixed":
        return " ".join([*words[:half], *other.sentence.split()[half:]])
    reworded = " ".join(["It is that", *words[half:], "-", *words[:half]])
    if kind == "reworded":
        return reworded
    numbers = re.findall(r"\d+", reworded)
    if numbers:
        return reworded.replace(numbers[0], str(int(numbers[0]) + draws.randint(1, 9)), 1)
    names = [w for w in words[1:] if w[:1].isupper()] or words[-1:]
    return reworded.replace(draws.choice(names), draws.choice(other.sentence.split()), 1)


def _outcome(
    number: int,
    asking: Asking,
    answer: str,
    vector: Float32s,
    hits: Sequence[Hit],
    embedder: str,
    now: datetime,
) -> Judged:
    """An interaction's outcome before anything is known of it."""
    return Judged(
        tenant=TENANT,
        session=f"s{number}",
        request_id=f"r{number}",
        time=now,
        interaction_id=f"ix{number}",
        revision=0,
        quality=0.0,
        success=0.0,
        by="task",
        client=f"client-{number % 50}",
        question=asking.question,
        query_vector=vector,
        embedder=embedder,
        answer=answer,
        served=tuple(
            Served(node_id=h.node.node_id, node_kind="document", similarity=h.similarity, support=0.0) for h in hits
        ),
    )


def _judged(outcome: Judged, judging: Judge, hits: Sequence[Hit]) -> Judged:
    """By the cheap judge."""
    shown = tuple(Shown(h.node.node_id, h.node.text) for h in hits)
    judged = judging.judge(Item(outcome.question, outcome.answer, shown, abstained=False, confidence=0.7))
    return _with(outcome, judged.quality, judged.support, by="cheap")


def _told(outcome: Judged, good: bool, asking: Asking, *, revision: int) -> Judged:
    """By somebody who says whether the answer is good."""
    return _with(outcome, float(good), {asking.passage: float(good)}, revision=revision)


def _with(outcome: Judged, quality: float, support: Mapping[str, float], **facts: object) -> Judged:
    served = tuple(s.model_copy(update={"support": min(1.0, support.get(s.node_id, 0.0))}) for s in outcome.served)
    return outcome.model_copy(update={"quality": quality, "success": quality, "served": served, **facts})


def _counts(memory: Memory, kinds: Mapping[str, str]) -> dict[str, Any]:
    """What was kept, by kind of node, and which of it is junk."""
    makers: dict[tuple[str, str], list[str]] = {}
    for node in memory.contents().nodes:
        if node.made_by:
            makers.setdefault((node.kind, node.node_id), []).append(kinds[node.made_by])
    junk = Counter(kind for (kind, _), made in makers.items() if not GOOD.intersection(made))
    copies = sum(kind == "answer" and set(made) == {"copied"} for (kind, _), made in makers.items())
    kept = Counter(kind for kind, _ in makers)
    return {
        "kept": dict(sorted(kept.items())),
        "junk": dict(sorted(junk.items())),
        "junk_share": round(junk.total() / max(1, kept.total()), 4),
        "recalled_text_written_back": copies,
    }
