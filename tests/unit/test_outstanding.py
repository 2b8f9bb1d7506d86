"""What a client waits for: a response is handed out once, every wait ends, and what nobody takes does not pile up."""

import asyncio
import gc

import pytest

from ruvllm.errors import DeadlineExceeded, InvalidRequest, RuvllmError
from ruvllm.streams import outstanding as module
from ruvllm.streams.outstanding import Outstanding
from tests.unit.sample_events import RESPONSE

LONG_S = 60.0
SHORT_S = 0.02


def key(number):
    return ("tour", f"r-{number}")


def answer(number):
    return RESPONSE.model_copy(update={"session": "tour", "request_id": f"r-{number}"})


@pytest.fixture
def outstanding():
    return Outstanding()


async def test_responses_are_handed_out_once_each_as_they_come(outstanding):
    # given three submissions, of which two have been answered
    for number in range(3):
        assert outstanding.expect(key(number), LONG_S)
    outstanding.settle(key(2), answer(2))
    outstanding.settle(key(0), answer(0))
    # when one is taken by name
    assert (await outstanding.take(key(0), None)).request_id == "r-0"
    # then the others come by iterating, and when none is outstanding it ends
    arriving = outstanding.each()
    assert (await anext(arriving)).request_id == "r-2"
    outstanding.settle(key(1), answer(1))
    assert [r.request_id async for r in arriving] == ["r-1"]
    assert len(outstanding) == 0


async def test_what_was_not_submitted_cannot_be_waited_for(outstanding):
    # given a request that was not submitted here; when its response is asked for; then the error says the way on
    with pytest.raises(RuvllmError, match="has not submitted 'r-9'") as caught:
        await outstanding.take(key(9), None)
    assert "same id" in caught.value.hint


async def test_a_wait_that_was_too_short_can_be_repeated(outstanding):
    # given a submission; when it is waited for too shortly, and again; then the second wait has the response
    outstanding.expect(key(1), LONG_S)
    with pytest.raises(DeadlineExceeded, match="no response to r-1 within 0 s"):
        await outstanding.take(key(1), SHORT_S)
    outstanding.settle(key(1), answer(1))
    assert await outstanding.take(key(1), SHORT_S) == answer(1)
    assert len(outstanding) == 0


async def test_every_wait_ends_when_the_requests_own_time_is_over(outstanding):
    # given a submission that nobody answers; when waited for without a limit; then the wait ends all the same
    outstanding.expect(key(1), SHORT_S)
    with pytest.raises(DeadlineExceeded, match="no response to r-1"):
        await outstanding.take(key(1), None)
    # and a response that comes later is nobody's
    outstanding.settle(key(1), answer(1))
    assert len(outstanding) == 0


async def test_iterating_ends_though_one_never_comes(outstanding):
    # given two submissions of which one is never answered; when iterated; then it is named, and the other still comes
    outstanding.expect(key(1), SHORT_S)
    outstanding.expect(key(2), LONG_S)
    with pytest.raises(DeadlineExceeded, match="no response to r-1"):
        await anext(outstanding.each())
    outstanding.settle(key(2), answer(2))
    assert [r.request_id async for r in outstanding.each()] == ["r-2"]


async def test_an_id_that_is_submitted_again_shares_its_response_while_it_is_under_way(outstanding):
    # given a request that was submitted twice; when answered; then one response serves both waits
    assert outstanding.expect(key(1), LONG_S)
    assert not outstanding.expect(key(1), LONG_S)
    waiting = [asyncio.create_task(outstanding.take(key(1), None)) for _ in range(2)]
    await asyncio.sleep(0)
    outstanding.settle(key(1), answer(1))
    assert await asyncio.gather(*waiting) == [answer(1), answer(1)]
    # and submitted after its time was over, it is waited for anew
    outstanding.expect(key(1), 0.0)
    await asyncio.sleep(SHORT_S)
    assert outstanding.expect(key(1), LONG_S)
    outstanding.settle(key(1), answer(1))
    assert await outstanding.take(key(1), None) == answer(1)


async def test_what_nobody_takes_is_forgotten_oldest_first(outstanding, monkeypatch):
    # given submissions that nobody waits for; when more are answered than are kept; then the newest are left
    monkeypatch.setattr(module, "MOST_KEPT", 10)
    for number in range(30):
        outstanding.expect(key(number), LONG_S)
        outstanding.settle(key(number), answer(number))
        await asyncio.sleep(0)
    assert len(outstanding) == 10
    assert [r.request_id async for r in outstanding.each()] == [f"r-{n}" for n in range(20, 30)]


async def test_an_error_that_nobody_takes_is_not_complained_of(outstanding):
    # given submissions that end in errors; when they are forgotten; then the loop has nothing to report
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
    outstanding.expect(key(1), 0.0)
    outstanding.expect(key(2), LONG_S)
    outstanding.settle(key(2), InvalidRequest("garbled"))
    await asyncio.sleep(SHORT_S)
    outstanding.forget_all()
    gc.collect()
    assert complaints == []


async def test_whoever_waits_is_released_when_all_is_forgotten(outstanding):
    # given somebody who waits; when the client is closed; then they are released
    outstanding.expect(key(1), LONG_S)
    waiter = asyncio.create_task(outstanding.take(key(1), None))
    await asyncio.sleep(0)
    outstanding.forget_all()
    with pytest.raises(asyncio.CancelledError):
        await waiter
