"""The client before it is connected: what a program can get wrong is said at once, in its own words."""

import asyncio
from datetime import UTC, datetime

import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

import ruvllm
from ruvllm import Client, RuvllmError, SyncClient
from ruvllm.errors import BrokerUnavailable, InvalidRequest
from ruvllm.schemas.memory import PutDocument
from ruvllm.streams.connection import connected
from ruvllm.streams.settings import load_settings
from tests.unit.sample_events import RESPONSE

NOBODY = "127.0.0.1:1"
SETTINGS = load_settings({"kafka.bootstrap_servers": NOBODY}, environ={})


@pytest.fixture
def client():
    return Client(settings=SETTINGS)


def test_the_front_door_has_what_it_names():
    # given the names that users import; when looked up; then each is there, and others are not
    assert [name for name in ruvllm.__all__ if not hasattr(ruvllm, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'Kafka'"):
        ruvllm.Kafka  # noqa: B018


async def test_a_client_must_be_started(client):
    # given a client that is not started; when used; then the error says how to start it
    for use in (client.ask("Who?"), client.submit("Who?"), client.feedback("r-1", rating=5), client.documents([])):
        with pytest.raises(RuvllmError, match="async with Client"):
            await use
    assert [r async for r in client.responses()] == []


async def test_a_response_can_be_waited_for_only_after_its_submission(client):
    # given a request that this client has not submitted; when its response is asked for; then it says so
    with pytest.raises(RuvllmError, match="has not submitted 'r-9'") as caught:
        await client.response("r-9", session="tour")
    assert "same id" in caught.value.hint


async def test_a_client_without_a_broker_says_so():
    # given an address where nobody answers; when a client starts; then the error names it
    with pytest.raises(BrokerUnavailable, match=NOBODY):
        async with Client(NOBODY, settings=SETTINGS):
            pass


@pytest.mark.parametrize(
    ("constraints", "names"),
    [
        ({"max_token": 5}, "'max_token'"),
        ({"max_tokens": 0}, "`max_tokens` = 0"),
        ({"temperature": "hot"}, "`temperature` = 'hot'"),
        ({"grounding": "never"}, "`grounding` = 'never'"),
    ],
)
async def test_a_slip_in_a_constraint_is_said_before_anything_is_sent(client, constraints, names):
    # given a misspelt constraint or a value that cannot be; when asked; then it is named
    with pytest.raises(InvalidRequest, match=names):
        await client.ask("Who?", **constraints)


# --- the broker goes away while a request is written ----------------------------------------------------


class Stalled:
    """A sender as it is while its broker is away: it waits (`Sender.write`)."""

    async def send(self, emits):
        await asyncio.Event().wait()


class Refused:
    """A sender to which Kafka says that it will never take a record."""

    async def send(self, emits):
        raise MessageSizeTooLargeError


@pytest.fixture
def stalled(client, monkeypatch):
    """A client that was started, and whose broker has gone away since."""
    client._sender = Stalled()
    monkeypatch.setattr("ruvllm.streams.client.GRACE_S", 0.02)
    return client


async def test_asking_ends_at_its_deadline_when_the_broker_is_away(stalled):
    # given a broker that takes nothing; when asked with a deadline; then the wait ends with the right error
    for ask in (stalled.ask, stalled.submit):
        with pytest.raises(BrokerUnavailable, match="took it within") as caught:
            async with asyncio.timeout(5):
                await ask("Who?", session="tour", request_id="r-1", deadline_s=0.02)
        assert "same id" in caught.value.hint
    # and nothing is outstanding: iterating ends at once
    assert [r async for r in stalled.responses()] == []


async def test_feedback_and_documents_do_not_wait_for_ever_either():
    # given a broker that takes nothing; when feedback and documents are sent; then both waits end
    client = Client(settings=load_settings({"limits.default_deadline_s": "0.02"}, environ={}))
    client._sender = Stalled()
    document = PutDocument(time=datetime.now(UTC), document_id="a.md", content="x")
    for send in (client.feedback("r-1", rating=5), client.documents([document, document], timeout_s=0.02)):
        with pytest.raises(BrokerUnavailable, match=r"took (it|all 2) within"):
            async with asyncio.timeout(5):
                await send


async def test_what_kafka_never_takes_is_the_senders_mistake(client):
    # given a record that is too large; when sent; then it is said, in Kafka's words
    client._sender = Refused()
    with pytest.raises(InvalidRequest, match="MessageSizeTooLargeError"):
        await client.ask("Who?")


# --- opening and closing --------------------------------------------------------------------------------


class Line:
    """A connection that notes what is done to it."""

    def __init__(self, error=None):
        self.done = []
        self.error = error

    async def start(self):
        self.done.append("start")
        if self.error is not None:
            raise self.error

    async def stop(self):
        self.done.append("stop")


async def test_connections_are_opened_in_order_and_all_closed():
    # given two connections; when used; then both are open meanwhile and closed afterwards
    lines = Line(), Line()
    async with connected(NOBODY, *lines):
        assert [line.done for line in lines] == [["start"], ["start"]]
    assert [line.done[-1] for line in lines] == ["stop", "stop"]


@pytest.mark.parametrize("error", [KafkaConnectionError(), OSError("no route")])
async def test_when_one_connection_does_not_open_none_is_left_open(error):
    # given a second connection that fails; when opened; then the error is ours and both are closed
    lines = Line(), Line(error)
    with pytest.raises(BrokerUnavailable, match=f"no Kafka broker answers at {NOBODY}"):
        async with connected(NOBODY, *lines):
            pytest.fail("not open")
    assert [line.done[-1] for line in lines] == ["stop", "stop"]


def test_the_synchronous_client_must_be_opened():
    # given a synchronous client that was not opened; when used; then the error says how
    with pytest.raises(RuvllmError, match="with SyncClient"):
        SyncClient(settings=SETTINGS).ask("Who?")


def test_the_synchronous_client_without_a_broker_leaves_no_thread():
    # given an address where nobody answers; when opened; then it says so and its thread has ended
    client = SyncClient(NOBODY, settings=SETTINGS)
    with pytest.raises(BrokerUnavailable, match=NOBODY), client:
        pass
    assert not client._thread.is_alive()


def test_the_synchronous_client_iterates_and_leaves_nothing_behind(monkeypatch):
    # given an opened synchronous client with two submissions, one answered
    async def start(self):
        self._outstanding.expect(("s", "r-1"), 60)
        self._outstanding.expect(("s", "r-2"), 60)
        self._outstanding.settle(("s", "r-1"), RESPONSE)

    monkeypatch.setattr(Client, "start", start)
    with SyncClient(NOBODY, settings=SETTINGS) as client:
        # when iterated; then the response comes without await
        arriving = client.responses()
        assert next(arriving) == RESPONSE
        loop = client._loop
    # and afterwards neither thread nor loop is left, though the iteration was not finished
    arriving.close()
    assert not client._thread.is_alive()
    assert loop.is_closed()


def test_the_synchronous_client_ends_what_a_failed_start_began(monkeypatch):
    # given a start that fails half-way while a task of its own is under way
    ended = []

    async def start(self):
        async def task():
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        self._task = asyncio.create_task(task())
        await asyncio.sleep(0)
        raise BrokerUnavailable("half-way")

    monkeypatch.setattr(Client, "start", start)
    client = SyncClient(NOBODY, settings=SETTINGS)
    # when opened; then the error comes through, and the task was ended, not abandoned
    with pytest.raises(BrokerUnavailable, match="half-way"), client:
        pass
    assert ended == [True]
    assert not client._thread.is_alive()
