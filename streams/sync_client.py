"""The client for programs without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from ruvllm.errors import RuvllmError
from ruvllm.schemas.request import Response
from ruvllm.streams.client import Client
from ruvllm.streams.settings import Settings

T = TypeVar("T")


class SyncClient:
    """`Client` without await: its event loop runs in a thread of its own."""

    def __init__(
        self, bootstrap_servers: str | None = None, *, tenant: str = "default", settings: Settings | None = None
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ruvllm-client", daemon=True)
        self._new = Client(bootstrap_servers, tenant=tenant, settings=settings)
        self._client: Client | None = None

    def __enter__(self) -> SyncClient:
        self._thread.start()
        try:
            self._run(self._new.start())
            self._client = self._new
        except BaseException:
            self._stop_loop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._run(self._client.close())
        self._stop_loop()

    def ask(self, prompt: str | None = None, **keywords: Any) -> Response:
        """As `Client.ask`."""
        return self._run(self._opened().ask(prompt, **keywords))

    def submit(self, prompt: str | None = None, **keywords: Any) -> str:
        """As `Client.submit`."""
        return self._run(self._opened().submit(prompt, **keywords))

    def response(self, request_id: str, **keywords: Any) -> Response:
        """As `Client.response`."""
        return self._run(self._opened().response(request_id, **keywords))

    def feedback(self, answer: Response | str, **keywords: Any) -> str:
        """As `Client.feedback`."""
        return self._run(self._opened().feedback(answer, **keywords))

    def _opened(self) -> Client:
        if self._client is None:
            raise RuvllmError("the client is not started", hint="Use `with SyncClient() as client:`.")
        return self._client

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
