"""A stage's app: what it does with a record that comes, and when its partitions come and go. No broker."""

import asyncio

import pytest
from aiokafka import TopicPartition

from ruvllm.streams.metrics import Metrics
from ruvllm.streams.settings import KafkaSettings
from ruvllm.streams.stage_app import StageApp
from ruvllm.streams.topology import Names, stage

NAMES = Names("test", ("135m", "500m", "1500m"), 4)


def stage_app(name):
    return StageApp(stage(name), NAMES, "nowhere:1", KafkaSettings(), Metrics())


class Message:
    def __init__(self, topic, offset):
        self.topic, self.offset, self.partition = topic, offset, 0
        self.key, self.value, self.headers, self.timestamp = b"k", b"v", (), 1.5


class Event:
    """What a stream delivers; `acked` when it is done."""

    def __init__(self, topic, offset):
        self.message = Message(topic, offset)
        self.acked = False

    def ack(self):
        self.acked = True


class Stream:
    """A stream of given events, without acknowledgements of its own."""

    def __init__(self, events):
        self._events = events

    def noack(self):
        return self

    async def events(self):
        for event in self._events:
            yield event


class Turnstile:
    """A guard that counts who is inside until it is opened."""

    def __init__(self):
        self.inside = self.most = 0
        self.open = asyncio.Event()

    async def handle(self, record):
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.open.wait()
        self.inside -= 1


class Broken:
    async def handle(self, record):
        raise RuntimeError("not even the dead letter")


def agents(app):
    return [agent.fun for agent in app.app.agents.values()]


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_slots_are_of_the_stage_not_of_each_topic():
    # given three tiers with four jobs each, and two slots; when all are consumed at once
    app, guard = stage_app("generate"), Turnstile()
    topics = NAMES.consumed(app.stage)
    app.bind_jobs(guard, topics, slots=2)
    jobs = [[Event(topic, n) for n in range(4)] for topic in topics]
    consuming = [asyncio.ensure_future(f(Stream(j))) for f, j in zip(agents(app), jobs, strict=True)]
    await settle()
    # then two are under way, and in the end all are done
    assert guard.inside == 2
    guard.open.set()
    await asyncio.gather(*consuming)
    await settle()
    assert guard.most == 2
    assert all(event.acked for js in jobs for event in js)


@pytest.mark.parametrize("name", ["route", "generate"])
async def test_what_even_the_guard_cannot_put_aside_ends_the_app_and_stays_undone(name):
    # given a guard that can write neither output nor dead letter; when a record comes
    app = stage_app(name)
    topics = NAMES.consumed(app.stage)
    if name == "route":
        app.bind_each(Broken(), topics)
    else:
        app.bind_jobs(Broken(), topics, slots=1)
    event = Event(topics[0], 1)
    result = await asyncio.gather(agents(app)[0](Stream([event])), return_exceptions=True)
    await settle()
    # then the process is to end, and the record is not acknowledged
    assert app.failed
    assert not event.acked
    assert name == "generate" or isinstance(result[0], RuntimeError)


class Roll:
    """Owners that note what they are told."""

    def __init__(self):
        self.told = []

    def assign(self, partitions):
        self.told.append(sorted(partitions))

    async def revoke(self):
        self.told.append("revoked")


async def test_owners_leave_when_partitions_are_revoked_and_come_when_they_are_assigned():
    # given an app with owners; when the group rebalances; then they let go before Faust waits for what
    # they hold, and are made anew after it
    app, roll = stage_app("desk"), Roll()
    topics = NAMES.consumed(app.stage)
    app.bind_owners(roll, topics)
    places = {TopicPartition(topic, p) for topic in topics for p in (1, 3)}
    await app.app.give_back()
    await app.app.on_partitions_assigned.send(places)
    assert roll.told == ["revoked", [1, 3]]


async def test_topics_of_an_owner_that_are_assigned_apart_stop_the_app():
    # given an assignor that gives a partition of one topic only; when told; then nobody works with half of it
    app = stage_app("desk")
    topics = NAMES.consumed(app.stage)
    app.bind_owners(Roll(), topics)
    with pytest.raises(RuntimeError, match="apart"):
        await app.app.on_partitions_assigned.send({TopicPartition(topics[0], 0)})
