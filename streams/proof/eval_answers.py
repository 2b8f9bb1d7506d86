"""`ruvllm eval answers`: the share of right answers by tier, with memory and without.

Closed book (grounding none) is the control: what a model says of a place that it cannot know. Right is
what `corpus.is_right` says: one of the accepted strings stands in the answer as whole words. The whole
flow runs, in serial mode, at temperature 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ruvllm.schemas.request import Response
from ruvllm.streams.ingest import documents_in
from ruvllm.streams.proof.corpus import Question, is_right, load_questions, load_unanswerable
from ruvllm.streams.proof.report import report
from ruvllm.streams.serial import SerialSystem
from ruvllm.streams.settings import Settings

MAX_TOKENS = 48
LOOP_A = ("judge", "verify", "reinforce")
Say = Callable[[str], None]


async def eval_answers(
    settings: Settings,
    folder: Path,
    *,
    tiers: Sequence[str] | None = None,
    limit: int | None = None,
    paraphrases: bool = False,
    seed: int = 1,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Ask every question of a folder (corpus/, questions.jsonl, unanswerable.jsonl) of every tier."""
    questions = load_questions(folder)[:limit]
    unanswerable = load_unanswerable(folder)[:limit]
    results: dict[str, Any] = {}
    answers: list[dict[str, Any]] = []
    fixed = settings.model_copy(update={"router": settings.router.model_copy(update={"exploration": 0.0})})
    async with SerialSystem(fixed, without=LOOP_A) as system:  # memory must not learn from one question to the next
        await system.send(*documents_in([folder / "corpus"]))
        await system.run()
        passages = system.memory.stats().nodes
        for tier in tiers or system.wiring.tiers:
            results[tier] = {}
            for name, grounding in (("with_memory", "memory"), ("without", "none")):
                started = time.perf_counter()
                asked = [(q, text) for q in questions for text in _wordings(q, paraphrases)]
                rows = [await _ask(system, tier, grounding, q, text, seed) for q, text in asked]
                right = sum(row["right"] for row in rows)
                results[tier][name] = {
                    "right": round(right / len(rows), 4),
                    "n": len(rows),
                    "one_hop": _share(rows, hops=1),
                    "two_hops": _share(rows, hops=2),
                    "seconds_a_question": round((time.perf_counter() - started) / len(rows), 2),
                }
                answers += rows
                say(f"{tier} {name}: {right} of {len(rows)} right")
            abstained = [
                (await _respond(system, tier, "memory", text, seed)).finish_reason == "abstained"
                for text in unanswerable
            ]
            if abstained:
                results[tier]["unanswerable_abstained"] = round(sum(abstained) / len(abstained), 4)
                say(f"{tier} says that it does not know: {sum(abstained)} of {len(abstained)} unanswerable")
    sizes = {"questions": len(questions), "unanswerable": len(unanswerable), "passages": passages}
    return report(
        "ruvllm eval answers",
        seed=seed,
        sizes={**sizes, "profile": settings.profile, "max_tokens": MAX_TOKENS, "paraphrases": paraphrases},
        results={"tiers": results, "answers": answers},
    )


def _wordings(question: Question, paraphrases: bool) -> tuple[str, ...]:
    return question.paraphrases if paraphrases else (question.question,)


async def _ask(
    system: SerialSystem, tier: str, grounding: str, question: Question, text: str, seed: int
) -> dict[str, Any]:
    response = await _respond(system, tier, grounding, text, seed)
    return {
        "id": question.id,
        "hops": question.hops,
        "tier": tier,
        "grounding": grounding,
        "question": text,
        "answer": response.text,
        "right": is_right(response.text, question.answers),
        "finish_reason": response.finish_reason,
    }


async def _respond(system: SerialSystem, tier: str, grounding: str, text: str, seed: int) -> Response:
    return await system.ask(
        text, allowed_tiers=(tier,), grounding=grounding, temperature=0.0, max_tokens=MAX_TOKENS, seed=seed
    )


def _share(rows: list[dict[str, Any]], *, hops: int) -> float | None:
    chosen = [row["right"] for row in rows if row["hops"] == hops]
    return round(sum(chosen) / len(chosen), 4) if chosen else None
