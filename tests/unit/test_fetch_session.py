"""A fetch session keeps the broker's list equal to what the fetcher asked for, whatever goes wrong."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v6, FetchRequest_v11, FetchResponse_v11
from hypothesis import given
from hypothesis import strategies as st

from ruvllm.streams.fetch_session import LAST_EPOCH, FetchSession, use_fetch_sessions

SESSION_ID_NOT_FOUND = 70
INVALID_EPOCH = 71
MOST_BYTES = 1024


class Broker:
    """The broker's side of KIP-227: it keeps a list for a session, and applies changes to it."""

    def __init__(self) -> None:
        self.id = 0
        self.next_epoch = 0
        self.places: dict[tuple[str, int], int] = {}

    def take(self, request: Any) -> tuple[int, int]:
        """(error, session id) for a request, as it came over the wire."""
        if request.session_epoch == 0:
            self.id, self.next_epoch, self.places = self.id + 1, 0, {}
        elif request.session_id != self.id:
            return SESSION_ID_NOT_FOUND, 0
        elif request.session_epoch != self.next_epoch:
            return INVALID_EPOCH, 0
        self.next_epoch = 1 if self.next_epoch == LAST_EPOCH else self.next_epoch + 1
        for topic, partitions in request.forgotten_topics_data:
            for partition in partitions:
                del self.places[topic, partition]
        for topic, rows in request.topics:
            for partition, _leader_epoch, offset, _start, _most in rows:
                self.places[topic, partition] = offset
        return 0, self.id


class Client:
    """What `use_fetch_sessions` wraps: sends one request to the broker, over a line that may fail."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.line = "up"

    async def send(self, node_id: int, request: Any) -> Any:
        struct = request.prepare({FetchRequest.API_KEY: (4, 11)})
        if self.line == "lost before":
            raise ConnectionError(self.line)
        if self.line == "broker forgot":
            self.broker.__init__()  # type: ignore[misc]
        error, session_id = self.broker.take(struct)
        if self.line == "lost after":
            raise ConnectionError(self.line)
        return FetchResponse_v11(0, error, session_id, [])


class Consumer:
    def __init__(self, broker: Broker) -> None:
        self._client = Client(broker)


def fetch(places: dict[tuple[str, int], int]) -> FetchRequest:
    topics: dict[str, list[tuple[int, int, int]]] = {}
    for (topic, partition), offset in places.items():
        topics.setdefault(topic, []).append((partition, offset, MOST_BYTES))
    return FetchRequest(500, 1, 10_000, 1, list(topics.items()))


PLACES = st.dictionaries(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 3)), st.integers(0, 5))
LINES = st.sampled_from(["up", "up", "up", "lost before", "lost after", "broker forgot"])


@given(st.lists(st.tuples(PLACES, LINES), max_size=12))
async def test_the_brokers_list_is_what_was_asked_for(steps: list[tuple[dict[tuple[str, int], int], str]]) -> None:
    broker = Broker()
    consumer: Any = Consumer(broker)
    line = consumer._client
    use_fetch_sessions(consumer)
    for wanted, state in steps:
        line.line = state
        try:
            response = await consumer._client.send(1, fetch(wanted))
        except ConnectionError:
            continue
        if response.error_code == 0:
            assert broker.places == wanted
        else:  # the fetcher simply asks again, and is heard
            line.line = "up"
            assert (await consumer._client.send(1, fetch(wanted))).error_code == 0
            assert broker.places == wanted


def test_a_second_fetch_names_only_what_changed() -> None:
    session = FetchSession()
    first = [("a", [(0, 10, MOST_BYTES), (1, 20, MOST_BYTES)]), ("b", [(0, 5, MOST_BYTES)])]
    assert session.ask(first) == (first, [])
    session.answered(0, 77)

    changed, forgotten = session.ask([("a", [(0, 11, MOST_BYTES), (1, 20, MOST_BYTES)])])

    assert changed == [("a", [(0, 11, MOST_BYTES)])]
    assert forgotten == [("b", [0])]
    assert (session.id, session.epoch) == (77, 1)


@pytest.mark.parametrize(("error", "session_id"), [(SESSION_ID_NOT_FOUND, 0), (INVALID_EPOCH, 77), (0, 0)])
def test_a_session_that_is_refused_is_asked_for_anew(error: int, session_id: int) -> None:
    session = FetchSession()
    wanted = [("a", [(0, 10, MOST_BYTES)])]
    session.ask(wanted)
    session.answered(0, 77)
    session.ask(wanted)

    session.answered(error, session_id)

    assert (session.id, session.epoch) == (0, 0)
    assert session.ask(wanted) == (wanted, [])


def test_an_older_broker_gets_the_whole_list_each_time() -> None:
    from ruvllm.streams.fetch_session import _SessionFetch

    session = FetchSession()
    request = fetch({("a", 0): 1})
    for _ in range(2):
        built = _SessionFetch(request, session).build(FetchRequest_v6)
        assert built.topics == request.build(FetchRequest_v6).topics
    assert _SessionFetch(request, session).build(FetchRequest_v11).session_epoch == 0


async def test_aiokafka_still_has_what_is_wrapped() -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers="127.0.0.1:1")
    before = consumer._client.send
    use_fetch_sessions(consumer)
    assert consumer._client.send is not before
