"""The sender: what it sends is written when it returns; what can never be written is raised; copies hold up nobody."""

import asyncio

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
    UnknownError,
)

from ruvllm.agents.outbox import Emit
from ruvllm.schemas.flow import Turn
from ruvllm.streams import sender as sender_module
from ruvllm.streams.guard import read
from ruvllm.streams.records import Record
from ruvllm.streams.sender import Sender
from ruvllm.streams.topics import MAX_RECORD_BYTES
from ruvllm.streams.topology import Names
from tests.unit.desk_life import DeskLife
from tests.unit.memory_kafka import MemoryKafka, MemoryProducer

NAMES = Names("test", ("135m",), 4)
LIFE = DeskLife()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(sender_module, "FIRST_PAUSE_S", 0.0)


@pytest.fixture
def kafka():
    return MemoryKafka(NAMES.partitions)


@pytest.fixture
async def sender(kafka):
    made = Sender("memory", NAMES, source="test", new_producer=kafka.producer)
    await made.start()
    yield made
    await made.stop()


def record(value, topic="ours"):
    return Record(topic, 0, b"k", value)


def values(kafka, topic="ours"):
    return [r.value for r in kafka.records(topic)]


async def test_events_go_to_their_topics_in_the_order_given(kafka, sender):
    # given turns of one session; when sent; then they are in their topic's partition, in order
    turns = [LIFE.turn(f"r{n}") for n in range(3)]
    await sender.send([Emit(t) for t in turns], parent={"traceparent": b"00-ab-cd-01"})
    written = kafka.records(NAMES.topic("turn.accepted"))
    assert [read(r, (Turn,)).request_id for r in written] == ["r0", "r1", "r2"]
    assert {r.partition for r in written} == {NAMES.partition(turns[0])}


@pytest.mark.parametrize(
    "passing", [KafkaConnectionError(), RequestTimedOutError(), KafkaTimeoutError(), UnknownError()], ids=repr
)
async def test_what_passes_is_waited_out(kafka, sender, passing):
    # given a broker that fails three times in passing; when records are written; then each is there once
    kafka.refusals["ours"] = [passing] * 3
    await sender.write([record(b"a"), record(b"b")])
    assert sorted(values(kafka)) == [b"a", b"b"]


@pytest.mark.parametrize("lasting", [TopicAuthorizationFailedError("ours"), MessageSizeTooLargeError()], ids=repr)
async def test_what_no_time_will_mend_is_raised(kafka, sender, lasting):
    # given a broker that refuses for good; when written; then that is said at once, not tried for ever
    kafka.refusals["ours"] = [KafkaConnectionError(), lasting]
    with pytest.raises(type(lasting)):
        async with asyncio.timeout(5):
            await sender.write([record(b"a"), record(b"b")])


async def test_a_record_over_the_size_of_a_request_is_raised(kafka, sender):
    # given a record that no request holds; when written; then it is refused before anything is sent
    with pytest.raises(MessageSizeTooLargeError):
        await sender.write([record(b"x" * MAX_RECORD_BYTES)])
    assert values(kafka) == []


# --- copies -------------------------------------------------------------------------------------------


async def test_a_copy_arrives_by_a_producer_of_its_own(kafka, sender):
    # given a sender; when copies are offered; then they arrive, and no producer was started for none
    assert len(kafka.producers) == 1
    sender.offer([record(b"a", "theirs"), record(b"b", "theirs")])
    await sender.stop()
    assert values(kafka, "theirs") == [b"a", b"b"]
    assert len(kafka.producers) == 2
    assert not any(p.running for p in kafka.producers)


class DeafProducer(MemoryProducer):
    """Hears nothing of one topic, as aiokafka of a topic that does not exist."""

    async def send(self, topic, **facts):
        if topic == "nowhere":
            await asyncio.get_running_loop().create_future()
        return await super().send(topic, **facts)


async def test_a_topic_that_never_answers_is_given_up(kafka, monkeypatch):
    # given a topic that does not exist; when a copy is offered to it and one to another
    monkeypatch.setattr(sender_module, "OFFER_TIMEOUT_S", 0.02)
    deaf = Sender("memory", NAMES, source="test", new_producer=lambda **options: DeafProducer(kafka, **options))
    await deaf.start()
    deaf.offer([record(b"a", "nowhere"), record(b"b", "theirs")])
    # then our own records do not wait, the other copy arrives, and the end comes
    await deaf.write([record(b"c")])
    assert values(kafka) == [b"c"]
    await deaf.stop()
    assert (values(kafka, "theirs"), values(kafka, "nowhere")) == ([b"b"], [])


async def test_a_refused_copy_is_given_up_and_the_next_is_tried(kafka, sender):
    # given a topic that refuses one copy; when more are offered; then they arrive
    kafka.refusals["theirs"] = [TopicAuthorizationFailedError("theirs")]
    sender.offer([record(b"a", "theirs"), record(b"b", "theirs")])
    await sender.stop()
    assert values(kafka, "theirs") == [b"b"]


async def test_copies_that_wait_are_bounded(kafka, sender, monkeypatch):
    # given more copies than may wait; when offered; then the rest is given up at once
    monkeypatch.setattr(sender_module, "MOST_OFFERS", 2)
    sender.offer([record(bytes([n]), "theirs") for n in range(5)])
    await sender.stop()
    assert values(kafka, "theirs") == [b"\0", b"\1"]


async def test_a_producer_for_copies_that_does_not_start_is_made_anew(kafka):
    # given a broker that is away when the first copy is offered, and back for the second
    class LateProducer(MemoryProducer):
        starts = iter([None, KafkaConnectionError()])

        async def start(self):
            if (error := next(self.starts, None)) is not None:
                raise error
            await super().start()

    late = Sender("memory", NAMES, source="test", new_producer=lambda **options: LateProducer(kafka, **options))
    await late.start()
    late.offer([record(b"a", "theirs")])
    while late._copies._offers:
        await asyncio.sleep(0)
    late.offer([record(b"b", "theirs")])
    await late.stop()
    assert values(kafka, "theirs") == [b"b"]


async def test_a_producer_whose_numbers_do_not_fit_any_more_is_replaced_once(kafka):
    # given a producer that gave up a numbered batch in an outage (`ruvllm faults --only broker-away` met it)
    made = []

    class Broken(MemoryProducer):
        async def send(self, *arguments, **named):
            future = asyncio.get_running_loop().create_future()
            future.set_exception(OutOfOrderSequenceNumber())
            return future

    def new_producer(**named):
        made.append((Broken if not made else MemoryProducer)(kafka, **named))
        return made[-1]

    sender = Sender("memory", NAMES, source="test", new_producer=new_producer)
    await sender.start()
    # when several tasks write; then all of it is written, by one new producer
    await asyncio.gather(*(sender.write([record(b"%d" % n)]) for n in range(3)))
    assert sorted(values(kafka)) == [b"0", b"1", b"2"]
    assert len(made) == 2
    await sender.stop()


async def test_a_write_that_meets_the_end_of_a_replaced_producer_goes_to_the_next(kafka):
    # given a write under way on a producer that another write has replaced and closed meanwhile
    closed = asyncio.Event()
    made = []

    class Replaced(MemoryProducer):
        async def send(self, topic, **named):
            if named["value"] == b"late":
                await closed.wait()
                raise ProducerClosed
            future = asyncio.get_running_loop().create_future()
            future.set_exception(OutOfOrderSequenceNumber())
            return future

        async def stop(self):
            closed.set()

    def new_producer(**named):
        made.append((Replaced if not made else MemoryProducer)(kafka, **named))
        return made[-1]

    sender = Sender("memory", NAMES, source="test", new_producer=new_producer)
    await sender.start()
    # when both go on; then both are written
    await asyncio.gather(sender.write([record(b"late")]), sender.write([record(b"first")]))
    assert sorted(values(kafka)) == [b"first", b"late"]
    # and what is written after the sender was stopped is refused
    made[-1].send = made[0].send
    with pytest.raises(ProducerClosed):
        await sender.write([record(b"late")])
