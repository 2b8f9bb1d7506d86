"""`ruvllm faults`: kill and freeze workers by a seed while requests come in, then count.

Random SIGKILLs alone prove little: what matters is the two milliseconds between a transaction's last
send and its commit. So some workers are armed (`fault_points`) to die there, and some to freeze there
until their partitions have moved, and to wake up as zombies. What is counted afterwards is in `aftermath`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruvllm.schemas.event import session_key
from ruvllm.schemas.memory import PutDocument
from ruvllm.streams.client import Client
from ruvllm.streams.ingest import documents_in
from ruvllm.streams.log_reader import read_to_end
from ruvllm.streams.proof.aftermath import amiss, count_effects, outcomes_carried_out
from ruvllm.streams.proof.cluster import Cluster, Member
from ruvllm.streams.proof.report import report
from ruvllm.streams.topology import Names, Process, partition_of
from ruvllm.streams.wiring import names_of

SESSION_TIMEOUT_S = 6.0
FROZEN_S = SESSION_TIMEOUT_S + 4.0
KINDS: tuple[Process, ...] = ("answer", "pool", "learn")
OWNERS: tuple[Process, ...] = ("answer", "learn")
"""Those whose stages own partitions: desk; judge, reinforce and documents."""
FLAGS = {
    "profile": "tiny",
    "generation.backend": "echo",
    "generation.echo_delay_s": "0.02",
    "retrieval.embedder": "hashing",
    "kafka.partitions": "8",
    "kafka.session_timeout_s": str(SESSION_TIMEOUT_S),
    "kafka.heartbeat_s": "1.0",
    "kafka.commit_interval_s": "0.5",
    "limits.default_deadline_s": "600",
    "limits.waiting_turns": "1000",
    "workers.drain_s": "10",
}
RATED_EVERY = 3
LONGEST_GAP_S = 3.0
"""Between two requests while the schedule lags behind: what is armed fires only under load."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much of what. `aimed` die between send and commit, `zombies` freeze there.

    `limit_s` is for the load, and again for its answers; more requests than planned are sent while the
    schedule is not carried out.
    """

    requests: int = 200
    sessions: int = 8
    workers: int = 2
    kills: int = 12
    aimed: int = 8
    zombies: int = 3
    seed: int = 1
    limit_s: float = 600.0

    @property
    def faults(self) -> dict[str, int]:
        return {"kills": self.kills, "aimed": self.aimed, "zombies": self.zombies}


@dataclass
class Chaos:
    """The seeded schedule at work on a cluster."""

    cluster: Cluster
    plan: Plan
    draws: random.Random
    say: Say
    specs: list[tuple[Process, str]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    over: bool = False

    def __post_init__(self) -> None:
        names = ["KILL"] * self.plan.aimed + ["STOP"] * self.plan.zombies
        self.draws.shuffle(names)
        owners = itertools.cycle(OWNERS)
        self.specs = [(next(owners), f"sent:{self.draws.randint(1, 3)}:{name}") for name in names]

    @property
    def share(self) -> float:
        """How much of the schedule is done, 0 to 1."""
        total = sum(self.plan.faults.values())
        return sum(self.done.values()) / total if total else 1.0

    def spawn(self, process: Process, name: str) -> None:
        """Start a worker; those with owners take turns in being armed."""
        armed = self.specs and self.specs[0][0] == process and not self._someone_armed()
        self.cluster.spawn(process, name, fault=self.specs.pop(0)[1] if armed else None)

    def _someone_armed(self) -> bool:
        return any(m.fault and m.alive for m in self.cluster.members.values())

    async def watch(self) -> None:
        """Start again what has died, thaw what has frozen, arm who is left, until all is over."""
        while not self.over:
            for member in list(self.cluster.members.values()):
                if not member.alive:
                    self._count_death(member)
                    self.spawn(member.process, member.name)
                elif member.fault and member.frozen:
                    await self._thaw_later(member)
            if self.specs and not self._someone_armed():
                await self._replace_one()
            await asyncio.sleep(0.1)

    def _count_death(self, member: Member) -> None:
        if member.fault and member.fault.endswith("KILL") and member.child.returncode == -signal.SIGKILL:
            self.done["aimed"] += 1
            self.say(f"{member.name} died between send and commit")

    async def _thaw_later(self, member: Member) -> None:
        self.say(f"{member.name} froze between send and commit; it wakes in {FROZEN_S:.0f} s")
        await asyncio.sleep(FROZEN_S)
        os.kill(member.pid, signal.SIGCONT)
        member.fault = None
        self.done["zombies"] += 1

    async def _replace_one(self) -> None:
        """Nobody is armed any more: one worker of the next kind ends in order, and comes back armed."""
        wanted = self.specs[0][0]
        member = next((m for m in self.cluster.members.values() if m.process == wanted and m.alive), None)
        if member is not None:
            os.kill(member.pid, signal.SIGTERM)
            await asyncio.to_thread(member.child.wait)

    async def kill_at_random(self) -> None:
        """The unaimed kills, some seconds apart."""
        for _ in range(self.plan.kills):
            await asyncio.sleep(self.draws.uniform(1.0, 6.0))
            while not (victims := [m for m in self.cluster.members.values() if m.alive and not m.fault]):
                await asyncio.sleep(0.1)  # who is armed has a fault of its own to come
            victim = self.draws.choice(sorted(victims, key=lambda m: m.name))
            os.kill(victim.pid, signal.SIGKILL)
            self.done["kills"] += 1
            self.say(f"{victim.name} killed")


def sessions_apart(count: int, partitions: int) -> list[str]:
    """Session names on as many partitions as there are, in turn."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < min(count, partitions):
        name = f"session-{number}"
        found.setdefault(partition_of(session_key("default", name), partitions), name)
        number += 1
    return list(found.values()) + [f"extra-{n}" for n in range(count - len(found))]


async def run_faults(bootstrap: str, corpus: Path, plan: Plan, say: Say = lambda _: None) -> dict[str, Any]:
    """One run: load and chaos together, then the count. Returns the report."""
    draws = random.Random(plan.seed)
    documents = documents_in([corpus])
    with Cluster(bootstrap, FLAGS) as cluster:
        chaos = Chaos(cluster, plan, draws, say)
        for kind in KINDS:
            for number in range(plan.workers):
                chaos.spawn(kind, f"{kind}-{number + 1}")
        await cluster.until_ready()
        say(f"{len(cluster.members)} workers are ready, prefix {cluster.settings.kafka.prefix}")
        started = time.monotonic()
        watcher = asyncio.create_task(chaos.watch())
        killer = asyncio.create_task(chaos.kill_at_random())
        async with Client(bootstrap, settings=cluster.settings) as client:
            submitted = await _load(client, chaos, documents, sessions_apart(plan.sessions, 8))
            killer.cancel()
            with suppress(asyncio.CancelledError):
                await killer
            unanswered = await _await_all(client, submitted, plan.limit_s)
        chaos.over = True
        await watcher
        say(f"{len(submitted) - unanswered} of {len(submitted)} answered after {time.monotonic() - started:.0f} s")
        await cluster.until_ready()
        await _settled(bootstrap, names_of(cluster.settings), documents, plan.limit_s)
        results: dict[str, Any] = {"planned": plan.faults, "done": {name: chaos.done[name] for name in plan.faults}}
        results |= await count_effects(bootstrap, cluster, submitted, documents)
        results["findings"] += amiss(results)
        if results["findings"]:
            cluster.failed = True
            say(cluster.evidence)
    return report(
        "ruvllm faults",
        seed=plan.seed,
        sizes={"sessions": plan.sessions, "workers": plan.workers, "documents": len(documents)},
        results={
            "kills": chaos.done["kills"] + chaos.done["aimed"],
            "requests": len(submitted),
            **results,
            "seconds": round(time.monotonic() - started, 1),
        },
    )


async def _load(
    client: Client, chaos: Chaos, documents: list[PutDocument], sessions: list[str]
) -> list[tuple[str, str]]:
    """Submit requests and documents in step with the chaos; (session, request id) in order of submission."""
    submitted: list[tuple[str, str]] = []
    waiting_documents = list(documents)
    give_up_at = time.monotonic() + chaos.plan.limit_s
    for number in itertools.count():
        if number >= chaos.plan.requests and (chaos.share >= 1.0 or time.monotonic() > give_up_at):
            break
        slack_until = time.monotonic() + LONGEST_GAP_S
        while number / chaos.plan.requests > chaos.share + 0.02 and time.monotonic() < slack_until:
            await asyncio.sleep(0.05)
        session = chaos.draws.choice(sessions)
        request_id = f"r{number:05d}"
        await client.submit(f"question {number} of {session}", session=session, request_id=request_id, grounding="open")
        submitted.append((session, request_id))
        if number % RATED_EVERY == 0:  # perhaps before it is answered
            await client.feedback(request_id, session=session, rating=chaos.draws.randint(1, 5))
        if waiting_documents and number % max(1, chaos.plan.requests // len(documents)) == 0:
            await client.documents([waiting_documents.pop()])
    await client.documents(waiting_documents)
    return submitted


async def _await_all(client: Client, submitted: list[tuple[str, str]], limit_s: float) -> int:
    """How many have no response within the limit."""

    async def one(session: str, request_id: str) -> bool:
        try:
            await client.response(request_id, session=session, timeout_s=max(1.0, limit_s))
        except Exception:
            return True
        return False

    return sum(await asyncio.gather(*(one(s, r) for s, r in submitted)))


async def _settled(bootstrap: str, names: Names, documents: list[PutDocument], limit_s: float) -> None:
    """Until each document was processed once at least, and what was judged of each answer was carried out."""
    wanted = {d.document_id for d in documents}
    give_up_at = time.monotonic() + limit_s
    while time.monotonic() < give_up_at:
        done = [r async for r in read_to_end(bootstrap, names.topic("document.state"))]
        processed = wanted <= {(r.key or b"").decode().split("\x1f")[1] for r in done}
        if processed and await outcomes_carried_out(bootstrap, names):
            return
        await asyncio.sleep(0.5)
