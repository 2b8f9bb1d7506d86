"""The client: produces requests, consumes responses, and is all that a program needs.

    async with Client() as client:
        answer = await client.ask("Who keeps the lamp?", session="tour")
        await client.feedback(answer, rating=5)

It speaks plain Kafka, as any other program may: it produces to `request.submitted` and reads
`response.completed` without a consumer group, so any number of clients may run side by side.
An error is an answer too: look at `Response.error`, or call `raise_for_error()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from ruvllm.agents.outbox import Emit
from ruvllm.errors import BrokerUnavailable, InvalidRequest, RuvllmError
from ruvllm.schemas.event import Event
from ruvllm.schemas.ids import new_id
from ruvllm.schemas.memory import PutDocument, RemoveDocument
from ruvllm.schemas.request import Ask, Message, Rate, Response, constraints_of
from ruvllm.schemas.wire import decode
from ruvllm.streams.connection import connected
from ruvllm.streams.fetch_session import use_fetch_sessions
from ruvllm.streams.log_reader import listen_from_now, partitions_of
from ruvllm.streams.outstanding import Outstanding
from ruvllm.streams.sender import Sender
from ruvllm.streams.settings import Settings, load_settings
from ruvllm.streams.topics import MAX_RECORD_BYTES
from ruvllm.streams.topology import Names, client_names

GRACE_S = 5.0
"""How much longer than its deadline a client waits for the service's own answer to it."""


class Client:
    """An asynchronous client of one tenant. Use it as a context manager; one serves many sessions."""

    def __init__(
        self,
        bootstrap_servers: str | None = None,
        *,
        tenant: str = "default",
        settings: Settings | None = None,
    ) -> None:
        """`bootstrap_servers` defaults to the configuration's, and that to the local broker."""
        self._settings = settings or load_settings()
        kafka = self._settings.kafka
        self._bootstrap = bootstrap_servers or kafka.bootstrap_servers or f"127.0.0.1:{kafka.port}"
        self._prefix = kafka.prefix
        self._tenant = tenant
        self._sender: Sender | None = None
        self._connections = AsyncExitStack()
        self._reader: asyncio.Task[None] | None = None
        self._outstanding = Outstanding()

    async def __aenter__(self) -> Client:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect. Raises BrokerUnavailable if nobody answers, or if the service's topics are not there."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, group_id=None, isolation_level="read_committed")
        use_fetch_sessions(consumer)
        async with AsyncExitStack() as opened:
            await opened.enter_async_context(connected(self._bootstrap, consumer))
            names = await service_names(consumer, self._prefix)
            sender = Sender(self._bootstrap, names, source=f"client/{self._tenant}")
            await opened.enter_async_context(connected(self._bootstrap, sender))
            await listen_from_now(consumer, names.topic("response.completed"))
            self._connections = opened.pop_all()
        self._sender = sender
        self._reader = asyncio.create_task(self._read(consumer), name="client-responses")

    async def close(self) -> None:
        """Disconnect; what still waits is cancelled."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})
        self._outstanding.forget_all()
        await self._connections.aclose()

    # --- asking -----------------------------------------------------------------------------------

    async def ask(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] = (),
        session: str | None = None,
        request_id: str | None = None,
        deadline_s: float | None = None,
        tags: dict[str, str] | None = None,
        **constraints: Any,
    ) -> Response:
        """Ask and wait. Further keywords are `Constraints`: max_tokens, allowed_tiers, temperature, ...

        Raises DeadlineExceeded if not even the service's own error came in time, BrokerUnavailable as `submit`.
        """
        submitted = await self.submit(
            prompt,
            messages=messages,
            session=session,
            request_id=request_id,
            deadline_s=deadline_s,
            tags=tags,
            **constraints,
        )
        return await self.response(submitted, session=session)

    async def submit(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] = (),
        session: str | None = None,
        request_id: str | None = None,
        deadline_s: float | None = None,
        tags: dict[str, str] | None = None,
        **constraints: Any,
    ) -> str:
        """Ask without waiting; returns the request id once the request is written.

        Raises BrokerUnavailable if it could not be written by its deadline.
        """
        now = datetime.now(UTC)
        if deadline_s is not None:
            constraints["deadline"] = now + timedelta(seconds=deadline_s)
        ask = Ask(
            tenant=self._tenant,
            time=now,
            request_id=request_id or new_id(),
            session=session,
            prompt=prompt,
            messages=tuple(messages),
            tags=tags or {},
            constraints=constraints_of(constraints),
        )
        sender = self._started()
        limit_s = (self._settings.limits.default_deadline_s if deadline_s is None else deadline_s) + GRACE_S
        key = (session or ask.request_id, ask.request_id)
        mine = self._outstanding.expect(key, limit_s)
        try:
            await send_within(limit_s, sender, [ask])
        except BaseException:
            if mine:
                self._outstanding.forget(key)
            raise
        return ask.request_id

    async def response(
        self, request_id: str, *, session: str | None = None, timeout_s: float | None = None
    ) -> Response:
        """The response to what this client has submitted; it is handed out once.

        Raises DeadlineExceeded when the request's own deadline has passed without one, or after `timeout_s`:
        then it can be waited for again.
        """
        return await self._outstanding.take((session or request_id, request_id), timeout_s)

    def responses(self) -> AsyncGenerator[Response, None]:
        """The responses to this client's submissions as they come, until none is outstanding.

        Each is handed out once: what `response` or `ask` has given does not come again. Raises DeadlineExceeded
        for one that has not come by its deadline; the others come when this is called again.
        """
        return self._outstanding.each()

    async def feedback(
        self,
        answer: Response | str,
        *,
        session: str | None = None,
        rating: int | None = None,
        score: float | None = None,
        passed: bool | None = None,
        expected: str | None = None,
        correction: str | None = None,
        comment: str | None = None,
    ) -> str:
        """Say how good an answer was; returns the feedback's id once it is written. Raises BrokerUnavailable."""
        request_id = answer if isinstance(answer, str) else answer.request_id
        rate = Rate(
            tenant=self._tenant,
            time=datetime.now(UTC),
            request_id=request_id,
            session=session or (None if isinstance(answer, str) else answer.session),
            rating=rating,
            score=score,
            passed=passed,
            expected=expected,
            correction=correction,
            comment=comment,
        )
        await send_within(self._settings.limits.default_deadline_s, self._started(), [rate])
        return rate.feedback_id

    async def documents(self, commands: Iterable[PutDocument | RemoveDocument], *, timeout_s: float = 600.0) -> None:
        """Send document commands; returns when they are written (`ruvllm ingest --wait` waits for more).

        Raises BrokerUnavailable if not all could be written in time.
        """
        await send_within(timeout_s, self._started(), list(commands))

    # --- reading ----------------------------------------------------------------------------------

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        async for message in consumer:
            key = dict(message.headers)
            session, request_id = (key.get(n, b"").decode("utf-8", "replace") for n in ("session", "request-id"))
            submission = (session, request_id)
            if not self._outstanding.expects(submission):
                continue
            try:
                response = decode((Response,), message.value)
            except InvalidRequest as error:  # say so to whoever waits, and read on
                self._outstanding.settle(submission, error)
                continue
            if response.tenant == self._tenant:
                self._outstanding.settle(submission, response)

    def _started(self) -> Sender:
        if self._sender is None:
            raise RuvllmError("the client is not started", hint="Use `async with Client() as client:`.")
        return self._sender


async def service_names(consumer: AIOKafkaConsumer, prefix: str) -> Names:
    """The topics' names, with the number of partitions that the service gave them, whatever is configured here.

    Raises BrokerUnavailable if they are not there.
    """
    names = client_names(prefix, partitions=1)
    return client_names(prefix, len(await partitions_of(consumer, names.topic("response.completed"))))


async def send_within(limit_s: float, sender: Sender, events: Sequence[Event]) -> None:
    """Send, and wait no longer than this for the broker to take it.

    Raises BrokerUnavailable, and InvalidRequest for what Kafka will never take.
    """
    try:
        async with asyncio.timeout(limit_s):
            await sender.send([Emit(event) for event in events])
    except TimeoutError as error:
        raise BrokerUnavailable(
            f"no Kafka broker took {'it' if len(events) == 1 else f'all {len(events)}'} within {limit_s:.0f} s",
            hint="`ruvllm broker status`. What was on its way may still be written: sent again under the same id, "
            "a request is answered once and a document changes nothing.",
        ) from error
    except KafkaError as error:
        raise InvalidRequest(
            f"Kafka refuses it: {error!r}",
            hint=f"A record has at most {MAX_RECORD_BYTES / 1e6:.0f} MB, and the topics must be open to this user.",
        ) from error
