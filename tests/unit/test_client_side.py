"""The client before it is connected: what a program can get wrong is said at once, in its own words."""

import asyncio

import pytest

import ruvllm
from ruvllm import Client, Response, RuvllmError, SyncClient
from ruvllm.errors import BrokerUnavailable, InvalidRequest
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
    assert client._waiting == {}


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


async def test_responses_are_handed_out_once_each_as_they_come(client):
    # given three submissions, of which two have been answered
    loop = asyncio.get_running_loop()
    for number in range(3):
        client._waiting["tour", f"r-{number}"] = loop.create_future()
    client._waiting["tour", "r-2"].set_result(answer("r-2"))
    client._waiting["tour", "r-0"].set_result(answer("r-0"))
    # when one is taken by name
    assert (await client.response("r-0", session="tour")).request_id == "r-0"
    # then the others come by iterating, and when none is outstanding it ends
    arriving = client.responses()
    assert (await anext(arriving)).request_id == "r-2"
    client._waiting["tour", "r-1"].set_result(answer("r-1"))
    assert [r.request_id async for r in arriving] == ["r-1"]
    assert client._waiting == {}


async def test_a_client_that_is_closed_ends_the_wait(client):
    # given somebody who waits; when the client is closed; then they are released
    client._waiting["tour", "r-1"] = asyncio.get_running_loop().create_future()
    waiter = asyncio.create_task(client.response("r-1", session="tour"))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await waiter


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


def answer(request_id) -> Response:
    return RESPONSE.model_copy(update={"request_id": request_id})
