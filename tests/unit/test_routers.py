"""Which router serves, by the log of its learner; and what the next one learns from."""

import dataclasses
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.agents.routers import RouterCourse, Routers, propensity_of_pair
from ruvllm.models.router.arms import Action, Arms
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.models.router.features import FEATURES_VERSION
from ruvllm.models.router.objective import Objective
from ruvllm.models.router.policy import Behaviour
from ruvllm.models.router.rules import Rules
from ruvllm.schemas.event import session_key
from ruvllm.schemas.flow import Interaction
from ruvllm.schemas.outcome import Judged
from ruvllm.schemas.request import Usage
from ruvllm.schemas.training import CheckpointChosen, CheckpointPublished
from tests.manual_clock import START
from tests.unit.sample_events import BY_KIND, GENERATION, INTERACTION, JUDGED, REQUEST, ROUTE, SAMPLES

TIERS = ("135m", "0.5b", "1.5b")
ARMS = Arms(TIERS, (1024, 2048), (0.0, 0.5), (1.0,))
DEFAULT = Action("1.5b", 2048, 0.0, 1.0)
PRICES = (0.25, 0.5, 2.0)
RULES = Rules(ARMS, DEFAULT, PRICES, Objective(cost_weight=0.3), confidence_threshold=0.0)
UNTRAINED = RULES.router(Checkpoint.initial(ARMS, 0, PRICES), exploration=0.1)
FACTS = {"time": START, "learner": "router"}

# --- which one serves -----------------------------------------------------------------------------


def trained(seed):
    return Checkpoint.initial(ARMS, seed, PRICES)


def published(checkpoint, *, parameters=None, **changed):
    raw = checkpoint.packed() if parameters is None else parameters
    return CheckpointPublished(**{**FACTS, "checkpoint": checkpoint.id, "run_id": "run", "parameters": raw, **changed})


def chosen(checkpoint, **changed):
    name = checkpoint and checkpoint.id
    return CheckpointChosen(**{**FACTS, "checkpoint": name, "reason": "it passed", **changed})


def folded(*events):
    routers = Routers(UNTRAINED)
    for event in events:
        routers.apply(event)
    return routers


def serving(*events):
    return folded(*events).current().checkpoint


def test_the_last_choice_serves_under_the_same_policy():
    # given two checkpoints, published; when chosen one after the other; then the last one serves
    one, two = trained(1), trained(2)
    assert folded().current() is UNTRAINED
    assert folded(published(one), published(two)).current() is UNTRAINED
    assert serving(published(one), published(two), chosen(two), chosen(one)) == one
    router = folded(published(one), chosen(one), published(two), chosen(two)).current()
    assert router.checkpoint == two
    # with the profile's objective, threshold, default and exploration
    for name in ("arms", "default", "objective", "confidence_threshold", "exploration"):
        assert getattr(router, name) == getattr(UNTRAINED, name)


def test_a_router_that_decides_now_is_not_changed_by_a_later_choice():
    # given the router that serves; when another is chosen; then who holds it decides by it to the end
    one, two = trained(1), trained(2)
    routers = folded(published(one), chosen(one), published(two))
    held = routers.current()
    routers.apply(chosen(two))
    assert (held.checkpoint, routers.current().checkpoint) == (one, two)


def test_a_choice_of_an_earlier_checkpoint_or_of_none_rolls_back():
    # given two checkpoints in force one after the other; when the first is chosen again, or none; then that serves
    one, two = trained(1), trained(2)
    history = published(one), chosen(one), published(two), chosen(two)
    assert serving(*history, chosen(one)) == one
    assert folded(*history, chosen(None)).current() is UNTRAINED
    # and all choices are there to be shown
    assert [event.checkpoint for event in folded(*history, chosen(None)).chosen] == [one.id, two.id, None]


def test_a_checkpoint_that_cannot_serve_is_passed_over():
    # given one of other arms, one cut off, one that is none, and one never published; when chosen over a sound one
    sound = trained(1)
    other = Checkpoint.initial(Arms(("7b",), (2048,), (0.0,), (1.0,)), 0)
    cut = published(trained(2), parameters=trained(2).packed()[:-100])
    none = published(trained(3), parameters=b"?")
    events = published(sound), published(other), cut, none, chosen(sound)
    for odd in (other, trained(2), trained(3), trained(4)):
        # then the untrained one serves, until the next sound choice
        assert folded(*events, chosen(odd)).current() is UNTRAINED
        assert serving(*events, chosen(odd), chosen(sound)) == sound


def test_a_checkpoint_of_changed_content_is_passed_over():
    # given a sound checkpoint's bytes with one weight changed in them; when chosen; then the untrained one serves
    one = trained(1)
    changed = dataclasses.replace(one, parameters=dataclasses.replace(one.parameters, zeta=np.array(2.0)))
    forged = Checkpoint(one.arms, changed.parameters)
    forged.__dict__["id"] = one.id
    assert folded(published(one, parameters=forged.packed()), chosen(one)).current() is UNTRAINED


def test_events_of_the_other_learner_and_of_other_kinds_change_nothing():
    # given a router in force; when the attention learner publishes and chooses the same names; then nothing changes
    one, two = trained(1), trained(2)
    routers = folded(published(one), chosen(one))
    theirs = {"learner": "attention"}
    for event in (published(two, **theirs), chosen(two, **theirs), chosen(None, **theirs), *SAMPLES):
        routers.apply(event)
    assert routers.current().checkpoint == one
    assert routers.packed(two.id) is None
    assert (len(routers.chosen), routers.last_run) == (1, None)


def test_runs_are_kept_and_the_last_is_known():
    # given two runs, one of them held back; when folded; then both are there, and nothing is in force for that
    run = BY_KIND["training.recorded"].model_copy(update={"learner": "router"})
    later = run.model_copy(update={"run_id": "run-2", "checkpoint": None})
    routers = folded(run, later)
    assert [event.run_id for event in routers.runs] == ["run-1", "run-2"]
    assert routers.last_run == later
    assert routers.current() is UNTRAINED


def test_a_published_checkpoint_s_bytes_are_at_hand_and_only_the_newest_are_kept():
    # given seventeen checkpoints of which sixteen are kept; when their bytes are asked for
    many = [trained(seed) for seed in range(1, 18)]
    routers = folded(*(published(c, parameters=b"%d" % place) for place, c in enumerate(many)))
    # then they are those that were published; of the oldest, of none and of an unknown one there are none
    assert [routers.packed(c.id) for c in many] == [None, *(b"%d" % place for place in range(1, 17))]
    assert routers.packed(None) is routers.packed("router-elsewhere") is None


# --- what the next one learns from ----------------------------------------------------------------


def route_of(action, *, exploration=0.2, permitted=ARMS, **changed):
    """A logged decision as the policy writes it: the default preferred, some exploration."""
    preferred = dataclasses.replace(DEFAULT, tier=permitted.tiers[-1])
    behaviour = Behaviour(preferred, permitted, exploration)
    given = {
        **dataclasses.asdict(action),
        "probability": behaviour.probability(action),
        "arms": behaviour.marginals(),
        "available_tiers": permitted.tiers,
        "features": np.full(128, 0.25, np.float32),
        "features_version": FEATURES_VERSION,
        "exploration": exploration,
    }
    return ROUTE.model_copy(update={**given, **changed})


def asked(number, *, session=None, action=DEFAULT, second=None, **changed):
    """An interaction, `number` seconds after the start if not told otherwise, in a session of its own likewise."""
    given = {
        "interaction_id": f"ix-{number:03d}",
        "session": session or f"s-{number:03d}",
        "time": START + timedelta(seconds=number if second is None else second),
        "route": route_of(action),
        "generation": GENERATION.model_copy(
            update={"usage": Usage(prompt_tokens=400, cached_tokens=150, completion_tokens=50)}
        ),
        "latency_ms": {"generate": 1250.0, "total": 2000.0},
    }
    return INTERACTION.model_copy(update={**given, **changed})


def judged(number, quality=0.5, revision=0):
    return JUDGED.model_copy(
        update={"interaction_id": f"ix-{number:03d}", "quality": quality, "revision": revision, "tier": "1.5b"}
    )


def learnt(outcomes, interactions, *, recent=100, rules=RULES):
    course = RouterCourse(rules, recent=recent)
    for event in (*outcomes, *interactions):
        course.take(event)
    return course.lessons()


def test_an_answer_is_learnt_as_it_was_routed_and_judged():
    # given an explored answer and its outcome; when learnt from
    action = Action("0.5b", 1024, 0.5, 1.0)
    (found,) = learnt([judged(1, 0.75)], [asked(1, action=action)])
    # then all that counts is there: what was seen, done, permitted and wanted, and what came of it
    assert found.session == session_key("harbour", "s-001")
    assert found.features.tolist() == [0.25] * 128
    assert (found.action, found.permitted, found.explored) == (action, ARMS, True)
    assert found.minimum_quality == REQUEST.constraints.minimum_quality == 0.25
    assert (found.quality, found.latency_s) == (0.75, 1.25)
    # and it cost the tier's price for each of the tokens that were not cached, by thousands
    assert found.cost == pytest.approx(0.5 * (400 - 150 + 50) / 1000)


@pytest.mark.parametrize(
    "action", [DEFAULT, Action("0.5b", 2048, 0.0, 1.0), Action("135m", 1024, 0.5, 1.0), Action("1.5b", 1024, 0.0, 1.0)]
)
def test_the_propensity_is_that_of_tier_and_context_whatever_the_sampling(action):
    # given a decision by a policy of heads that are drawn apart; when its propensity is asked for
    found = propensity_of_pair(route_of(action))
    # then it is the sum over all sampling settings of what the policy does with that tier and context
    behaviour = Behaviour(DEFAULT, ARMS, 0.2)
    pairs = [other for other in ARMS if (other.tier, other.context_tokens) == (action.tier, action.context_tokens)]
    assert found == pytest.approx(sum(behaviour.probability(other) for other in pairs))
    marginals = behaviour.marginals()
    assert found == marginals["tier"][action.tier] * marginals["context_tokens"][str(action.context_tokens)]
    # and the lesson has it
    assert learnt([judged(1)], [asked(1, action=action)])[0].propensity == found


def test_an_answer_that_was_not_explored_says_so_and_narrower_choices_are_kept():
    # given a decision without exploration among two of the tiers, with a temperature of the asker's own
    narrow = dataclasses.replace(ARMS, tiers=("135m", "0.5b"), temperatures=(0.9,))
    action = Action("0.5b", 2048, 0.9, 1.0)
    behaviour = Behaviour(action, narrow, 0.0)
    route = route_of(action, arms=behaviour.marginals(), probability=1.0, exploration=0.0)
    (found,) = learnt([judged(1)], [asked(1, route=route)])
    # then it is learnt as such
    assert (found.explored, found.propensity, found.permitted) == (False, 1.0, narrow)


def test_the_last_verdict_counts():
    # given several verdicts on one answer, in any order, one of them again; when learnt from; then the last counts
    told = [judged(1, 0.25, revision=1), judged(1, 1.0, revision=2), judged(1, 0.0), judged(1, 1.0, revision=2)]
    for order in (told, told[::-1]):
        assert [lesson.quality for lesson in learnt(order, [asked(1)])] == [1.0]
    # and an interaction that is delivered twice is one
    assert len(learnt(told, [asked(1), asked(1)])) == 1


def test_what_was_routed_otherwise_or_not_judged_teaches_nothing():
    # given answers without outcome, route or generation, of other features, of a tier or a context that is no more
    odd = [
        asked(1, route=None),
        asked(2, generation=None),
        asked(3, route=route_of(DEFAULT, features_version=FEATURES_VERSION - 1)),
        asked(4, route=route_of(DEFAULT, tier="7b")),
        asked(5, route=route_of(DEFAULT, context_tokens=4096)),
    ]
    # when learnt from beside a sound one; then that alone teaches
    found = learnt([judged(n) for n in range(1, 7)], [*odd, asked(6), asked(7)])
    assert [lesson.session for lesson in found] == [session_key("harbour", "s-006")]
    assert learnt([], [asked(6)]) == learnt([judged(6)], []) == []


def test_a_session_s_answers_follow_each_other_by_time():
    # given two sessions that go on at the same time; when learnt from; then each is whole, the earlier one first
    order = [(1, "a", 10), (2, "b", 20), (3, "a", 30), (4, "b", 5), (5, "a", 30)]
    interactions = [asked(n, session=s, second=second) for n, s, second in order]
    found = learnt([judged(n, n / 10) for n, _, _ in order], interactions)
    assert [(lesson.session[-1], lesson.quality) for lesson in found] == [
        ("b", 0.4),
        ("b", 0.2),
        ("a", 0.1),
        ("a", 0.3),  # at the same second, by id
        ("a", 0.5),
    ]


def contents(lessons):
    return [(lesson.session, lesson.quality, lesson.action, lesson.propensity, lesson.cost) for lesson in lessons]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9), st.sampled_from(TIERS)), max_size=14),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_what_is_learnt_does_not_hang_on_the_order_of_reading(rows, recent, draws):
    # given outcomes, some revised, and interactions; when read in another order within each kind
    told = [judged(n, n / 20, revision) for n in range(len(rows)) for revision in range(n % 3 + 1)]
    interactions = [
        asked(n, session=session, second=second, action=dataclasses.replace(DEFAULT, tier=tier))
        for n, (session, second, tier) in enumerate(rows)
    ]
    again = learnt(draws.sample(told, len(told)), draws.sample(interactions, len(interactions)), recent=recent)
    # then the lessons are the same, in the same order
    assert contents(again) == contents(learnt(told, interactions, recent=recent))
    assert len({lesson.session for lesson in again}) == min(2 * recent, len({row[0] for row in rows}))


def test_the_newest_sessions_are_learnt_from_and_a_uniform_sample_of_those_before():
    # given sixty logs of twenty-five sessions of which ten may be kept; when learnt from
    counts = np.zeros(25)
    for log in range(60):
        interactions = [asked(n, session=f"log-{log}-{n:02d}") for n in range(25)]
        kept = [int(lesson.session[-2:]) for lesson in learnt(map(judged, range(25)), interactions, recent=5)]
        assert kept == sorted(kept)
        counts[kept] += 1
    # then the newest five always are, and each of the others as often as any other: 15 of 60, within four deviations
    assert (counts[20:] == 60).all()
    assert counts[:20].sum() == 60 * 5
    assert np.abs(counts[:20] - 15).max() < 4 * np.sqrt(60 * 0.25 * 0.75)


def test_a_course_reads_outcomes_before_the_interactions_that_they_are_of():
    # given the kinds that a course names; then outcomes come first, and those are what a new run waits for
    assert RouterCourse.kinds == (Judged, Interaction)
    assert (RouterCourse.learner, RouterCourse.counted) == ("router", Judged.topic)


@pytest.mark.parametrize(("place", "bit"), [(6, 0x41), (8, 1), (10, 1)])  # version, flags, method
def test_a_checkpoint_damaged_in_the_archive_s_directory_is_passed_over(place, bit):
    # given a checkpoint with one bit turned in the directory of its archive; when chosen; then the untrained one serves
    one = trained(1)
    raw = bytearray(one.packed())
    raw[raw.rfind(b"PK\x01\x02") + place] ^= bit
    events = published(one, parameters=bytes(raw)), chosen(one)
    assert folded(*events).current() is UNTRAINED


@pytest.mark.parametrize("arms", [{"tier": {"1.5b": 1.0}}, {}, {"temperature": {"0.5": 0.5, "0.0": 0.5}}])
def test_a_decision_whose_probabilities_are_not_all_there_teaches_nothing(arms):
    # given a logged decision without the probabilities of a head, beside a sound one; then the sound one teaches
    whole = route_of(DEFAULT).arms if "temperature" in arms else {}
    odd = asked(1, route=route_of(DEFAULT, arms={**whole, **arms}))
    assert len(learnt(map(judged, (1, 2)), [odd, asked(2)])) == 1
