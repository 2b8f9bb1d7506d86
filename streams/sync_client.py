"""The client for programs without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

from ruvllm.errors import RuvllmError
from ruvllm.schemas.memory import PutDocument, RemoveDocument
from ruvllm.schemas.request import Response
from ruvllm.streams.client import Client
from ruvllm.streams.settings import Settings

T = TypeVar("T")


class SyncClient:
    """`Client` without await: its event loop runs in a thread of its own."""

    def __init__(
        self, bootstrap_servers: str | None = None, *, tenant: str = "default", settings: Settings | None = None
    ) -> None:
        self._client = Client(bootstrap_servers, tenant=tenant, settings=settings)
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> SyncClient:
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="ruvllm-client", daemon=True)
        self._thread.start()
        try:
            self._run(self._client.start())
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._run(self._client.close())
        finally:
            self._leave()

    def ask(self, prompt: str | None = None, **keywords: Any) -> Response:
        """As `Client.ask`."""
        return self._run(self._client.ask(prompt, **keywords))

    def submit(self, prompt: str | None = None, **keywords: Any) -> str:
        """As `Client.submit`."""
        return self._run(self._client.submit(prompt, **keywords))

    def response(self, request_id: str, **keywords: Any) -> Response:
        """As `Client.response`."""
        return self._run(self._client.response(request_id, **keywords))

    def responses(self) -> Iterator[Response]:
        """As `Client.responses`."""
        arriving = self._client.responses()
        try:
            while (response := self._run(_next(arriving))) is not None:
                yield response
        finally:
            if self._loop is not None:
                self._run(arriving.aclose())

    def feedback(self, answer: Response | str, **keywords: Any) -> str:
        """As `Client.feedback`."""
        return self._run(self._client.feedback(answer, **keywords))

    def documents(self, commands: Iterable[PutDocument | RemoveDocument], **keywords: Any) -> None:
        """As `Client.documents`."""
        self._run(self._client.documents(commands, **keywords))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it in the loop's thread; whoever interrupts the wait for it, by Ctrl-C, also cancels it."""
        if self._loop is None:
            work.close()
            raise RuvllmError("the client is not started", hint="Use `with SyncClient() as client:`.")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _leave(self) -> None:
        """Let what was cancelled come to its end, then stop the loop and its thread."""
        self._run(_end_others())
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = None


async def _next(arriving: AsyncGenerator[Response, None]) -> Response | None:
    return await anext(arriving, None)


async def _end_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
