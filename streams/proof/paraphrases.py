"""`ruvllm eval paraphrases`: the questions of a set in other words, by the profile's largest local model.

A paraphrase is kept if it is one question, is not the original, and has all of its names and numbers:
without those it would be another question. What could not be had in a few attempts is left out.

Invariant: the file on disk is whole at every moment, and a second run makes only what is missing.
"""

from __future__ import annotations

import gzip
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from ruvllm.models.memory.lexicon import names_of, terms_of, words_of
from ruvllm.models.pool.chat_template import ChatMessage, ChatTemplate
from ruvllm.models.pool.job import Job
from ruvllm.models.pool.pool import Pool
from ruvllm.streams.proof.retrieval_sets import Query, paraphrases_in

ASK = (
    "Rewrite the user's question in other words, with another sentence structure. Keep every name, title and "
    "number exactly as it is. Do not answer it. Reply with the rewritten question only."
)
ATTEMPTS = 3
TEMPERATURE, TOP_P = 0.7, 0.9
MAX_TOKENS, CONTEXT_TOKENS = 96, 512
SAVED_EVERY = 10
Say = Callable[[str], None]


async def make_paraphrases(
    queries: Sequence[Query],
    file: Path,
    pool: Pool,
    tier: str,
    template: ChatTemplate,
    *,
    seconds: float,
    time_budget_s: float,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Make what is missing in `file`, for at most `seconds`; how many there are, and how like the originals.

    `overlap`: shared terms as a share of all terms of the two (Jaccard), mean over the questions.
    """
    made = paraphrases_in(file)
    failed: set[str] = set()
    started = time.monotonic()
    fresh = 0
    for query in queries:
        if query.own_id in made:
            continue
        if time.monotonic() - started > seconds:
            break
        other = await _paraphrase(query.question, pool, tier, template, time_budget_s)
        if other is None:
            failed.add(query.own_id)
            continue
        made[query.own_id] = other
        fresh += 1
        if not fresh % SAVED_EVERY:
            _save(file, made)
            say(f"{len(made)} of {len(queries)}")
    if fresh:
        _save(file, made)
    overlaps = [overlap(q.question, made[q.own_id]) for q in queries if q.own_id in made]
    return {
        "file": str(file),
        "questions": len(queries),
        "paraphrased": len(overlaps),
        "made_now": fresh,
        "refused": len(failed),
        "overlap": round(sum(overlaps) / len(overlaps), 4) if overlaps else None,
    }


async def _paraphrase(question: str, pool: Pool, tier: str, template: ChatTemplate, time_budget_s: float) -> str | None:
    prompt = template([ChatMessage("system", ASK), ChatMessage("user", question)])
    first = int.from_bytes(hashlib.sha256(question.encode()).digest()[:3])
    for attempt in range(ATTEMPTS):
        job = Job(prompt, MAX_TOKENS, TEMPERATURE, TOP_P, first + attempt, CONTEXT_TOKENS, time_budget_s)
        other = (await pool.generate(tier, job)).text.strip().strip('"').strip()
        if is_paraphrase(question, other):
            return other
    return None


def is_paraphrase(question: str, other: str) -> bool:
    """Whether `other` may be the same question in other words."""
    if not other or "\n" in other or not other.endswith("?") or words_of(other) == words_of(question):
        return False
    said = f" {words_of(other)} "
    return all(f" {name} " in said for name in names_of(question))


def overlap(question: str, other: str) -> float:
    """Shared terms as a share of all terms of the two, 0 to 1."""
    a, b = set(terms_of(question)), set(terms_of(other))
    return len(a & b) / max(1, len(a | b))


def _save(file: Path, made: dict[str, str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = b"".join(orjson.dumps({"id": i, "question": q}) + b"\n" for i, q in made.items())
    partial = file.with_name(f"{file.name}.part")
    partial.write_bytes(gzip.compress(lines, mtime=0))
    partial.replace(file)
