"""`ruvllm faults`: kill and freeze workers by a seed while requests come in, then count.

Random SIGKILLs alone prove little: what matters is the two milliseconds between a transaction's last
send and its commit. So some workers are armed (`fault_points`) to die there, and some to freeze there
until their partitions have moved, and to wake up as zombies. What is counted is what a read-committed
consumer finds in the log afterwards.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruvllm.agents.memory_fold import CHANGES, fold
from ruvllm.schemas.event import session_key
from ruvllm.schemas.flow import Interaction
from ruvllm.schemas.memory import MemoryChange, NodeAdded, PutDocument
from ruvllm.schemas.request import Response
from ruvllm.streams.client import Client
from ruvllm.streams.clock import SystemClock
from ruvllm.streams.guard import read
from ruvllm.streams.ingest import documents_in
from ruvllm.streams.log_reader import read_to_end
from ruvllm.streams.proof.cluster import Cluster, Member
from ruvllm.streams.proof.report import report
from ruvllm.streams.serial import SerialSystem
from ruvllm.streams.topology import Names, Process, partition_of
from ruvllm.streams.wiring import Wiring, names_of

SESSION_TIMEOUT_S = 6.0
FROZEN_S = SESSION_TIMEOUT_S + 4.0
KINDS: tuple[Process, ...] = ("answer", "pool", "learn")
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
LONGEST_GAP_S = 3.0
"""Between two requests while the schedule lags behind: what is armed fires only under load."""
LAST_REQUESTS = 5
LAST_CHANCE_S = 20.0
"""The last requests wait longer, so that whoever is armed last still meets some load."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much of what. `aimed` die between send and commit, `zombies` freeze there."""

    requests: int = 200
    sessions: int = 8
    workers: int = 2
    kills: int = 12
    aimed: int = 8
    zombies: int = 3
    seed: int = 1
    limit_s: float = 600.0


@dataclass
class Chaos:
    """The seeded schedule at work on a cluster."""

    cluster: Cluster
    plan: Plan
    draws: random.Random
    say: Say
    specs: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    over: bool = False

    def __post_init__(self) -> None:
        names = ["KILL"] * self.plan.aimed + ["STOP"] * self.plan.zombies
        self.draws.shuffle(names)
        self.specs = [f"sent:{self.draws.randint(1, 3)}:{name}" for name in names]

    @property
    def share(self) -> float:
        """How much of the schedule is done, 0 to 1."""
        total = self.plan.kills + self.plan.aimed + self.plan.zombies
        return sum(self.done.values()) / total if total else 1.0

    def spawn(self, process: Process, name: str) -> None:
        """Start a worker; the answer workers take turns in being armed."""
        armed = process == "answer" and self.specs and not self._someone_armed()
        self.cluster.spawn(process, name, fault=self.specs.pop(0) if armed else None)

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
        if member.fault and member.fault.endswith("KILL"):
            self.done["aimed"] += 1
            self.say(f"{member.name} died between send and commit")

    async def _thaw_later(self, member: Member) -> None:
        self.say(f"{member.name} froze between send and commit; it wakes in {FROZEN_S:.0f} s")
        await asyncio.sleep(FROZEN_S)
        os.kill(member.pid, signal.SIGCONT)
        member.fault = None
        self.done["zombies"] += 1

    async def _replace_one(self) -> None:
        """Nobody is armed any more: one answer worker ends in order, and comes back armed."""
        member = next((m for m in self.cluster.members.values() if m.process == "answer" and m.alive), None)
        if member is not None:
            os.kill(member.pid, signal.SIGTERM)
            await asyncio.to_thread(member.child.wait)

    async def kill_at_random(self) -> None:
        """The unaimed kills, some seconds apart."""
        for _ in range(self.plan.kills):
            await asyncio.sleep(self.draws.uniform(1.0, 6.0))
            victims = [m for m in self.cluster.members.values() if m.alive and not m.fault]
            if not victims:
                victims = [m for m in self.cluster.members.values() if m.alive]
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
            await killer
            last_chance = time.monotonic() + LAST_CHANCE_S
            while chaos.share < 1.0 and time.monotonic() < last_chance:
                await asyncio.sleep(0.2)
            unanswered = await _await_all(client, submitted, plan.limit_s - (time.monotonic() - started))
        chaos.over = True
        await watcher
        say(f"{len(submitted) - unanswered} of {len(submitted)} answered after {time.monotonic() - started:.0f} s")
        await cluster.until_ready()
        await _settled(bootstrap, names_of(cluster.settings), documents, plan.limit_s)
        results = await _count(bootstrap, cluster, submitted, documents)
    facts = {"aimed": chaos.done["aimed"], "zombies": chaos.done["zombies"], "unaimed": chaos.done["kills"]}
    return report(
        "ruvllm faults",
        seed=plan.seed,
        sizes={"sessions": plan.sessions, "workers": plan.workers, "documents": len(documents), **facts},
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
    for number in range(chaos.plan.requests):
        last = number >= chaos.plan.requests - LAST_REQUESTS
        slack_until = time.monotonic() + (LAST_CHANCE_S if last else LONGEST_GAP_S)
        while number / chaos.plan.requests > chaos.share + 0.02 and time.monotonic() < slack_until:
            await asyncio.sleep(0.05)
        session = chaos.draws.choice(sessions)
        request_id = f"r{number:05d}"
        await client.submit(f"question {number} of {session}", session=session, request_id=request_id, grounding="open")
        submitted.append((session, request_id))
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
    """Until each document was processed once at least."""
    wanted = {d.document_id for d in documents}
    give_up_at = time.monotonic() + limit_s
    while time.monotonic() < give_up_at:
        done = [r async for r in read_to_end(bootstrap, names.topic("document.state"))]
        if wanted <= {(r.key or b"").decode().split("\x1f")[1] for r in done}:
            return
        await asyncio.sleep(0.5)


async def _count(
    bootstrap: str, cluster: Cluster, submitted: list[tuple[str, str]], documents: list[PutDocument]
) -> dict[str, Any]:
    """What a read-committed consumer finds, against what was submitted."""
    wiring = Wiring(cluster.settings, SystemClock())
    names = wiring.names
    findings: list[str] = []
    answers: dict[str, list[str]] = defaultdict(list)  # session -> ids in order of response
    errors: Counter[str] = Counter()
    async for record in read_to_end(bootstrap, names.topic("response.completed")):
        response = read(record, (Response,))
        assert isinstance(response, Response)
        answers[response.session].append(response.request_id)
        if response.error is not None:
            errors[response.error.code] += 1
    counted = Counter(r for ids in answers.values() for r in ids)
    ids = [r for _, r in submitted]
    lost = [r for r in ids if counted[r] == 0]
    twice = [r for r in ids if counted[r] > 1]
    inversions = 0
    for session, answered in answers.items():
        order = [r for s, r in submitted if s == session]
        inversions += list(dict.fromkeys(answered)) != [r for r in order if r in set(answered)]
    interactions: Counter[str] = Counter()
    async for record in read_to_end(bootstrap, names.topic("interaction.recorded")):
        interaction = read(record, (Interaction,))
        assert isinstance(interaction, Interaction)
        interactions[interaction.request_id] += 1
    nodes_wrong, fold_equal = await _memory_equal(bootstrap, cluster, names, wiring, documents)
    findings += [f"request {r} has no response" for r in lost[:5]]
    findings += [f"request {r} has {counted[r]} responses" for r in twice[:5]]
    findings += [f"{inversions} sessions were answered out of order"] if inversions else []
    findings += [f"errors: {dict(errors)}"] if errors else []
    findings += [] if fold_equal else ["memory differs from the serial fold"]
    return {
        "lost": len(lost),
        "answered_twice": len(twice),
        "effects_lost": sum(interactions[r] == 0 for r in ids) + nodes_wrong["lost"],
        "effects_doubled": sum(interactions[r] > 1 for r in ids) + nodes_wrong["doubled"],
        "order_inversions": inversions,
        "errors": sum(errors.values()),
        "fold_equal": fold_equal,
        "findings": findings,
    }


async def _memory_equal(
    bootstrap: str, cluster: Cluster, names: Names, wiring: Wiring, documents: list[PutDocument]
) -> tuple[Counter[str], bool]:
    """The memory that the run left: folded in two interleavings, and beside an undisturbed serial run."""
    by_partition: dict[int, list[MemoryChange]] = defaultdict(list)
    async for record in read_to_end(bootstrap, names.topic("memory.changed")):
        change = read(record, CHANGES)
        assert isinstance(change, MemoryChange)
        by_partition[record.partition or 0].append(change)
    forwards, backwards = wiring.new_memory(), wiring.new_memory()
    for memory, order in ((forwards, sorted(by_partition)), (backwards, sorted(by_partition, reverse=True))):
        for partition in order:
            for change in by_partition[partition]:
                fold(memory, change)
    added = Counter(c.node_id for cs in by_partition.values() for c in cs if isinstance(c, NodeAdded))
    async with SerialSystem(cluster.settings) as serial:
        await serial.send(*documents)
        await serial.run()
        wanted = {c.node_id for c in serial.events("memory.changed") if isinstance(c, NodeAdded)}
        same = serial.memory.stats() == forwards.stats()
    wrong = Counter(lost=len(wanted - added.keys()), doubled=sum(n > 1 for n in added.values()))
    return wrong, same and wanted == added.keys() and forwards.digest() == backwards.digest()
