"""The guard: whatever a stage does with a record, its effects are written before `handle` returns."""

import orjson
import pytest
from aiokafka.errors import MessageSizeTooLargeError, TopicAuthorizationFailedError

from ruvllm.agents.outbox import Emit
from ruvllm.errors import DeadlineExceeded, ModelCrashed, PromptTooLong, UnknownTier
from ruvllm.schemas.flow import Admitted, Failed
from ruvllm.schemas.request import Ask, Rate
from ruvllm.schemas.wire import decode, kind_of
from ruvllm.streams.guard import Guard, Retry, kinds_by_topic, may_pass, read, stage_events
from ruvllm.streams.metrics import Metrics
from ruvllm.streams.records import Record, outgoing
from ruvllm.streams.sender import Sender
from ruvllm.streams.topology import STAGES, Names, stage, topic
from tests.manual_clock import START, ManualClock
from tests.unit.memory_kafka import MemoryKafka
from tests.unit.sample_events import BY_KIND, IN_FLIGHT, RETRIEVAL

NAMES = Names("test", ("135m",), 4)
AT_ONCE = Retry(attempts=3, first_s=0, longest_s=0)


class KeptRecords:
    """A sender that keeps what is written, in order."""

    def __init__(self):
        self.names = NAMES
        self.records = []

    async def send(self, emits, *, parent=None):
        await self.write([outgoing(e, NAMES, source="test", parent=parent) for e in emits])

    async def write(self, records):
        self.records += records

    def of(self, kafka_topic):
        return [r for r in self.records if r.topic == kafka_topic]

    def failures(self):
        return [read(r, (Failed,)) for r in self.of(NAMES.topic("request.failed"))]


class Refusing(KeptRecords):
    """A sender that refuses for good what is too large, and topics that are closed to us."""

    def __init__(self, most=10**9, closed=()):
        super().__init__()
        self.most, self.closed = most, closed

    async def write(self, records):
        for record in records:
            if len(record.value or b"") > self.most:
                raise MessageSizeTooLargeError(f"{len(record.value)} bytes")
            if record.topic in self.closed:
                raise TopicAuthorizationFailedError(record.topic)
            self.records.append(record)


class Handler:
    """A stage's function: raises what it is given, one error a call, then hands on its outputs."""

    def __init__(self, outputs=(), errors=()):
        self.outputs, self.errors, self.met = outputs, list(errors), []

    async def __call__(self, event, origin):
        self.met.append((event, origin))
        if self.errors:
            raise self.errors.pop(0)
        return self.outputs


def bench(handler, name="retrieve", retry=AT_ONCE, kept=None):
    kept, metrics = kept or KeptRecords(), Metrics()
    return Guard(stage(name), handler, kept, ManualClock(), metrics, retry), kept, metrics


def incoming(event, offset=7):
    made = outgoing(Emit(event), NAMES, source="test", parent={"traceparent": b"00-ab-cd-01"})
    return Record(made.topic, made.partition, made.key, made.value, made.headers, offset)


def count(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels) or 0


ADMITTED = Admitted(**IN_FLIGHT)
RETRIEVED = BY_KIND["context.retrieved"]
DEAD = f"{NAMES.topic('request.admitted')}.retrieve.dlq"


# --- what goes well -----------------------------------------------------------------------------------


async def test_outputs_are_sent_timed_and_traced():
    # given a handler with one output; when a record is handled
    handler = Handler(RETRIEVED)
    guard, kept, metrics = bench(handler)
    await guard.handle(incoming(ADMITTED))
    # then the handler saw the event and where it came in
    ((event, origin),) = handler.met
    assert event.model_dump() == ADMITTED.model_dump()
    assert (origin.topic, origin.offset) == (NAMES.topic("request.admitted"), 7)
    # and its output is written, with the stage's own time beside that of the others, in the same trace
    (written,) = kept.records
    output = decode((type(RETRIEVED),), written.value, kind_of(written.headers))
    assert output.latency_ms["retrieve"] >= 0
    assert output.latency_ms["total"] == RETRIEVED.latency_ms["total"]
    assert written.headers["traceparent"] == b"00-ab-cd-01"
    assert count(metrics, "ruvllm_handled_total", stage="retrieve", outcome="done") == 1
    assert count(metrics, "ruvllm_handle_seconds_count", stage="retrieve") == 1


async def test_several_outputs_keep_their_order_and_none_is_an_answer_too():
    # given a handler with several outputs, and one with none; when records are handled; then so it is written
    guard, kept, _ = bench(Handler([RETRIEVED, BY_KIND["request.routed"]]))
    await guard.handle(incoming(ADMITTED))
    assert [kind_of(r.headers) for r in kept.records] == ["context.retrieved", "request.routed"]
    guard, kept, metrics = bench(Handler([]))
    await guard.handle(incoming(ADMITTED))
    assert kept.records == []
    assert count(metrics, "ruvllm_handled_total", stage="retrieve", outcome="done") == 1


async def test_events_that_are_not_in_flight_are_not_timed():
    # given an output that has no latencies; when written; then it is as the handler made it
    turn = BY_KIND["turn.accepted"]
    guard, kept, _ = bench(Handler(turn), "intake")
    await guard.handle(incoming(BY_KIND["request.submitted"]))
    assert read(kept.records[0], (type(turn),)) == turn


# --- what cannot be read ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"\xff\xfe", "undecodable"),
        (None, "undecodable"),
        (b'{"version": 2}', "unsupported_version"),
        (b'{"session": "tour"}', "invalid_request"),
    ],
)
async def test_what_cannot_be_read_is_kept_and_its_request_is_told(value, code):
    # given bytes that are no event, with ids in their headers; when handled
    handler = Handler(RETRIEVED)
    guard, kept, metrics = bench(handler)
    good = incoming(ADMITTED)
    await guard.handle(Record(good.topic, 2, good.key, value, good.headers, 9))
    # then the handler never saw them, the dead letter has them, and the desk is told
    assert handler.met == []
    (letter,) = kept.of(DEAD)
    assert (letter.value, letter.headers["dlq-code"], letter.headers["dlq-attempt"]) == (value, code.encode(), b"1")
    (failed,) = kept.failures()
    assert (failed.session, failed.request_id, failed.fault.code) == ("tour", "r-1", code)
    assert failed.time == START
    assert len(kept.records) == 2
    assert count(metrics, "ruvllm_dead_letters_total", stage="retrieve", code=code) == 1
    assert count(metrics, "ruvllm_handled_total", stage="retrieve", outcome="failed") == 1


async def test_what_names_no_request_is_kept_and_nobody_is_told():
    # given bytes without ids; when handled; then the dead letter is all there is
    guard, kept, _ = bench(Handler())
    await guard.handle(Record(NAMES.topic("request.admitted"), 0, None, b"?", {}, 1))
    assert [r.topic for r in kept.records] == [DEAD]


async def test_a_body_need_not_name_its_kind_where_its_topic_holds_one():
    # given the plainest request and feedback that any program can write; when intake handles them
    handler = Handler([])
    guard, kept, _ = bench(handler, "intake")
    await guard.handle(Record(NAMES.topic("request.submitted"), 0, None, b'{"prompt": "Who?"}', {}, 1))
    await guard.handle(Record(NAMES.topic("feedback.submitted"), 0, None, b'{"request_id": "r", "rating": 5}', {}, 2))
    # then each is read as what its topic holds
    assert [type(event) for event, _ in handler.met] == [Ask, Rate]
    assert kept.records == []


async def test_an_event_in_another_kinds_topic_is_refused():
    # given feedback among the requests; when handled; then it is refused, not taken for feedback
    guard, kept, _ = bench(Handler([]), "intake")
    body = orjson.dumps({"kind": "feedback.submitted", "request_id": "r", "rating": 5})
    await guard.handle(Record(NAMES.topic("request.submitted"), 0, None, body, {}, 1))
    assert kept.failures()[0].fault.code == "invalid_request"


async def test_bad_feedback_does_not_end_the_request_that_it_is_about():
    # given feedback with a rating that does not exist; when intake handles it; then it is put aside, and that is all
    guard, kept, _ = bench(Handler([]), "intake")
    topic_name = NAMES.topic("feedback.submitted")
    await guard.handle(Record(topic_name, 0, None, b'{"request_id": "r-1", "rating": 9}', {"request-id": b"r-1"}, 1))
    assert [r.topic for r in kept.records] == [f"{topic_name}.intake.dlq"]


# --- what fails ---------------------------------------------------------------------------------------


async def test_weather_is_tried_again_and_counted():
    # given a handler that fails twice for reasons that pass; when a record is handled
    handler = Handler(RETRIEVED, [ConnectionError("gone"), OSError("busy")])
    guard, kept, metrics = bench(handler)
    await guard.handle(incoming(ADMITTED))
    # then it was called three times and its output counts
    assert len(handler.met) == 3
    assert [kind_of(r.headers) for r in kept.records] == ["context.retrieved"]
    assert count(metrics, "ruvllm_retries_total", stage="retrieve") == 2


async def test_weather_that_stays_ends_in_the_dead_letter_with_its_attempts():
    # given a handler that fails as often as it is tried; when a record is handled
    handler = Handler(RETRIEVED, [ConnectionError("gone")] * 9)
    guard, kept, metrics = bench(handler)
    bad = incoming(ADMITTED)
    await guard.handle(bad)
    # then it was tried three times, its bytes are kept, and the user learns the class of the error only
    assert len(handler.met) == 3
    (letter,) = kept.of(DEAD)
    assert (letter.value, letter.headers["dlq-code"]) == (bad.value, b"internal_error")
    assert letter.headers["dlq-attempt"] == b"3"
    assert letter.headers["dlq-error"].startswith(b"ConnectionError: gone")
    (failed,) = kept.failures()
    assert (failed.fault.code, failed.fault.message) == ("internal_error", "ConnectionError in stage retrieve")
    assert count(metrics, "ruvllm_retries_total", stage="retrieve") == 2


async def test_a_verdict_is_not_tried_again():
    # given a handler that knows that the request cannot be served; when handled; then once
    handler = Handler(RETRIEVED, [PromptTooLong("9,000 tokens")])
    guard, kept, metrics = bench(handler)
    await guard.handle(incoming(ADMITTED))
    assert len(handler.met) == 1
    assert kept.failures()[0].fault.message == "9,000 tokens"
    assert kept.of(DEAD)[0].headers["dlq-attempt"] == b"1"
    assert count(metrics, "ruvllm_retries_total", stage="retrieve") == 0


async def test_a_verdict_after_weather_counts_both_attempts():
    # given a handler that fails in passing and then for good; when handled; then both attempts are told
    guard, kept, _ = bench(Handler(RETRIEVED, [OSError("busy"), ModelCrashed("it died twice")]))
    await guard.handle(incoming(ADMITTED))
    assert kept.of(DEAD)[0].headers["dlq-attempt"] == b"2"


async def test_what_is_nobodys_fault_leaves_no_dead_letter():
    # given a deadline that passed on the way; when handled; then the desk is told and nothing is put aside
    guard, kept, metrics = bench(Handler(RETRIEVED, [DeadlineExceeded("too late")]))
    await guard.handle(incoming(ADMITTED))
    assert kept.of(DEAD) == []
    assert [f.fault.code for f in kept.failures()] == ["deadline_exceeded"]
    assert count(metrics, "ruvllm_dead_letters_total", stage="retrieve", code="deadline_exceeded") == 0


async def test_an_output_that_is_too_large_is_a_verdict_that_the_user_can_act_on():
    # given a handler whose output no record holds; when handled; then the request gets its error, not another try
    handler = Handler(RETRIEVED)
    guard, kept, _ = bench(handler, kept=Refusing(most=len(incoming(ADMITTED).value)))
    bad = incoming(ADMITTED)
    await guard.handle(bad)
    assert len(handler.met) == 1
    assert [r.value for r in kept.of(DEAD)] == [bad.value]
    assert [f.fault.code for f in kept.failures()] == ["invalid_request"]


async def test_an_output_topic_that_is_closed_to_us_ends_in_the_dead_letter():
    # given an output topic that an ACL closes; when handled; then the bytes are kept and the request is told
    guard, kept, metrics = bench(Handler(RETRIEVED), kept=Refusing(closed=[NAMES.topic("context.retrieved")]))
    await guard.handle(incoming(ADMITTED))
    assert kept.of(DEAD)[0].headers["dlq-error"].startswith(b"TopicAuthorizationFailedError")
    assert [f.fault.code for f in kept.failures()] == ["internal_error"]
    assert count(metrics, "ruvllm_handled_total", stage="retrieve", outcome="done") == 0


async def test_a_record_that_fills_its_topic_is_kept_in_part():
    # given bytes as large as a record may be, which cannot be read; when put aside
    size = 600_000
    guard, kept, _ = bench(Handler(), "intake", kept=Refusing(most=size - 1))
    await guard.handle(Record(NAMES.topic("request.submitted"), 0, None, b"?" * size, {"request-id": b"r-1"}, 1))
    # then the letter has what fits, and the request is told
    (letter,) = kept.of(f"{NAMES.topic('request.submitted')}.intake.dlq")
    assert 0 < len(letter.value) < size
    assert letter.headers["dlq-cut-from"] == b"600000"
    assert [f.request_id for f in kept.failures()] == ["r-1"]


async def test_what_cannot_even_be_put_aside_is_raised():
    # given a dead-letter topic that is closed to us; when a record fails; then it stays undone, and that is said
    guard, kept, metrics = bench(Handler(RETRIEVED, [PromptTooLong("?")]), kept=Refusing(closed=[DEAD]))
    with pytest.raises(TopicAuthorizationFailedError):
        await guard.handle(incoming(ADMITTED))
    assert kept.records == []
    assert count(metrics, "ruvllm_handled_total", stage="retrieve", outcome="failed") == 0


async def test_a_record_with_neither_key_nor_value_is_put_aside():
    # given a tombstone without a key, as any producer may send; when handled; then its letter can be written
    kafka = MemoryKafka(NAMES.partitions)
    sender = Sender("memory", NAMES, source="test", new_producer=kafka.producer)
    await sender.start()
    guard = Guard(stage("intake"), Handler(), sender, ManualClock(), Metrics(), AT_ONCE)
    await guard.handle(Record(NAMES.topic("request.submitted"), 1, None, None, {}, 3))
    (letter,) = kafka.records(f"{NAMES.topic('request.submitted')}.intake.dlq")
    assert letter.headers["dlq-offset"] == b"3"


def test_our_own_errors_are_verdicts_and_others_are_weather():
    # given errors of both kinds; when asked whether they may pass; then ours do not
    assert not may_pass(UnknownTier("?"))
    assert may_pass(TimeoutError())


# --- kinds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", STAGES, ids=lambda s: s.name)
def test_a_stage_reads_what_its_topics_hold(row):
    # given any stage; when asked what it reads, by topic and in all; then it is what the topology says
    by_topic = kinds_by_topic(row, NAMES)
    assert set(by_topic) == set(NAMES.consumed(row))
    assert {e for kinds in by_topic.values() for e in kinds} == set(stage_events(row))
    assert set(stage_events(row)) == {e for name in row.consumes for e in topic(name).events}


async def test_an_output_of_any_size_of_latencies_is_kept():
    # given an event that has passed a stage before (a redelivery); when timed again; then the newer time counts
    seen = RETRIEVED.model_copy(update={"latency_ms": {"retrieve": 99_999.0}, "retrieval": RETRIEVAL})
    guard, kept, _ = bench(Handler(seen))
    await guard.handle(incoming(ADMITTED))
    assert decode((type(seen),), kept.records[0].value).latency_ms["retrieve"] < 99_999
