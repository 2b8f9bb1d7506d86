"""The fold of judged outcomes that routes are estimated from: by tenant, the last verdict, the newest ones."""

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.agents.past import LEAST, Past
from ruvllm.models.router.features import form_of
from tests.manual_clock import START
from tests.unit.sample_events import JUDGED, SAMPLES

TIERS = ("135m", "0.5b", "1.5b")


def vector(seed):
    found = np.random.default_rng(seed).standard_normal(384)
    return (found / np.linalg.norm(found)).astype(np.float32)


PROBE = vector(10_000), form_of("Who keeps the lamp of the north pier?")


def judged(number, *, tenant="harbour", revision=0, **changed):
    """One verdict on the answer to a question of its own, whose tier and quality follow from its number."""
    given_by_number = {
        "interaction_id": f"ix-{number}",
        "time": START + timedelta(seconds=number),
        "question": f"What of lamp {number}?",
        "query_vector": vector(number),
        "tier": TIERS[number % 3],
        "quality": number % 7 / 6,
    }
    return JUDGED.model_copy(update={"tenant": tenant, "revision": revision, **given_by_number, **changed})


def folded(events, *, kept=1000):
    past = Past(TIERS, kept=kept)
    for event in events:
        past.apply(event)
    return past


def refreshed(events, *, kept=1000):
    """Folded, and estimated for all who are due."""
    past = folded(events, kept=kept)
    for tenant in list(past.due()):
        past.refresh(tenant)
    return past


def said(past, tenant="harbour"):
    """What it says of one question: bytes, so that equal is equal bit for bit."""
    outlook = past.outlook(tenant, *PROBE)
    return None if outlook is None else (outlook.quality.tobytes(), outlook.similarity, outlook.evidence)


def test_nothing_crosses_tenants():
    # given two tenants, whose answers to the same questions were all good, and all bad
    good = [judged(n, quality=1.0) for n in range(40)]
    bad = [judged(n, tenant="mill", quality=0.0) for n in range(40)]
    past = refreshed([event for pair in zip(good, bad, strict=True) for event in pair])
    # then each is told of its own, as if the other were not there, and a third of nothing
    assert (past.outlook("harbour", *PROBE).quality > 0.9).all()
    assert (past.outlook("mill", *PROBE).quality < 0.1).all()
    assert said(past) == said(refreshed(good))
    assert past.outlook("elsewhere", *PROBE) is None
    assert past.counts("mill") == [14, 13, 13]
    assert past.counts("elsewhere") == [0, 0, 0]


def test_of_several_verdicts_the_last_counts():
    # given answers that were judged bad at first and good later; when folded; then they are good, and one each
    first = [judged(n, quality=0.0) for n in range(40)]
    later = [judged(n, quality=1.0, revision=2) for n in range(40)]
    past = refreshed([*first, *later])
    assert said(past) == said(refreshed(later))
    assert sum(past.counts("harbour")) == 40


def test_an_older_verdict_and_a_redelivered_one_change_nothing():
    # given answers that were judged and estimated from; when older verdicts come, and the same again
    now = [judged(n, revision=3) for n in range(40)]
    past = refreshed(now)
    before = said(past)
    for event in [judged(n, revision=2, quality=1.0, tier="135m") for n in range(40)] + now:
        past.apply(event)
    # then nothing is due, and an estimate made all the same says what it said
    assert list(past.due()) == []
    past.refresh("harbour")
    assert said(past) == before


def test_only_the_newest_are_kept():
    # given more answers than are kept; when folded; then it is as if the older ones had never been
    events = [judged(n) for n in range(100)]
    past = refreshed(events, kept=40)
    assert sum(past.counts("harbour")) == 40
    assert said(past) == said(refreshed(events[-40:], kept=40)) != said(refreshed(events[:40], kept=40))
    # and each tenant has places of its own
    past.apply(judged(1, tenant="mill"))
    assert (sum(past.counts("harbour")), sum(past.counts("mill"))) == (40, 1)


def test_a_later_verdict_keeps_its_place_among_the_kept():
    # given three places, all taken, and another verdict on the oldest; when one more comes; then the oldest goes
    past = folded([judged(0), judged(1), judged(2), judged(0, revision=1), judged(4)], kept=3)
    assert past.counts("harbour") == [0, 2, 1]


def test_too_few_answers_say_nothing():
    # given one answer less than say anything; when folded; then nothing is due; with one more it is
    past = folded(judged(n) for n in range(LEAST - 1))
    assert list(past.due()) == []
    past.apply(judged(LEAST - 1))
    assert list(past.due()) == ["harbour"]
    # and nothing is said until it was estimated
    assert past.outlook("harbour", *PROBE) is None
    past.refresh("harbour")
    assert past.outlook("harbour", *PROBE) is not None
    assert list(past.due()) == []


@pytest.mark.parametrize(("known", "more"), [(LEAST, LEAST), (480, 31)])
def test_an_estimate_is_out_of_date_when_a_sixteenth_is_new_and_no_fewer_than_say_anything(known, more):
    # given an estimate; when one answer too few has come since; then it stands
    past = refreshed(judged(n, tier="135m") for n in range(known))
    before = said(past)
    for n in range(known, known + more - 1):
        past.apply(judged(n, tier="135m"))
    assert list(past.due()) == []
    assert said(past) == before
    # and with one more it is due
    past.apply(judged(known + more - 1, tier="135m"))
    assert list(past.due()) == ["harbour"]


def test_an_estimate_made_anew_is_of_all_that_is_kept():
    # given an estimate, and as many answers again; when made anew; then it is as if all had been there at once
    events = [judged(n) for n in range(2 * LEAST)]
    past = refreshed(events[:LEAST])
    before = said(past)
    for event in events[LEAST:]:
        past.apply(event)
    past.refresh("harbour")
    assert said(past) == said(refreshed(events)) != before


def test_later_verdicts_make_an_estimate_out_of_date_too():
    # given an estimate; when as many answers were judged again as make one due; then it is due
    past = refreshed(judged(n) for n in range(LEAST))
    for n in range(LEAST):
        past.apply(judged(n, revision=1, quality=1.0))
    assert list(past.due()) == ["harbour"]
    past.refresh("harbour")
    assert (past.outlook("harbour", *PROBE).quality > 0.9).all()


def test_what_no_route_can_be_estimated_from_is_passed_over():
    # given answers of a tier that is no more, of none, of another embedder, and events of other kinds
    past = folded(
        [
            judged(1, tier="7b"),
            judged(2, tier=None),
            judged(3, query_vector=np.zeros(768, np.float32)),
            judged(4, query_vector=np.zeros((1, 384), np.float32)),
            *SAMPLES,
        ]
    )
    # then there is nothing of them
    assert past.counts("harbour") == [0, 0, 0]
    # and such a verdict does not take the place of an earlier one that counts
    past.apply(judged(6))
    past.apply(judged(6, tier="7b", revision=1))
    assert past.counts("harbour") == [1, 0, 0]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.sampled_from(["harbour", "mill", "quarry"]), min_size=40, max_size=110))
def test_the_order_of_tenants_who_have_nothing_to_do_with_each_other_does_not_matter(order):
    # given what three tenants were answered; when it comes in any order of tenants, or one tenant after the other
    counted = {"harbour": 0, "mill": 0, "quarry": 0}
    mixed = []
    for tenant in order:
        mixed.append(judged(counted[tenant], tenant=tenant))
        counted[tenant] += 1
    one_by_one = sorted(mixed, key=lambda event: event.tenant)
    past, other = refreshed(mixed, kept=35), refreshed(one_by_one, kept=35)
    # then the same is kept and the same is said
    for tenant in counted:
        assert past.counts(tenant) == other.counts(tenant)
        assert said(past, tenant) == said(other, tenant)


@pytest.mark.parametrize("value", [np.nan, np.inf, 5.0])
def test_a_vector_that_is_not_of_unit_length_is_passed_over(value):
    # given verdicts of which one has such a vector; when folded; then it is as if it had not been there
    sound = [judged(n) for n in range(40)]
    odd = judged(40, query_vector=np.full(384, value, np.float32))
    assert said(refreshed([*sound, odd])) == said(refreshed(sound))


def test_an_answer_that_is_no_longer_kept_does_not_come_back_when_it_is_redelivered():
    past = folded([judged(n) for n in range(4)], kept=3)
    before = past.counts("harbour")
    past.apply(judged(0))
    assert past.counts("harbour") == before
