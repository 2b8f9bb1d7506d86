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
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError

from ruvllm.agents.outbox import Emit
from ruvllm.errors import BrokerUnavailable, DeadlineExceeded, InvalidRequest, RuvllmError
from ruvllm.schemas.ids import new_id
from ruvllm.schemas.memory import PutDocument, RemoveDocument
from ruvllm.schemas.request import Ask, Message, Rate, Response, constraints_of
from ruvllm.schemas.wire import decode
from ruvllm.streams.fetch_session import use_fetch_sessions
from ruvllm.streams.log_reader import listen_from_now
from ruvllm.streams.sender import Sender
from ruvllm.streams.settings import Settings, load_settings
from ruvllm.streams.topology import client_names

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
        self._names = client_names(kafka.prefix, kafka.partitions)
        self._tenant = tenant
        self._sender: Sender | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[tuple[str, str], asyncio.Future[Response]] = {}

    async def __aenter__(self) -> Client:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect. Raises BrokerUnavailable if nobody answers."""
        sender = Sender(self._bootstrap, self._names, source=f"client/{self._tenant}")
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, group_id=None, isolation_level="read_committed")
        use_fetch_sessions(consumer)
        try:
            await sender.start()
            await consumer.start()
        except (KafkaConnectionError, OSError) as error:
            await asyncio.gather(sender.stop(), consumer.stop(), return_exceptions=True)
            raise BrokerUnavailable(f"no Kafka broker answers at {self._bootstrap}") from error
        self._sender, self._consumer = sender, consumer
        await listen_from_now(consumer, self._names.topic("response.completed"))
        self._reader = asyncio.create_task(self._read(), name="client-responses")

    async def close(self) -> None:
        """Disconnect; what still waits is cancelled."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})
        for future in self._waiting.values():
            future.cancel()
        self._waiting.clear()
        if self._consumer is not None:
            await self._consumer.stop()
        if self._sender is not None:
            await self._sender.stop()

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

        Raises DeadlineExceeded if not even the service's own error came in time.
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
        return await self.response(submitted, session=session, timeout_s=deadline_s)

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
        """Ask without waiting; returns the request id once the request is written."""
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
        key = (session or ask.request_id, ask.request_id)
        self._waiting.setdefault(key, asyncio.get_running_loop().create_future())
        await sender.send([Emit(ask)])
        return ask.request_id

    async def response(
        self, request_id: str, *, session: str | None = None, timeout_s: float | None = None
    ) -> Response:
        """The response to what this client has submitted."""
        key = (session or request_id, request_id)
        future = self._waiting.get(key)
        if future is None:
            raise RuvllmError(
                f"this client has not submitted {request_id!r} in that session",
                hint="Submit it again under the same id: an answered id is answered from the store.",
            )
        longest = (timeout_s or self._settings.limits.default_deadline_s) + GRACE_S
        try:
            return await asyncio.wait_for(asyncio.shield(future), longest)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"no response to {request_id} within {longest:.0f} s",
                hint="Is the service up? `ruvllm status`. The response will stand in its topic when it comes.",
            ) from error
        finally:
            if future.done():
                self._waiting.pop(key, None)

    async def responses(self) -> AsyncIterator[Response]:
        """The responses to this client's submissions as they come, until none is outstanding.

        Each is handed out once: what `response` or `ask` has given does not come again.
        """
        while self._waiting:
            await asyncio.wait(self._waiting.values(), return_when=asyncio.FIRST_COMPLETED)
            for key in [key for key, future in self._waiting.items() if future.done()]:
                if (future := self._waiting.pop(key, None)) is not None:
                    yield future.result()

    async def feedback(
        self,
        answer: Response | str,
        *,
        session: str | None = None,
        rating: int | None = None,
        score: float | None = None,
        passed: bool | None = None,
        correction: str | None = None,
        comment: str | None = None,
    ) -> str:
        """Say how good an answer was; returns the feedback's id once it is written."""
        request_id = answer if isinstance(answer, str) else answer.request_id
        rate = Rate(
            tenant=self._tenant,
            time=datetime.now(UTC),
            request_id=request_id,
            session=session or (None if isinstance(answer, str) else answer.session),
            rating=rating,
            score=score,
            passed=passed,
            correction=correction,
            comment=comment,
        )
        await self._started().send([Emit(rate)])
        return rate.feedback_id

    async def documents(self, commands: Iterable[PutDocument | RemoveDocument]) -> None:
        """Send document commands; returns when they are written (`ruvllm ingest --wait` waits for more)."""
        await self._started().send([Emit(command) for command in commands])

    # --- reading ----------------------------------------------------------------------------------

    async def _read(self) -> None:
        assert self._consumer is not None
        async for message in self._consumer:
            key = dict(message.headers)
            session, request_id = (key.get(n, b"").decode("utf-8", "replace") for n in ("session", "request-id"))
            future = self._waiting.get((session, request_id))
            if future is None or future.done():
                continue
            try:
                response = decode((Response,), message.value)
            except InvalidRequest as error:  # say so to whoever waits, and read on
                future.set_exception(error)
                continue
            if response.tenant == self._tenant:
                future.set_result(response)

    def _started(self) -> Sender:
        if self._sender is None:
            raise RuvllmError("the client is not started", hint="Use `async with Client() as client:`.")
        return self._sender
