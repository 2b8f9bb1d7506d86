"""A small installation of its own for benches and faults: several workers of a kind, on one broker.

Its topics have a prefix of their own and its files a folder of their own, so it meets nothing else.
Every process started here is stopped here, and topics and folder are removed, unless something failed:
then they are the evidence, and it is said where they are.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ruvllm.errors import BrokerUnavailable, RuvllmError
from ruvllm.schemas.ids import new_id
from ruvllm.streams.fault_points import VARIABLE as FAULT
from ruvllm.streams.processes import Processes
from ruvllm.streams.proof.nursery import Forked
from ruvllm.streams.settings import Settings, load_settings
from ruvllm.streams.topics import admin
from ruvllm.streams.topology import Process

READY_LIMIT_S = 120.0


@dataclass
class Member:
    """A worker process that is to be alive."""

    process: Process
    name: str
    child: subprocess.Popen[bytes] | Forked
    fault: str | None = None

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def alive(self) -> bool:
        return self.child.poll() is None

    @property
    def frozen(self) -> bool:
        """Whether it is stopped by a signal (state T of /proc)."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except FileNotFoundError:
            return False


@dataclass
class Cluster:
    """Workers by name. Use as a context manager."""

    bootstrap: str
    flags: Mapping[str, str]
    members: dict[str, Member] = field(default_factory=dict)
    forks: bool = False
    """Whether workers are forked from one that has imported everything: many are started."""
    failed: bool = False
    """Whether its topics and folder are kept when it is closed."""

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ruvllm-cluster-"))
        self.environment: dict[str, str] = {}
        self.prefix = f"t{new_id().lower()[-10:]}"
        ports = {f"workers.{p}_port": "0" for p in ("answer", "pool", "learn")}
        own = {"home": str(self.folder), "kafka.prefix": self.prefix}
        self.all_flags = {**ports, **own, "kafka.bootstrap_servers": self.bootstrap, **self.flags}
        self.processes = Processes(self.settings, self.all_flags)

    @property
    def settings(self) -> Settings:
        return load_settings(self.all_flags)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception):  # Ctrl-C is none
            self.failed = True
            error.add_note(self.evidence)
        self.close()

    @property
    def evidence(self) -> str:
        """Where to look when something failed."""
        return f"The workers' logs are kept in {self.folder}, the topics under the prefix {self.prefix}."

    def spawn(self, process: Process, name: str, *, fault: str | None = None) -> Member:
        """Start a worker; `fault` arms a fault point in it. `environment` goes to each of them."""
        environment = {**self.environment, **({FAULT: fault} if fault else {})}
        child: subprocess.Popen[bytes] | Forked
        if self.forks:
            self.processes.ready_file(name).unlink(missing_ok=True)
            arguments = self.processes.worker_arguments(process, name)
            child = Forked(arguments, self.processes.log_file(name), environment)
        else:
            child = self.processes.spawn(process, name, environment=environment)
        member = self.members[name] = Member(process, name, child, fault)
        return member

    async def until_ready(self, *names: str, limit_s: float = READY_LIMIT_S) -> None:
        """Until workers are ready (all of them, if none is named). Raises RuvllmError with a log's end."""
        give_up_at = time.monotonic() + limit_s
        for name in names or tuple(self.members):
            while not (await asyncio.to_thread(self.processes.state, name)).ready:
                if not self.members[name].alive or time.monotonic() > give_up_at:
                    raise RuvllmError(f"worker {name} did not become ready:\n{self.processes.tail(name)}")
                await asyncio.sleep(0.1)

    def close(self) -> None:
        """Stop everything that was started here, and remove what it left unless something failed."""
        self.stop_workers()
        if not self.failed:
            with ThreadPoolExecutor(1) as apart:  # the caller may be on an event loop
                apart.submit(asyncio.run, remove_topics(self.bootstrap, self.prefix)).result()
            shutil.rmtree(self.folder)

    def stop_workers(self) -> None:
        """SIGTERM to all, and SIGKILL to those who have not ended in time."""
        living = [m for m in self.members.values() if m.alive]
        for member in living:
            os.kill(member.pid, signal.SIGCONT)
            os.kill(member.pid, signal.SIGTERM)
        give_up_at = time.monotonic() + 40
        for member in living:
            try:
                member.child.wait(max(0.1, give_up_at - time.monotonic()))
            except subprocess.TimeoutExpired:
                member.child.kill()
                member.child.wait()


async def remove_topics(bootstrap: str, prefix: str) -> None:
    """Delete every topic under a prefix, whoever made it. A broker that is away keeps them."""
    with suppress(BrokerUnavailable):
        async with admin(bootstrap) as client:
            topics = [name for name in await client.list_topics() if name.startswith(f"{prefix}.")]
            if topics:
                await client.delete_topics(topics)
