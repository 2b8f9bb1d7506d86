"""The ledger: what is committed is done, and so is all that was delivered before it."""

from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.streams.ledger import Ledger, LedgerConsumer
from ruvllm.streams.settings import KafkaSettings
from ruvllm.streams.stage_app import new_app
from ruvllm.streams.topology import Names, stage


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


# --- the consumer that keeps ledgers --------------------------------------------------------------------


PLACE = TopicPartition("test.request.admitted.v1", 0)


class Member:
    """What Faust's consumer asks of aiokafka's: a member of a group, which has one partition."""

    def __init__(self):
        self._coordinator = SimpleNamespace(generation=3)
        self.committed = {}

    def assignment(self):
        return {PLACE}

    async def commit(self, offsets):
        self.committed |= {place: kept.offset for place, kept in offsets.items()}


def consumer_of(member):
    app = new_app(stage("retrieve"), Names("test", ("135m",), 4), "nowhere:1", KafkaSettings())
    consumer = app.consumer
    consumer._thread._consumer = member
    app.topics._acking_topics.add(PLACE.topic)
    return consumer


def deliver(consumer, *offsets):
    facts = dict.fromkeys(("timestamp", "timestamp_type", "headers", "key", "value", "checksum"))
    sizes = {"serialized_key_size": 0, "serialized_value_size": 0}
    records = [SimpleNamespace(topic=PLACE.topic, partition=0, offset=o, **facts, **sizes) for o in offsets]
    messages = [consumer._to_message(PLACE, record) for record in records]
    for message in messages:
        consumer.track_message(message)
    return messages


async def test_what_was_acknowledged_since_the_last_commit_is_committed_in_a_rebalance():
    # given a consumer with three deliveries, two of them acknowledged, one just now; when it is told to let go
    member = Member()
    consumer = consumer_of(member)
    messages = deliver(consumer, 5, 7, 8)
    consumer.ack(messages[0])
    await consumer.commit()
    assert member.committed == {PLACE: 6}
    consumer.ack(messages[1])

    async def last_commit(_):  # what Faust's app does when it is told, other things left out
        consumer.ack(messages[2])
        await consumer.commit()

    consumer._on_partitions_revoked = last_commit
    await consumer.on_partitions_revoked({PLACE})
    # then none of it will be delivered again
    assert member.committed == {PLACE: 9}


async def test_a_consumer_that_the_group_has_dropped_commits_nothing():
    # given a consumer that slept past its session; when it commits: the broker would take it if the group were empty
    member = Member()
    consumer = consumer_of(member)
    (message,) = deliver(consumer, 5)
    consumer.ack(message)
    member._coordinator.generation = -1
    await consumer.commit()
    # then nothing is committed, for what lies between may be another's to do
    assert member.committed == {}


def test_a_partition_without_a_position_does_not_end_the_app():
    # given a consumer whose partition was just assigned, as `ruvllm faults --seed 3 --only zombie` met it
    consumer = LedgerConsumer.__new__(LedgerConsumer)
    # when Faust looks whether it stands still; then nothing is asked of a position that is not there
    consumer.verify_event_path(0.0, TopicPartition("t", 0))
