"""Incremental fetch sessions for aiokafka's consumer (KIP-227): a fetch names only what has changed.

aiokafka 0.14 fetches without a session: each request lists all partitions of the consumer, each
response describes them all again, and both are coded in Python. The three topics of the desk have 48
partitions, of which one has news. With a session the broker remembers the list.

Invariant: after each request the broker's list is exactly the partitions that the fetcher asked for,
at the offsets that it asked for. Whenever that is in doubt (an error, a cancelled request, a broker
that has forgotten), the next request is a full one that opens a new session.

Source: KIP-227; the states follow `FetchSessionHandler` of Kafka's Java client.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.protocol.fetch import FetchRequest

SESSIONS_SINCE = 7
"""The version of the fetch request that brought sessions."""
NO_SESSION = 0
FIRST_EPOCH = 0
LAST_EPOCH = 2**31 - 1

Place = tuple[str, int]
"""Topic and partition."""
Topics = list[tuple[str, list[tuple[int, int, int]]]]
"""Of each topic: partition, offset, most bytes."""


class FetchSession:
    """What one broker remembers of one consumer's fetches."""

    def __init__(self) -> None:
        self.id = NO_SESSION
        self.epoch = FIRST_EPOCH
        self._known: dict[Place, tuple[int, int]] = {}  # place -> offset, most bytes

    def ask(self, wanted: Topics) -> tuple[Topics, list[tuple[str, list[int]]]]:
        """What to send so that the broker's list becomes `wanted`: the changed ones, the forgotten ones."""
        if self.epoch == FIRST_EPOCH:
            self._known.clear()
        now = {(topic, p): (offset, most) for topic, rows in wanted for p, offset, most in rows}
        known = self._known
        changed = {place: row for place, row in now.items() if known.get(place) != row}
        forgotten = _by_topic((place, place[1]) for place in known.keys() - now.keys())
        self._known = now
        return _by_topic((place, (place[1], *row)) for place, row in changed.items()), forgotten

    def answered(self, error: int, session_id: int) -> None:
        """The broker's word on the last request (`error`: its code, 0 for none)."""
        if error or session_id == NO_SESSION:
            self.doubt()
            self.id = NO_SESSION
        else:
            self.id = session_id
            self.epoch = 1 if self.epoch == LAST_EPOCH else self.epoch + 1

    def doubt(self) -> None:
        """Nobody knows whether the broker took the last request: open a new session with the next."""
        self.epoch = FIRST_EPOCH


class _SessionFetch(FetchRequest):  # type: ignore[misc]
    """A fetch request within a session, and whole for a broker that knows of none."""

    def __init__(self, whole: FetchRequest, session: FetchSession) -> None:
        self.__dict__.update(whole.__dict__)
        self._whole = whole
        self._session = session

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class.API_VERSION < SESSIONS_SINCE:
            return self._whole.build(request_struct_class)
        self._topics, forgotten = self._session.ask(self._whole.topics)
        built = super().build(request_struct_class)
        built.session_id, built.session_epoch = self._session.id, self._session.epoch
        built.forgotten_topics_data = forgotten
        return built


def use_fetch_sessions(consumer: AIOKafkaConsumer) -> None:
    """Make a consumer that has not started yet fetch within sessions, one for each broker.

    Its fetcher has one request to a broker under way at a time, which is what a session needs.
    """
    client = consumer._client
    send = client.send
    sessions: defaultdict[int, FetchSession] = defaultdict(FetchSession)

    async def send_in_session(node_id: int, request: Any, **options: Any) -> Any:
        if not isinstance(request, FetchRequest):
            return await send(node_id, request, **options)
        session = sessions[node_id]
        try:
            response = await send(node_id, _SessionFetch(request, session), **options)
        except BaseException:  # cancelled or failed: the broker may have taken it all the same
            session.doubt()
            raise
        if response.API_VERSION >= SESSIONS_SINCE:
            session.answered(response.error_code, response.session_id)
        return response

    client.send = send_in_session


def _by_topic(rows: Iterable[tuple[Place, Any]]) -> list[tuple[str, list[Any]]]:
    topics: defaultdict[str, list[Any]] = defaultdict(list)
    for (topic, _), row in rows:
        topics[topic].append(row)
    return list(topics.items())
