"""Owns the child process of one model: starts it when needed, gives it one job at a time, buries it.

Whatever becomes of the child (a signal, an abort, silence past the time budget) is an error of that
one job; the next job gets a new child. Time is the event loop's: it measures waiting, it decides
nothing that is learnt.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ruvllm.errors import DeadlineExceeded, ModelCrashed
from ruvllm.models.pool.job import Choice, Completion, Job
from ruvllm.models.pool.wire import MAX_LINE_BYTES, job_line, read_answer, read_ready

STDERR_LINES: Final = 8
DYING_S: Final = 2.0  # writing a core dump takes a moment


class ModelProcess:
    """A Generator (job.py) whose model runs in a child process.

    `environment` is the child's whole environment but for OMP_WAIT_POLICY: spinning OpenMP threads
    of several models would eat each other's cores. `grace_s`: how long a child may overrun a job's
    time budget before it is taken for hung.
    """

    def __init__(
        self,
        *,
        model: str,
        path: Path,
        sha256: str,
        environment: Mapping[str, str],
        threads: int = 1,
        ready_timeout_s: float = 120.0,
        grace_s: float = 10.0,
        debug: bool = False,
    ) -> None:
        self.model = model
        self._environment = {**environment, "OMP_WAIT_POLICY": "passive"}
        self._arguments = ["--model", str(path), "--name", model, "--sha256", sha256]
        self._arguments += ["--threads", str(threads)]
        self._arguments += ["--debug"] if debug else []
        self._ready_timeout_s, self._grace_s = ready_timeout_s, grace_s
        self._turn = asyncio.Lock()
        self._child: _Child | None = None
        self._starting: asyncio.Task[_Child] | None = None
        self._jobs = 0
        self.busy = False

    @property
    def pid(self) -> int | None:
        """Process id of the living child."""
        return self._child.pid if self._child else None

    async def start(self) -> dict[str, Any]:
        """Load the model now, not at the first job; facts about the loaded file (ModelFacts)."""
        async with self._turn:
            return (await self._living_child()).facts

    async def generate(self, job: Job) -> Completion:
        """Run one job after those before it. The errors are those of the port (job.py).

        A cancelled job takes its child with it: nothing else would stop the computation.
        """
        completion = await self._in_turn(job)
        assert isinstance(completion, Completion)
        return completion

    async def log_odds(self, choice: Choice) -> float:
        """Weigh one choice after the jobs before it, as `generate` runs a job."""
        log_odds = await self._in_turn(choice)
        assert isinstance(log_odds, float)
        return log_odds

    async def _in_turn(self, job: Job | Choice) -> Completion | float:
        """Wait for the model, have a living child, run."""
        deadline = asyncio.get_running_loop().time() + job.time_budget_s
        try:
            async with asyncio.timeout_at(deadline):
                await self._turn.acquire()
        except TimeoutError:
            raise self._no_time_left(job, "was busy") from None
        try:
            try:
                async with asyncio.timeout_at(deadline):
                    child = await self._living_child()
            except TimeoutError:
                raise self._no_time_left(job, "was being loaded") from None
            left = max(0.0, deadline - asyncio.get_running_loop().time())
            return await self._run(child, dataclasses.replace(job, time_budget_s=left))
        finally:
            self._turn.release()

    async def close(self) -> None:
        """End the child: its input is closed, and after `grace_s` it is killed."""
        async with self._turn:
            if self._starting is not None:
                self._starting.cancel()
                await asyncio.wait([self._starting])
                self._starting = None
            child, self._child = self._child, None
            if child is not None:
                await child.end(self._grace_s)

    async def _living_child(self) -> _Child:
        """The child, ready. A load goes on when the job that began it gives up: the next one has it."""
        if self._child is None:
            if self._starting is None:
                self._starting = asyncio.create_task(self._start_child())
            try:
                self._child = await asyncio.shield(self._starting)
            finally:
                if self._starting.done():
                    self._starting = None
        return self._child

    def _no_time_left(self, job: Job | Choice, why: str) -> DeadlineExceeded:
        return DeadlineExceeded(f"model {self.model} {why} for all of the job's {job.time_budget_s:.1f} s")

    async def _start_child(self) -> _Child:
        child = await _Child.start(self._arguments, self._environment)
        try:
            async with asyncio.timeout(self._ready_timeout_s):
                child.facts = read_ready(await child.read_line())
        except TimeoutError:
            raise ModelCrashed(
                f"model {self.model} was not loaded in {self._ready_timeout_s:.0f} s{await child.bury()}"
            ) from None
        except (EOFError, ValueError, KeyError) as error:
            raise ModelCrashed(f"model {self.model} died while loading{await child.bury()}") from error
        except BaseException:
            await child.bury()
            raise
        return child

    async def _run(self, child: _Child, job: Job | Choice) -> Completion | float:
        self._jobs += 1
        self.busy = True
        try:
            async with asyncio.timeout(job.time_budget_s + self._grace_s):
                await child.write(job_line(self._jobs, job))
                line = await child.read_line()
        except TimeoutError:
            self._child = None
            raise ModelCrashed(
                f"model {self.model} hung: no answer {self._grace_s:.0f} s after"
                f" the job's {job.time_budget_s:.1f} s{await child.bury()}"
            ) from None
        except (EOFError, ConnectionError, ValueError) as error:
            self._child = None
            raise ModelCrashed(f"model {self.model} died{await child.bury()}") from error
        except BaseException:  # cancelled: the child computes on for nobody
            self._child = None
            await child.bury()
            raise
        finally:
            self.busy = False
        return read_answer(line, self._jobs)


class _Child:
    """One running child: its pipes, its last words."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._last_words: deque[str] = deque(maxlen=STDERR_LINES)
        self._listening = asyncio.create_task(self._listen())
        self.facts: dict[str, Any] = {}

    @classmethod
    async def start(cls, arguments: list[str], environment: Mapping[str, str]) -> _Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ruvllm.models.pool.child",
            *arguments,
            "--parent",
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            limit=MAX_LINE_BYTES,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        await self._process.stdin.drain()

    async def read_line(self) -> bytes:
        """The next line. Raises EOFError when the child is gone, ValueError past MAX_LINE_BYTES."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return line

    async def bury(self) -> str:
        """Kill what is left of it; how it ended, as the tail of a sentence."""
        if self._process.returncode is None and self._gone_quiet():
            # It closed its pipe, so it is dying on its own: how it dies is worth a moment's wait.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DYING_S):
                    await self._process.wait()
        killed = self._process.returncode is None
        if killed:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        returncode = await self._process.wait()
        await self._listening
        how = ": it was killed" if killed else _how_it_ended(returncode)
        said = "; ".join(self._last_words)
        return f"{how}; it said: {said}" if said else how

    async def end(self, grace_s: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
                await self._listening
        except TimeoutError:
            await self.bury()

    def _gone_quiet(self) -> bool:
        return self._process.stdout is not None and self._process.stdout.at_eof()

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._last_words.append(line.decode("utf-8", errors="replace").strip())


def _how_it_ended(returncode: int) -> str:
    if returncode < 0:
        return f" by {signal.Signals(-returncode).name}"
    return f" with exit status {returncode}"
