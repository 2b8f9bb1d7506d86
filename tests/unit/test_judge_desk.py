"""The judge as a keeper: an outcome for each answer, revisions for what is heard of it later."""

import asyncio

import pytest

from ruvllm.agents.judge import JudgeDesk, JudgeRules, settle
from ruvllm.errors import DeadlineExceeded
from ruvllm.models.embedding import HashingEmbedder
from ruvllm.models.judge.judge import Judge
from ruvllm.models.judge.weights import packaged_weights
from ruvllm.models.pool.chat_template import TEMPLATES
from ruvllm.models.pool.echo import EchoGenerator
from ruvllm.models.pool.job import Choice, Job, Segment
from ruvllm.models.pool.pool import QUIET_S, Pool
from ruvllm.schemas.flow import Generation, Origin, RatingAccepted
from ruvllm.schemas.outcome import (
    Judged,
    JudgementDoubted,
    JudgementSettled,
    JudgementState,
    Retract,
    Retraction,
)
from tests.manual_clock import START, ManualClock
from tests.unit.sample_events import INTERACTION

ORIGIN = Origin(topic="interaction.recorded", partition=0, offset=0)
EMBEDDER = HashingEmbedder()


class Bench:
    """A judge's desk and what it has written."""

    def __init__(self, **rules):
        self.rules = JudgeRules(**rules)
        self.written = []
        self.restart()

    def restart(self):
        self.desk = JudgeDesk(Judge(packaged_weights(), EMBEDDER.embed), ManualClock(), self.rules)
        for emit in self.written:
            if emit.tombstone:
                self.desk.forget(emit.event.record_key)
            elif isinstance(emit.event, JudgementState):
                self.desk.apply(emit.event)

    def meet(self, *events):
        new = [e for event in events for e in asyncio.run(self.desk.handle(event, ORIGIN)).emits]
        self.written += new
        return [e.event for e in new]

    def judged(self):
        return [e.event for e in self.written if isinstance(e.event, Judged)]


def interaction(request_id="r-1", answer="Osk keeps the lamp.", question="Who keeps the lamp?", **facts):
    passage = INTERACTION.retrieval.passages[0].model_copy(update={"text": "Osk keeps the lamp."})
    (vector,) = EMBEDDER.embed([question])
    retrieval = INTERACTION.retrieval.model_copy(update={"passages": (passage,), "query_vector": vector})
    message = INTERACTION.request.messages[-1].model_copy(update={"content": question})
    generation = Generation.model_validate({**dict(INTERACTION.generation), "text": answer, "finish_reason": "stop"})
    return INTERACTION.model_copy(
        update={
            "request_id": request_id,
            "interaction_id": f"ix-{request_id}",
            "request": INTERACTION.request.model_copy(update={"messages": (message,)}),
            "retrieval": retrieval,
            "generation": generation,
            **facts,
        }
    )


def rating(feedback_id="f-1", request_id="r-1", **verdict):
    return RatingAccepted(
        tenant=INTERACTION.tenant,
        session=INTERACTION.session,
        request_id=request_id,
        time=START,
        feedback_id=feedback_id,
        **verdict,
    )


def retract(request_id="r-1", outcome=None):
    return Retract(
        tenant=INTERACTION.tenant,
        session=INTERACTION.session,
        request_id=request_id,
        time=START,
        interaction_id=f"ix-{request_id}",
        retraction=Retraction(reason="undo"),
        outcome=outcome,
    )


@pytest.fixture
def bench():
    return Bench(costly=False)


def test_an_answer_gets_an_outcome_with_support_by_source(bench):
    # given an answer that its passage carries; when recorded; then it is judged good, with that passage's support
    (outcome, _) = bench.meet(interaction())
    assert (outcome.revision, outcome.by, outcome.answer) == (0, "cheap", "Osk keeps the lamp.")
    assert outcome.quality > 0.5
    (served,) = outcome.served
    assert served.support > 0.5
    assert outcome.time == INTERACTION.time


def test_a_request_without_an_answer_has_no_outcome(bench):
    # given a request that failed; when recorded; then there is nothing to judge
    assert bench.meet(interaction(generation=None)) == []


def test_what_comes_again_makes_no_outcome(bench):
    # given an interaction and feedback; when both are delivered again, also to a new owner; then nothing is said
    events = (interaction(), rating(rating=5))
    bench.meet(*events)
    assert bench.meet(*events) == []
    bench.restart()
    assert bench.meet(*events) == []
    assert [o.revision for o in bench.judged()] == [0, 1]


def test_feedback_overrides_the_judge_whenever_it_comes(bench):
    # given two answers, one rated before and one after it was recorded; when both are known; then both count alike
    bench.meet(rating(rating=1), interaction())
    bench.meet(interaction("r-2"), rating("f-2", "r-2", rating=1))
    early, *late = bench.judged()
    assert (early.quality, early.by, early.revision) == (0.0, "task", 0)
    assert (late[-1].quality, late[-1].by, late[-1].revision) == (0.0, "task", 1)


def test_feedback_survives_a_change_of_owner(bench):
    # given feedback that waits for its interaction; when another owner takes over; then it is not lost
    bench.meet(rating(score=0.25))
    bench.restart()
    assert bench.meet(interaction())[0].quality == 0.25


def test_the_newest_word_of_a_kind_counts(bench):
    # given a rating that is changed; when heard; then the last one is in force
    bench.meet(interaction(), rating(rating=1), rating("f-2", rating=5))
    assert [o.quality for o in bench.judged()][1:] == [0.0, 1.0]


def test_an_accepted_answer_travels_with_the_outcome(bench):
    # given a wrong answer; when the accepted one is told; then the outcome says so, and which passage holds it
    bench.meet(interaction(answer="Bread."), rating(expected="Osk"))
    outcome = bench.judged()[-1]
    assert (outcome.quality, outcome.accepted) == (0.0, "Osk")
    assert outcome.served[0].support >= 0.5


def test_another_sessions_and_another_tenants_feedback_is_not_heard(bench):
    # given an answer; when others rate a request of the same id; then its outcome stays
    bench.meet(interaction())
    others = (
        rating(rating=1).model_copy(update={"session": "other"}),
        rating(rating=1).model_copy(update={"tenant": "t2"}),
    )
    bench.meet(*others)
    assert [o.by for o in bench.judged()] == ["cheap"]


def test_in_doubt_a_large_model_is_asked_once_and_its_word_is_a_revision():
    # given an answer on which the cheap judge wavers; when recorded; then a large model is asked
    bench = Bench(costly=True)
    doubts = [e for a in WAVERING for e in bench.meet(interaction(a, answer=a)) if isinstance(e, JudgementDoubted)]
    assert doubts
    doubt = doubts[0]
    # and when it has spoken; then that is another revision, and saying it again is none
    pool = Pool({"small": EchoGenerator()})
    settled = asyncio.run(
        settle(doubt, pool, {"small": next(iter(TEMPLATES.values()))}, ManualClock(), time_budget_s=5)
    )
    assert isinstance(settled, JudgementSettled)
    outcome = next(e for e in bench.meet(settled) if isinstance(e, Judged))
    assert (outcome.revision, outcome.by, outcome.request_id) == (1, "log_odds", doubt.request_id)
    assert bench.meet(settled) == []


def test_a_large_models_word_does_not_override_the_users():
    # given an answer in doubt that the user has rated; when the large model speaks; then the user's word stands
    bench = Bench(costly=True)
    doubts = [e for a in WAVERING for e in bench.meet(interaction(a, answer=a)) if isinstance(e, JudgementDoubted)]
    bench.meet(rating("f", doubts[0].request_id, rating=5))
    late = JudgementSettled(
        tenant=INTERACTION.tenant,
        session=INTERACTION.session,
        request_id=doubts[0].request_id,
        time=START,
        interaction_id=doubts[0].interaction_id,
        log_odds=-5.0,
        model="small",
        judge_ms=1.0,
    )
    assert bench.meet(late) == []


def test_requests_are_kept_up_to_a_bound_and_then_forgotten_with_a_tombstone():
    # given a desk that keeps two; when a third is judged; then the longest known is forgotten
    bench = Bench(costly=False, interactions_kept=2)
    bench.meet(*[interaction(r) for r in ("r-1", "r-2", "r-3")])
    assert [e.event.request_id for e in bench.written if e.tombstone] == ["r-1"]


@pytest.mark.parametrize("restarted", [False, True])
def test_ratings_of_requests_that_nobody_made_push_out_no_answer(restarted):
    # given a desk that keeps two answers and waits for one request; when five are rated that nobody made
    bench = Bench(costly=False, interactions_kept=2, requests_waited_for=1)
    bench.meet(interaction("r-1"), interaction("r-2"))
    bench.meet(*[rating(f"f-{i}", f"made-up-{i}", rating=1) for i in range(5)])
    # then only such are forgotten, by tombstones, and both answers can still be rated
    assert [e.event.request_id for e in bench.written if e.tombstone] == [f"made-up-{i}" for i in range(4)]
    if restarted:
        bench.restart()
    for number in (1, 2):
        (outcome, _) = bench.meet(rating(f"f-of-{number}", f"r-{number}", rating=5))
        assert (outcome.request_id, outcome.quality, outcome.revision) == (f"r-{number}", 1.0, 1)


def test_an_answer_that_came_waits_no_longer():
    # given a request that was rated first; when its answer and a rating of another request come; then it is kept
    bench = Bench(costly=False, requests_waited_for=1)
    bench.meet(rating(rating=5), interaction(), rating("f-2", "r-2", rating=1))
    assert [e.event.request_id for e in bench.written if e.tombstone] == []
    bench.restart()
    assert bench.meet(rating("f-3", rating=1))[0].quality == 0.0


WAVERING = [
    "Osk.",
    "It is Osk who lights it.",
    "Osk keeps the lamp of Ommerlisk with two goats and a ladder.",
    "The lamp is kept by a keeper.",
    "Perhaps Osk keeps it, perhaps Tern.",
]


async def test_a_large_model_is_not_asked_while_users_wait_for_answers():
    # given a pool that is busy with an answer; when an opinion is wanted; then it comes after the answer and a pause
    pool = Pool({"small": EchoGenerator(delay_s=0.3)})
    prompt = (Segment("Who?", control=False),)
    job = Job(prompt, max_tokens=4, temperature=0, top_p=1, seed=1, context_tokens=64, time_budget_s=5)
    doubt = Choice(prompt, ("Yes",), ("No",), context_tokens=64, time_budget_s=10)
    started = asyncio.get_running_loop().time()
    answer = asyncio.create_task(pool.generate("small", job))
    await asyncio.sleep(0)
    await pool.log_odds("small", doubt)
    assert answer.done()
    assert asyncio.get_running_loop().time() - started >= 0.3 + QUIET_S
    # and when there is no quiet in its time; then the doubt stays
    answer = asyncio.create_task(pool.generate("small", job))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded, match="busy"):
        await pool.log_odds("small", Choice(prompt, ("Yes",), ("No",), context_tokens=64, time_budget_s=0.1))
    await answer


def test_ratings_of_a_request_are_bounded_and_the_newest_count(bench):
    # given more ratings of one answer than are kept; when heard; then the last is in force and the state stays small
    bench.meet(interaction())
    for number in range(40):
        bench.meet(rating(f"f-{number}", rating=1 + number % 5))
    assert bench.judged()[-1].quality == 1.0
    (state,) = bench.desk._states.values()
    assert len(state.ratings) == 32


# --- taken back -----------------------------------------------------------------------------------


def test_a_retraction_is_the_last_revision_whatever_comes_after(bench):
    # given an answer that was judged and rated; when it is taken back, again, and then rated by somebody
    bench.meet(interaction(), rating(rating=5))
    bench.meet(retract(), retract(), rating("f-2", rating=1), interaction())
    bench.restart()
    bench.meet(retract(), rating("f-3", rating=1))
    # then one revision more was said, and it is the retraction
    assert [(o.revision, o.retraction is not None) for o in bench.judged()] == [(0, False), (1, False), (2, True)]


def test_the_owners_word_counts_where_the_command_knows_less(bench):
    # given a command that was planned before a rating; when both are met; then it takes back the rating's revision
    (first, _) = bench.meet(interaction())
    bench.meet(rating(rating=1), retract(outcome=first))
    assert [o.revision for o in bench.judged()] == [0, 1, 2]
    assert bench.judged()[-1].quality == bench.judged()[1].quality


def test_what_is_under_way_is_never_judged_once_it_was_taken_back(bench):
    # given a rating and a retraction of a request that nobody has answered yet; when its interaction comes
    bench.meet(rating(rating=5), retract())
    bench.restart()
    bench.meet(interaction(), rating("f-2", rating=5))
    # then nothing is said of it
    assert bench.judged() == []


def test_what_the_judge_has_forgotten_is_taken_back_as_the_command_tells():
    # given a judge of one interaction, and two; when the first is taken back, twice
    bench = Bench(costly=False, interactions_kept=1)
    (first, _) = bench.meet(interaction())
    bench.meet(interaction("r-2"))
    bench.meet(retract(outcome=first), retract(outcome=first))
    # then what is said is its next revision, and the same when it comes again
    back = [o for o in bench.judged() if o.retraction is not None]
    assert {(o.interaction_id, o.revision) for o in back} == {("ix-r-1", 1)}
