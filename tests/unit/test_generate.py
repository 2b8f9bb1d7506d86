"""Generate: the bounds of a job follow from request, route and clock, and an answer says how it came about."""

from datetime import timedelta

import pytest

from ruvllm.agents.generate import ANSWERING_S, NOTHING_IN_MEMORY, GenerationRules, generate
from ruvllm.errors import DeadlineExceeded
from ruvllm.models.pool.chat_template import TEMPLATES
from ruvllm.models.pool.job import Completion
from ruvllm.models.pool.pool import Pool
from ruvllm.models.pool.prompt import ABSTENTION
from ruvllm.schemas.flow import Routed
from ruvllm.schemas.request import Constraints
from tests.manual_clock import START, ManualClock
from tests.unit.sample_events import IN_FLIGHT, RETRIEVAL, ROUTE


class Scribe:
    """A generator that keeps its jobs and says what it was told to."""

    def __init__(self, text="Osk.", finish="stop"):
        self.text, self.finish, self.jobs = text, finish, []

    async def generate(self, job):
        self.jobs.append(job)
        return Completion(
            text=self.text,
            confidence=0.5,
            prompt_tokens=40,
            cached_tokens=8,
            completion_tokens=3,
            finish_reason=self.finish,
            model="scribe",
            model_sha256="00",
        )

    async def close(self):
        """Nothing is held."""


def routed(within_s=60.0, passages=True, route=None, **constraints):
    request = IN_FLIGHT["request"].model_copy(update={"constraints": Constraints(**constraints)})
    fields = {**IN_FLIGHT, "request": request, "deadline": START + timedelta(seconds=within_s)}
    retrieval = RETRIEVAL if passages else RETRIEVAL.model_copy(update={"passages": ()})
    return Routed(**fields, retrieval=retrieval, route=ROUTE.model_copy(update=route or {}))


async def answer(event, scribe=None, **rules):
    pool = Pool({"135m": scribe or Scribe()})
    return await generate(event, pool, {"135m": TEMPLATES["chatml"]}, GenerationRules(**rules), ManualClock())


async def job_of(event, **rules):
    scribe = Scribe()
    await answer(event, scribe, **rules)
    return scribe.jobs[0]


async def test_the_job_is_what_route_and_request_say():
    # given a routed request with constraints; when generated; then the job has them
    job = await job_of(routed(max_tokens=5, stop=("END",), seed=9))
    assert (job.max_tokens, job.stop, job.seed) == (5, ("END",), 9)
    assert (job.temperature, job.top_p, job.context_tokens) == (ROUTE.temperature, ROUTE.top_p, ROUTE.context_tokens)


async def test_without_a_seed_it_follows_from_the_interaction():
    # given a request without a seed; when it comes twice, or another comes; then only the same has the same
    first, again, other = routed(), routed(), routed().model_copy(update={"interaction_id": "ix-2"})
    assert (await job_of(first)).seed == (await job_of(again)).seed != (await job_of(other)).seed


@pytest.mark.parametrize(("asked", "context", "given"), [(None, 2048, 256), (4096, 2048, 1024), (40, 2048, 40)])
async def test_an_answer_takes_at_most_half_of_the_context(asked, context, given):
    # given what is asked for and the route's context; when generated; then the answer leaves room for the question
    assert (await job_of(routed(max_tokens=asked, route={"context_tokens": context}))).max_tokens == given


@pytest.mark.parametrize(("within_s", "budget_s"), [(10, 10 - ANSWERING_S), (600, 90)])
async def test_the_time_budget_ends_before_the_deadline(within_s, budget_s):
    # given a deadline near or far; when generated; then the budget leaves time for the way back, and has a bound
    assert (await job_of(routed(within_s))).time_budget_s == pytest.approx(budget_s)


@pytest.mark.parametrize("within_s", [0, -5, ANSWERING_S])
async def test_nothing_is_begun_that_cannot_be_in_time(within_s):
    # given a deadline that has passed or is too near; when offered; then no model is asked
    scribe = Scribe()
    with pytest.raises(DeadlineExceeded, match="tier 135m"):
        await answer(routed(within_s), scribe)
    assert scribe.jobs == []


async def test_no_model_is_asked_about_what_memory_does_not_hold():
    # given a question for memory, and memory has nothing; when generated; then it says so at once
    scribe = Scribe()
    generation = (await answer(routed(passages=False), scribe)).generation
    assert scribe.jobs == []
    assert (generation.text, generation.finish_reason, generation.confidence) == (NOTHING_IN_MEMORY, "abstained", 0)
    assert generation.model is None
    # but with grounding open a model is
    assert (await answer(routed(passages=False, grounding="open"), scribe)).generation.model == "scribe"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (ABSTENTION, "abstained"),
        (f" {ABSTENTION.lower().rstrip('.')}", "abstained"),
        (f"{ABSTENTION} Ask Osk!", "abstained"),
        ("Osk.", "stop"),
        ("", "stop"),
        (f"He said: {ABSTENTION}", "stop"),
    ],
)
async def test_an_abstention_is_told_from_an_answer(said, reason):
    # given what a model said; when generated; then the reason says whether it is an answer
    assert (await answer(routed(), Scribe(said))).generation.finish_reason == reason


async def test_a_cut_answer_keeps_its_reason():
    # given a model that stopped at a limit; when generated; then the reason is the model's
    assert (await answer(routed(), Scribe("Osk and", "length"))).generation.finish_reason == "length"


async def test_the_answer_says_how_it_came_about():
    # given an answer with white space around it; when generated; then it is recorded with all that it took
    after = await answer(routed(), Scribe("  Osk.\n"))
    generation = after.generation
    assert (generation.text, generation.confidence, generation.model) == ("Osk.", 0.5, "scribe")
    assert (generation.usage.prompt_tokens, generation.usage.cached_tokens) == (40, 8)
    assert generation.context_nodes == ("n-1",)
    assert (after.retrieval.memory_offsets, after.route.seed, after.time) == ({"0": 7}, 7, START)
