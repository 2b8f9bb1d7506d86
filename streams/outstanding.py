"""The responses that a client waits for: each is handed out once, and every wait ends.

What was submitted is outstanding until its response comes or its time is over, whether or not anybody
waits for it; of what has come and nobody takes, the last `MOST_KEPT` are kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from ruvllm.errors import DeadlineExceeded, RuvllmError
from ruvllm.schemas.request import Response

MOST_KEPT = 10_000

Submission = tuple[str, str]
"""Session and request id."""


class Outstanding:
    """What one client has submitted and has not been handed, by submission."""

    def __init__(self) -> None:
        self._futures: dict[Submission, asyncio.Future[Response]] = {}
        self._ended: deque[Submission] = deque()

    def __len__(self) -> int:
        return len(self._futures)

    def expect(self, key: Submission, limit_s: float) -> bool:
        """A response will come within this time. False if one is expected already: it serves both."""
        if self.expects(key):
            return False
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Response] = loop.create_future()
        timer = loop.call_later(limit_s, self.settle, key, _no_response(key, limit_s))

        def ended(_: object) -> None:
            timer.cancel()
            self._ended.append(key)
            if len(self._ended) > MOST_KEPT and not self.expects(oldest := self._ended.popleft()):
                self._futures.pop(oldest, None)

        future.add_done_callback(ended)
        self._futures[key] = future
        return True

    def expects(self, key: Submission) -> bool:
        """Whether a response to this submission is still to come."""
        future = self._futures.get(key)
        return future is not None and not future.done()

    def settle(self, key: Submission, outcome: Response | RuvllmError) -> None:
        """It has come, or what stands for it."""
        if not self.expects(key):
            return
        if isinstance(outcome, Response):
            self._futures[key].set_result(outcome)
        else:
            self._futures[key].set_exception(outcome)
            self._futures[key].exception()  # looked at: perhaps nobody ever takes it

    def forget(self, key: Submission) -> None:
        """Nobody is to wait for it any longer."""
        if (future := self._futures.pop(key, None)) is not None:
            future.cancel()

    def forget_all(self) -> None:
        for key in list(self._futures):
            self.forget(key)

    async def take(self, key: Submission, timeout_s: float | None) -> Response:
        """The response to one submission. After `timeout_s` it is outstanding still; after its own time it is not."""
        future = self._futures.get(key)
        if future is None:
            raise RuvllmError(
                f"this client has not submitted {key[1]!r} in that session, or its response was handed out",
                hint="Submit it again under the same id: an answered id is answered from the store.",
            )
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(future)
        except TimeoutError as error:
            raise _no_response(key, timeout_s or 0.0) from error
        finally:
            if future.done():
                self._futures.pop(key, None)

    async def each(self) -> AsyncGenerator[Response, None]:
        """The responses as they come, until none is outstanding; the error of one that did not come is raised."""
        while self._futures:
            await asyncio.wait(self._futures.values(), return_when=asyncio.FIRST_COMPLETED)
            for key in [key for key, future in self._futures.items() if future.done()]:
                if (future := self._futures.pop(key, None)) is not None:
                    yield future.result()


def _no_response(key: Submission, waited_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"no response to {key[1]} within {waited_s:.0f} s",
        hint="Is the service up? `ruvllm status`. The response will stand in its topic when it comes.",
    )
