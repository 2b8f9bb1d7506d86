"""Generate: passages and history become a prompt, a model's words become an answer.

If the question is to be answered from memory and memory holds nothing on it, no model is asked: the
answer says so. A redelivered request draws with the same seed, so its answer is the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ruvllm.agents.clock import Clock
from ruvllm.errors import DeadlineExceeded
from ruvllm.models.pool.chat_template import ChatTemplate
from ruvllm.models.pool.job import Job
from ruvllm.models.pool.pool import Pool
from ruvllm.models.pool.prompt import ABSTENTION, PROMPT_VERSION, Prompt, PromptPassage, build_prompt
from ruvllm.models.pool.token_estimate import CountTokens
from ruvllm.schemas.flow import Generated, Generation, Passage, Routed
from ruvllm.schemas.request import Usage

NOTHING_IN_MEMORY = "I don't know: memory holds nothing on this."
ANSWERING_S = 0.2
"""Left of the deadline for the answer's way back."""


@dataclass(frozen=True)
class GenerationRules:
    """Bounds of one generation, in tokens and seconds, where the request sets none."""

    max_tokens: int = 256
    time_budget_s: float = 90.0


async def generate(
    event: Routed, pool: Pool, templates: Mapping[str, ChatTemplate], rules: GenerationRules, clock: Clock
) -> Generated:
    """Answer one request. Raises DeadlineExceeded, PromptTooLong, ModelCrashed or ModelUnavailable."""
    left_s = (event.deadline - clock.now()).total_seconds() - ANSWERING_S
    if left_s <= 0:
        raise DeadlineExceeded(f"the deadline {event.deadline.isoformat()} passed before tier {event.route.tier} began")
    if event.request.constraints.grounding == "memory" and not event.retrieval.passages:
        return event.followed_by(Generated, time=clock.now(), generation=_nothing_known(_seed(event)))
    budget_s = min(left_s, rules.time_budget_s)
    compose = partial(_compose, event, templates[event.route.tier], rules, budget_s)
    completion, prompt = await pool.generate_fitting(event.route.tier, compose)
    abstained = completion.text.strip().lower().startswith(ABSTENTION.lower().rstrip("."))
    generation = Generation(
        text=completion.text.strip(),
        confidence=completion.confidence,
        usage=Usage(
            prompt_tokens=completion.prompt_tokens,
            cached_tokens=completion.cached_tokens,
            completion_tokens=completion.completion_tokens,
        ),
        finish_reason="abstained" if abstained else completion.finish_reason,
        model=completion.model,
        model_sha256=completion.model_sha256,
        prompt_version=prompt.version,
        context_nodes=prompt.used,
        seed=_seed(event),
        attempts=completion.attempts,
    )
    return event.followed_by(Generated, time=clock.now(), generation=generation)


def _compose(
    event: Routed, template: ChatTemplate, rules: GenerationRules, budget_s: float, count_tokens: CountTokens
) -> tuple[Job, Prompt]:
    constraints, route = event.request.constraints, event.route
    max_tokens = min(constraints.max_tokens or rules.max_tokens, route.context_tokens // 2)
    prompt = build_prompt(
        event.request.question,
        [(m.role, m.content) for m in event.history],
        _in_order(event.retrieval.passages),
        budget_tokens=route.context_tokens - max_tokens,
        count_tokens=count_tokens,
        grounding=constraints.grounding,
    )
    job = Job(
        prompt=template(prompt.messages),
        max_tokens=max_tokens,
        temperature=route.temperature,
        top_p=route.top_p,
        seed=_seed(event),
        context_tokens=route.context_tokens,
        time_budget_s=budget_s,
        stop=constraints.stop,
    )
    return job, prompt


def _in_order(passages: Sequence[Passage]) -> list[PromptPassage]:
    """Passages for the prompt; their order is retrieve's, which may have learnt it."""
    return [PromptPassage(p.node_id, p.title, p.text, -float(place)) for place, p in enumerate(passages)]


def _seed(event: Routed) -> int:
    given = event.request.constraints.seed
    return given if given is not None else zlib.crc32(event.interaction_id.encode())


def _nothing_known(seed: int) -> Generation:
    return Generation(
        text=NOTHING_IN_MEMORY, confidence=0.0, finish_reason="abstained", prompt_version=PROMPT_VERSION, seed=seed
    )
