"""The owner of a partition: effects exactly once, whatever fails; and no owner outlives a rebalance."""

import asyncio

import pytest
from aiokafka.errors import KafkaTimeoutError, TopicAuthorizationFailedError

from ruvllm.agents.desk import Desk, DeskRules
from ruvllm.agents.outbox import Emit, Outbox
from ruvllm.errors import PromptTooLong
from ruvllm.schemas.flow import Admitted, AnsweredState, Failed, Turn
from ruvllm.schemas.request import Response
from ruvllm.streams import owner as owner_module
from ruvllm.streams.guard import read
from ruvllm.streams.metrics import Metrics
from ruvllm.streams.owner import Delivery, PartitionOwner
from ruvllm.streams.records import Record, outgoing
from ruvllm.streams.sender import Sender
from ruvllm.streams.stage_app import Owners
from ruvllm.streams.topics import MAX_RECORD_BYTES
from ruvllm.streams.topology import Names, stage
from tests.manual_clock import ManualClock
from tests.unit.desk_life import DeskLife
from tests.unit.memory_kafka import MemoryKafka

NAMES = Names("test", ("135m",), 4)
DESK = stage("desk")
TURNS = NAMES.topic("turn.accepted")
RESPONSES = NAMES.topic("response.completed")
FAILURES = NAMES.topic("request.failed")
DEAD = NAMES.dead_letters(TURNS, "desk")
LIFE = DeskLife()
HERE = NAMES.partition(LIFE.turn("any"))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(owner_module, "TICK_S", 0.01)
    monkeypatch.setattr(owner_module, "LONGEST_PAUSE_S", 0.01)


class Tally:
    """A keeper that answers each request id once. What a request asks for is what happens to it."""

    def __init__(self):
        self.answered = set()
        self.due = []

    async def handle(self, event, origin):
        out = Outbox()
        if event.request_id in self.answered:
            return out
        wish = event.request.tags.get("wish")
        if wish == "verdict":
            raise PromptTooLong("too long for this")
        if wish == "crash":
            self.answered.add("half of it")
            raise ValueError("a mistake")
        size = {"much": 1_000, "too much": MAX_RECORD_BYTES}.get(wish, 1)
        response = Response(**identity(event), finish_reason="stop", text="x" * size)
        out.add(response)
        if event.request.reply_to:
            out.add(response, topic=event.request.reply_to)
        state = AnsweredState(**identity(event, interaction=False), response=response)
        out.add(state)
        self.apply(state)
        return out

    def tick(self):
        out = Outbox()
        while self.due:
            out.add(self.due.pop())
        return out

    def apply(self, event):
        self.answered.add(event.request_id)

    def forget(self, record_key):
        pass


def identity(event, *, interaction=True):
    ids = {"tenant": event.tenant, "session": event.session, "request_id": event.request_id, "time": event.time}
    return {**ids, "interaction_id": f"ix-{event.request_id}"} if interaction else ids


class Delivered:
    """A delivery, and what became of it: "done" or "left"."""

    def __init__(self, event, offset=1):
        made = outgoing(Emit(event), NAMES, source="test", parent={"traceparent": b"00-ab-cd-01"})
        self.record = Record(made.topic, HERE, made.key, made.value, made.headers, offset)
        self.outcome = asyncio.get_running_loop().create_future()
        self.as_delivery = Delivery(self.record, lambda: self._become("done"), lambda: self._become("left"))

    def _become(self, outcome):
        assert not self.outcome.done(), "acknowledged or abandoned twice"
        self.outcome.set_result(outcome)

    async def end(self):
        return await asyncio.wait_for(asyncio.shield(self.outcome), 5)


class Bench:
    """One process with owners of one partition of one Kafka, and what is in its log."""

    def __init__(self, kafka=None, make_keeper=Tally):
        self.kafka = kafka or MemoryKafka(NAMES.partitions)
        self.metrics = Metrics()
        self.clock = ManualClock()
        self.sender = Sender("memory", NAMES, source="test", new_producer=self.kafka.producer)
        self.keepers = []
        self.mine = True
        self._make_keeper = make_keeper

    def owner(self, partition=HERE):
        return PartitionOwner(
            DESK,
            partition,
            self._keeper,
            self.sender,
            "memory",
            self.clock,
            self.metrics,
            is_mine=lambda: self.mine,
            new_producer=self.kafka.producer,
            read_records=self.kafka.read_to_end,
        )

    def owners(self):
        return Owners(DESK, self.owner, lambda _: self.mine, self.metrics)

    def started(self):
        owner = self.owner()
        owner.start()
        return owner

    def _keeper(self):
        self.keepers.append(self._make_keeper())
        return self.keepers[-1]

    async def give(self, owner, *deliveries):
        """Submit, and wait until each is done or left."""
        for delivery in deliveries:
            await owner.submit(delivery.as_delivery)
        return [await d.end() for d in deliveries]

    def responses(self):
        return [r.request_id for r in events(self.kafka, RESPONSES, Response)]

    def count(self, outcome):
        return (
            self.metrics.registry.get_sample_value("ruvllm_handled_total", {"stage": "desk", "outcome": outcome}) or 0
        )

    @property
    def restarts(self):
        return self.metrics.registry.get_sample_value("ruvllm_owner_restarts_total", {"stage": "desk"}) or 0

    def named_producers(self):
        return [p for p in self.kafka.producers if p.options.get("transaction_timeout_ms")]


def events(kafka, topic, *kinds):
    return [read(r, kinds) for r in kafka.records(topic)]


def turn(request_id, wish=None, **facts):
    return LIFE.turn(request_id, tags={"wish": wish} if wish else {}, **facts)


async def until(holds):
    """Let others run until something holds."""
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0)


# --- once ---------------------------------------------------------------------------------------------


async def test_effects_and_state_are_there_when_a_record_is_done():
    # given an owner; when a record is submitted; then its effects and the state of them are there, in its trace
    bench = Bench()
    owner = bench.started()
    assert await bench.give(owner, Delivered(turn("r1"))) == ["done"]
    assert bench.responses() == ["r1"]
    (state,) = bench.kafka.records(NAMES.topic("session.state"))
    assert (state.partition, state.headers["traceparent"]) == (HERE, b"00-ab-cd-01")
    assert (bench.count("done"), bench.restarts) == (1, 0)
    await owner.stop()


async def test_a_successor_knows_from_the_state_what_was_done():
    # given an owner that has answered; when the same record is delivered to its successor in another process
    first = Bench()
    owner = first.started()
    await first.give(owner, Delivered(turn("r1")))
    second = Bench(first.kafka)
    successor = second.started()
    assert await second.give(successor, Delivered(turn("r1")), Delivered(turn("r2"))) == ["done", "done"]
    # then the id is not answered twice
    assert second.responses() == ["r1", "r2"]
    await asyncio.gather(owner.stop(), successor.stop())


async def test_a_fenced_owner_reads_the_state_anew():
    # given an owner that was frozen while another answered r1
    frozen = Bench()
    zombie = frozen.started()
    await frozen.give(zombie, Delivered(turn("r0")))
    other = Bench(frozen.kafka)
    owner = other.started()
    await other.give(owner, Delivered(turn("r1")))
    await owner.stop()
    # when it is given r1 too; then the fence makes it look again, and r1 stays answered once
    assert await frozen.give(zombie, Delivered(turn("r1"))) == ["done"]
    assert frozen.responses() == ["r0", "r1"]
    assert frozen.restarts == 1
    await zombie.stop()


async def test_a_commit_that_fails_is_made_again_from_the_state():
    # given a broker that fails two commits; when a record is submitted; then it is answered once in the end
    bench = Bench()
    bench.kafka.commits.failing = [KafkaTimeoutError(), KafkaTimeoutError()]
    owner = bench.started()
    assert await bench.give(owner, Delivered(turn("r1"))) == ["done"]
    assert bench.responses() == ["r1"]
    assert (bench.restarts, len(bench.keepers)) == (2, 3)
    await owner.stop()


async def test_a_refused_record_is_never_left_out_of_a_committed_transaction():
    # given a broker that refuses the response in passing, and would commit the rest
    bench = Bench()
    bench.kafka.refusals[RESPONSES] = [TopicAuthorizationFailedError()]
    owner = bench.started()
    await bench.give(owner, Delivered(turn("r1")))
    # then state and response came together, at the second try
    assert bench.responses() == ["r1"]
    assert len(bench.kafka.records(NAMES.topic("session.state"))) == 1
    assert bench.restarts == 1
    await owner.stop()


async def test_what_is_due_happens_without_a_record():
    # given an owner whose keeper has a deadline; when time passes; then its effects are written
    bench = Bench()
    owner = bench.started()
    await until(lambda: owner.ready)
    event = turn("late")
    bench.keepers[0].due.append(Response(**identity(event), finish_reason="error"))
    await until(bench.responses)
    assert bench.responses() == ["late"]
    await owner.stop()


# --- what is wrong with a record ----------------------------------------------------------------------


async def test_a_verdict_on_one_record_leaves_the_others_of_its_batch_alone():
    # given three records, the second of which the keeper refuses; when handled as they come
    bench = Bench()
    owner = bench.owner()
    deliveries = [Delivered(turn(f"r{n}", "verdict" if n == 2 else None)) for n in (1, 2, 3)]
    for delivery in deliveries:
        await owner.submit(delivery.as_delivery)  # before it starts: one batch
    owner.start()
    assert [await d.end() for d in deliveries] == ["done"] * 3
    # then it is put aside and the desk is told, the others are answered, and each is counted as what it was
    assert bench.responses() == ["r1", "r3"]
    assert [r.value for r in bench.kafka.records(DEAD)] == [deliveries[1].record.value]
    assert [f.fault.code for f in events(bench.kafka, FAILURES, Failed)] == ["prompt_too_long"]
    assert (bench.count("done"), bench.count("failed"), bench.restarts) == (2, 1, 0)
    await owner.stop()


async def test_a_mistake_costs_one_record_and_one_restart():
    # given a batch in whose middle the keeper fails, its state half changed; when handled
    bench = Bench()
    owner = bench.owner()
    deliveries = [Delivered(turn(f"r{n}", "crash" if n == 2 else None)) for n in (1, 2, 3, 4)]
    for delivery in deliveries:
        await owner.submit(delivery.as_delivery)
    owner.start()
    assert [await d.end() for d in deliveries] == ["done"] * 4
    # then that record alone is given up, and the half changed state with it, without being taken for a fence
    assert bench.responses() == ["r1", "r3", "r4"]
    assert "half of it" not in bench.keepers[-1].answered
    assert (bench.count("done"), bench.count("failed"), bench.restarts) == (3, 1, 1)
    await owner.stop()


async def test_effects_that_are_too_large_are_a_verdict_on_their_record():
    # given a record among others whose effects no record can hold; when handled
    bench = Bench()
    owner = bench.owner()
    deliveries = [Delivered(turn(f"r{n}", "too much" if n == 2 else None)) for n in (1, 2, 3)]
    for delivery in deliveries:
        await owner.submit(delivery.as_delivery)
    owner.start()
    assert [await d.end() for d in deliveries] == ["done"] * 3
    # then it is given up with a reason that the user can act on, and the partition goes on
    assert bench.responses() == ["r1", "r3"]
    (failed,) = events(bench.kafka, FAILURES, Failed)
    assert (failed.request_id, failed.fault.code) == ("r2", "invalid_request")
    assert "too large" in failed.fault.message
    assert bench.restarts == 1
    await owner.stop()


async def test_effects_that_the_broker_finds_too_large_are_a_verdict_too():
    # given a broker whose topic takes less than we send; when a record causes more; then it does not loop
    bench = Bench()
    bench.kafka.limits[RESPONSES] = 900
    owner = bench.started()
    assert await bench.give(owner, Delivered(turn("r1", "much")), Delivered(turn("r2"))) == ["done", "done"]
    assert bench.responses() == ["r2"]
    await owner.stop()


async def test_a_record_that_another_partitioner_put_here_is_handed_on_and_has_no_effects():
    # given a record whose state is on another partition; when it is delivered here
    bench = Bench()
    elsewhere = next(s for s in map(str, range(99)) if NAMES.partition(LIFE.turn("x", s)) != HERE)
    stray = Delivered(LIFE.turn("r1", elsewhere))
    owner = bench.started()
    assert await bench.give(owner, stray) == ["done"]
    # then it is in the same topic on its own partition, the same event, and nothing else has happened
    (handed_on,) = bench.kafka.records(TURNS)
    assert handed_on.partition == NAMES.partition(LIFE.turn("r1", elsewhere))
    assert read(handed_on, (Turn,)) == read(stray.record, (Turn,))
    assert handed_on.headers["ce_id"] == stray.record.headers["ce_id"]
    assert bench.responses() == []
    await owner.stop()


# --- copies for topics that are not ours --------------------------------------------------------------


async def test_a_copy_follows_its_response():
    # given a request with a reply-to; when it is answered; then the copy comes after the commit, not with it
    bench = Bench()
    bench.kafka.commits.before_commit = asyncio.Event()
    owner = bench.started()
    asked = Delivered(turn("r1", reply_to="theirs"))
    await owner.submit(asked.as_delivery)
    await until(lambda: bench.kafka.open)
    assert bench.kafka.records("theirs") == []
    bench.kafka.commits.before_commit.set()
    assert await asked.end() == "done"
    await until(lambda: bench.kafka.records("theirs"))
    assert [r.request_id for r in events(bench.kafka, "theirs", Response)] == bench.responses() == ["r1"]
    await owner.stop()


async def test_a_topic_that_refuses_its_copies_holds_up_nothing(monkeypatch):
    # given a reply-to that is closed to us; when its request and another are answered; then both are
    bench = Bench()
    bench.kafka.refusals["theirs"] = [TopicAuthorizationFailedError("theirs")]
    owner = bench.started()
    asked = [Delivered(turn("r1", reply_to="theirs")), Delivered(turn("r2"))]
    assert await bench.give(owner, *asked) == ["done", "done"]
    assert (bench.responses(), bench.restarts) == (["r1", "r2"], 0)
    await owner.stop()
    await bench.sender.stop()
    assert bench.kafka.records("theirs") == []


# --- becoming and ceasing -----------------------------------------------------------------------------


async def test_to_stop_waits_for_the_transaction_under_way():
    # given an owner in the middle of a transaction; when it is told to stop, and whoever waits for that is cancelled
    bench = Bench()
    bench.kafka.commits.before_commit = asyncio.Event()
    owner = bench.started()
    asked, waiting = Delivered(turn("r1")), Delivered(turn("r2"))
    await owner.submit(asked.as_delivery)
    await until(lambda: bench.kafka.open)
    await owner.submit(waiting.as_delivery)
    stopping = asyncio.create_task(owner.stop())
    await asyncio.sleep(0)
    (producer,) = bench.named_producers()
    assert producer.running
    # then the transaction ends first; what had not begun is left to the next owner
    bench.kafka.commits.before_commit.set()
    await stopping
    assert (await asked.end(), await waiting.end()) == ("done", "left")
    assert bench.responses() == ["r1"]
    assert not producer.running


async def test_a_handler_that_takes_too_long_is_cut_off_but_no_transaction_is(monkeypatch):
    # given an owner that is past its time while it commits; when it stops; then the transaction is waited for
    bench = Bench()
    bench.kafka.commits.before_commit = asyncio.Event()
    owner = bench.started()
    asked = Delivered(turn("r1"))
    await owner.submit(asked.as_delivery)
    await until(lambda: bench.kafka.open)
    monkeypatch.setattr(owner_module, "STEP_TIMEOUT_S", 0.0)
    stopping = asyncio.create_task(owner.stop())
    assert await asked.end() == "left"  # cut off: it will be delivered again, and is answered then
    (producer,) = bench.named_producers()
    assert producer.running
    bench.kafka.commits.before_commit.set()
    await stopping
    assert bench.responses() == ["r1"]
    assert not producer.running


async def test_what_is_submitted_to_an_owner_that_has_stopped_is_left():
    # given an owner that has stopped while records were on their way to it; then they are left, not lost
    bench = Bench()
    owner = bench.started()
    await owner.stop()
    assert await bench.give(owner, Delivered(turn("r1"))) == ["left"]


async def test_an_owner_whose_partition_is_anothers_leaves_its_records():
    # given a process that has learnt that the partition went elsewhere; when a record comes; then it is left
    bench = Bench()
    owner = bench.started()
    await until(lambda: owner.ready)
    bench.mine = False
    assert await bench.give(owner, Delivered(turn("r1"))) == ["left"]
    assert bench.responses() == []
    await owner.stop()


# --- the owners of a process --------------------------------------------------------------------------


def desk():
    return Desk(DeskRules(), ManualClock())


@pytest.mark.parametrize("told_of_the_revocation", [True, False])
async def test_a_partition_that_went_away_and_came_back_is_known_as_it_is_now(told_of_the_revocation):
    # given a process with an idle desk, frozen, while another process admits a request on its partition
    sleeper = Bench(make_keeper=desk)
    owners = sleeper.owners()
    owners.assign({HERE})
    await until(owners.ready)
    other = Bench(sleeper.kafka, make_keeper=desk)
    owner = other.started()
    await other.give(owner, Delivered(LIFE.turn("r1")))
    await owner.stop()
    (admitted,) = events(sleeper.kafka, NAMES.topic("request.admitted"), Admitted)
    # when the partition comes back and the answer with it; then the request is answered
    if told_of_the_revocation:
        await owners.revoke()
    owners.assign({HERE})
    answer = Delivered(LIFE.answer(admitted))
    await owners.submit(HERE, answer.as_delivery)
    assert await answer.end() == "done"
    assert sleeper.responses() == ["r1"]
    await owners.stop()


async def test_a_new_owner_waits_until_the_old_one_has_let_go():
    # given an owner in the middle of a transaction; when its partition is revoked and comes back at once
    bench = Bench()
    bench.kafka.commits.before_commit = asyncio.Event()
    owners = bench.owners()
    owners.assign({HERE})
    asked = Delivered(turn("r1"))
    await owners.submit(HERE, asked.as_delivery)
    await until(lambda: bench.kafka.open)
    owners.assign({HERE})
    again = Delivered(turn("r1"), offset=1)
    await owners.submit(HERE, again.as_delivery)
    for _ in range(50):
        await asyncio.sleep(0)
    # then nobody takes the name from under it
    assert len(bench.named_producers()) == 1
    bench.kafka.commits.before_commit.set()
    assert [await asked.end(), await again.end()] == ["done", "done"]
    assert (bench.responses(), bench.restarts) == (["r1"], 0)
    await owners.stop()


async def test_a_revocation_that_is_cancelled_cancels_no_transaction():
    # given a revocation that waits for a transaction; when its waiting is cancelled; then the transaction is not
    bench = Bench()
    bench.kafka.commits.before_commit = asyncio.Event()
    owners = bench.owners()
    owners.assign({HERE})
    asked = Delivered(turn("r1"))
    await owners.submit(HERE, asked.as_delivery)
    await until(lambda: bench.kafka.open)
    revoking = asyncio.create_task(owners.revoke())
    await asyncio.sleep(0)
    revoking.cancel()
    bench.kafka.commits.before_commit.set()
    await owners.stop()
    assert await asked.end() == "done"
    assert bench.responses() == ["r1"]
    assert not any(p.running for p in bench.named_producers())


async def test_a_record_may_come_before_its_owner_and_is_left_if_none_comes(monkeypatch):
    # given a record of a partition without owner; when the owner comes; then it gets the record
    bench = Bench()
    owners = bench.owners()
    early = Delivered(turn("r1"))
    submitting = asyncio.create_task(owners.submit(HERE, early.as_delivery))
    await asyncio.sleep(0)
    owners.assign({HERE})
    await submitting
    assert await early.end() == "done"
    # and if the partition is not ours any more, then it is left
    await owners.revoke()
    bench.mine = False
    orphan = Delivered(turn("r2"))
    await owners.submit(HERE, orphan.as_delivery)
    assert await orphan.end() == "left"
