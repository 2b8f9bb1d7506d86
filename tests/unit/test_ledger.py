"""The ledger: what is committed is done, and so is all that was delivered before it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.streams.ledger import Ledger


def ledger(*offsets, done=()):
    new = Ledger()
    for offset in offsets:
        new.delivered(offset)
    for offset in done:
        new.acknowledged(offset)
    return new


def test_nothing_is_committed_before_anything_is_done():
    # given a partition with nothing delivered, and one with nothing done; when asked; then there is no position
    assert Ledger().position() is None
    assert ledger(5, 6).position() is None


def test_position_is_one_past_the_unbroken_run_of_done_ones():
    # given three delivered; when the first two are done; then the position is the third's
    assert ledger(5, 6, 7, done=(5, 6)).position() == 7
    # and when all are, it is one past the last
    assert ledger(5, 6, 7, done=(5, 6, 7)).position() == 8


def test_an_acknowledgement_out_of_order_waits_for_those_before():
    # given three delivered; when the later ones are done first; then the position waits
    waiting = ledger(5, 6, 7, done=(7, 6))
    assert waiting.position() is None
    assert waiting.open == 3
    # until the first is done, and then passes all of them at once
    waiting.acknowledged(5)
    assert waiting.position() == 8
    assert waiting.open == 0


def test_gaps_are_passed_over():
    # given offsets with the gaps that transactions leave; when done; then nothing waits for what never comes
    gappy = ledger(0, 2, 4, 9, done=(0, 2, 4))
    assert gappy.position() == 5
    gappy.acknowledged(9)
    assert gappy.position() == 10


def test_a_position_once_reached_is_kept():
    # given a position; when asked again, or more is delivered; then it stands until more is done
    reached = ledger(5, done=(5,))
    assert [reached.position(), reached.position()] == [6, 6]
    reached.delivered(8)
    assert reached.position() == 6


def test_a_redelivery_below_the_position_is_not_waited_for():
    # given a position of 6; when offset 3 is delivered again (its acknowledgement may never come)
    moved = ledger(3, 5, done=(3, 5))
    assert moved.position() == 6
    moved.delivered(3)
    # then it holds nothing up and moves nothing back
    assert moved.open == 0
    moved.acknowledged(3)
    assert moved.position() == 6


@pytest.mark.parametrize("done_between", [False, True])
def test_a_redelivery_of_an_open_one_is_one(done_between):
    # given an offset delivered twice while it is open; when done once; then it is done
    twice = ledger(5, 6)
    if done_between:
        twice.acknowledged(6)
    twice.delivered(6)
    assert twice.open == 2
    twice.acknowledged(5)
    twice.acknowledged(6)
    assert twice.position() == 7


def test_acknowledgements_of_what_is_not_known_change_nothing():
    # given a ledger; when something is acknowledged that it never saw, or twice; then it stays as it is
    strange = ledger(5, done=(99, 4, 5, 5))
    assert strange.position() == 6


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), st.integers(1, 4)),  # this much further: gaps
        st.tuples(st.sampled_from(["redeliver", "done", "done"]), st.integers(0, 40)),
        st.tuples(st.just("commit"), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(steps=STEPS)
def test_the_position_never_passes_what_is_not_done_and_reaches_all_that_is(steps):
    # given any order of deliveries with gaps, redeliveries, acknowledgements and commits
    tested, delivered, done, committed = Ledger(), [], set(), 0
    for step, number in steps:
        if step == "deliver":
            delivered.append((delivered[-1] if delivered else 10) + number)
            tested.delivered(delivered[-1])
        elif step == "redeliver" and delivered:
            tested.delivered(delivered[number % len(delivered)])
        elif step == "done" and delivered:
            offset = delivered[number % len(delivered)]
            tested.acknowledged(offset)
            done.add(offset)
        # when the position is asked for after a step
        position = tested.position() if step == "commit" else None
        if position is not None:
            # then all that was delivered below it is done, and it moves forward only
            assert {o for o in delivered if o < position} <= done
            assert position >= committed
            committed = position
    # and at last, all being done, it is one past the last
    for offset in delivered:
        tested.acknowledged(offset)
    assert tested.position() == (delivered[-1] + 1 if delivered else None)
    assert tested.open == 0
