"""The schedule of faults at work: one lane a worker, side by side, and one for the broker.

A worker that dies is started again at once, armed if its lane's next fault is aimed: a fault point is then met
as soon as there is work. One that does not come to its point in time is killed where it is, and another one armed;
that kill counts as a random one.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ruvllm.streams.proof.cluster import Cluster, Member
from ruvllm.streams.proof.schedule import BROKER, DEADLY, Fault, Lanes
from ruvllm.streams.topology import Process

ARMED_LIMIT_S = 20.0
POLL_S = 0.05
DUTY_S = (0.1, 0.4)
"""Of a throttled worker: how long it runs and how long it stands, in turn."""
STORM_VISITS, VISIT_S = 3, 1.5
DISK = "size=16k"
SNAPSHOT_FAILED = "snapshot_failed"
"""What a worker's log says of a full disk."""
Say = Callable[[str], None]


class OwnBroker(Protocol):
    """A broker that the harness may end as it likes."""

    def restart(self) -> None: ...

    def kill(self) -> None: ...


@dataclass
class Chaos:
    """`done`: kind -> how often it has really happened; `missed`: what could not be done here, and why."""

    cluster: Cluster
    lanes: Lanes
    say: Say
    broker: OwnBroker | None = None
    limit_s: float = 600.0
    done: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.planned = Counter(fault.kind for lane in self.lanes.values() for fault in lane)
        self._carried_out = 0
        self._visitors = itertools.count(1)
        self._next: dict[str, str | None] = {}

    @property
    def kills(self) -> int:
        return sum(self.done[kind] for kind in DEADLY)

    def share(self) -> float:
        """How much of the schedule has been gone through, 0 to 1."""
        total = sum(self.planned.values())
        return self._carried_out / total if total else 1.0

    def spawn(self, process: Process, name: str) -> None:
        """Start a worker, armed if its first fault is."""
        lane = self.lanes.get(name, ())
        self.cluster.spawn(process, name, fault=lane[0].armed if lane else None)

    async def run(self) -> None:
        """Go through all lanes."""
        async with asyncio.TaskGroup() as group:
            for name, lane in self.lanes.items():
                group.create_task(self._broker_lane(lane) if name == BROKER else self._worker_lane(name, lane))
        self.missed += [_ended(m) for m in self.cluster.members.values() if not m.alive]

    # --- the broker -------------------------------------------------------------------------------

    async def _broker_lane(self, lane: tuple[Fault, ...]) -> None:
        assert self.broker is not None
        for fault in lane:
            await asyncio.sleep(fault.after_s)
            await asyncio.to_thread(self.broker.kill if fault.kind == "broker-kill" else self.broker.restart)
            self._happened(fault, "the broker")

    # --- a worker ---------------------------------------------------------------------------------

    async def _worker_lane(self, name: str, lane: tuple[Fault, ...]) -> None:
        for number, fault in enumerate(lane):
            self._next[name] = lane[number + 1].armed if number + 1 < len(lane) else None
            member = self.cluster.members[name]
            if not member.alive and not member.fault:  # of itself: it is to be found in its log
                self.missed.append(_ended(member))
                self.cluster.failed = True
                member = self._again(member, fault.armed)
            await (self._aimed(member, fault) if fault.armed else self._at_random(member, fault))

    async def _aimed(self, member: Member, fault: Fault) -> None:
        """Have it die or freeze at its point."""
        give_up_at = time.monotonic() + self.limit_s
        while time.monotonic() < give_up_at:
            if member.fault != fault.armed or not await self._fired(member):
                self._end(member, signal.SIGKILL)
                self.done["kill"] += 1
                member = self._again(member, fault.armed)
                continue
            if fault.kind == "zombie":
                await asyncio.sleep(fault.lasts_s)
                self._signal(member, signal.SIGCONT)
                member.fault = None
            else:
                self._next_of(member)
            self._happened(fault, f"{member.name}, at `{fault.point}`")
            return
        self.missed.append(f"{member.name} did not come to `{fault.point}` within {self.limit_s:.0f} s")
        self._carried_out += 1

    async def _fired(self, member: Member) -> bool:
        """Whether it has met its fault in time."""
        give_up_at = time.monotonic() + ARMED_LIMIT_S
        while member.alive and not member.frozen:
            if time.monotonic() > give_up_at:
                return False
            await asyncio.sleep(POLL_S)
        return member.frozen or member.child.returncode == -signal.SIGKILL

    async def _at_random(self, member: Member, fault: Fault) -> None:
        await asyncio.sleep(fault.after_s)
        match fault.kind:
            case "kill":
                self._end(member, signal.SIGKILL)
                self._next_of(member)
            case "terminate":
                await asyncio.to_thread(self._end, member, signal.SIGTERM)
                self._next_of(member)
            case "pause" | "freeze":
                await self._stop_for(member, fault.lasts_s)
            case "throttle":
                await self._throttle(member, fault.lasts_s)
            case "storm":
                await self._storm(member.process)
            case "disk-full":
                if not await self._without_disk(member, fault.lasts_s):
                    return
        self._happened(fault, member.name)

    async def _stop_for(self, member: Member, seconds: float) -> None:
        self._signal(member, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self._signal(member, signal.SIGCONT)

    async def _throttle(self, member: Member, seconds: float) -> None:
        """A slow consumer: it stands four fifths of the time."""
        runs_s, stands_s = DUTY_S
        until = time.monotonic() + seconds
        while time.monotonic() < until and member.alive:
            await self._stop_for(member, stands_s)
            await asyncio.sleep(runs_s)

    async def _storm(self, process: Process) -> None:
        """Another worker of the kind comes and goes, so that partitions move over and over."""
        name = f"{process}-visitor-{next(self._visitors)}"
        for _ in range(STORM_VISITS):
            visitor = self.cluster.spawn(process, name)
            await self._ready(visitor)
            await asyncio.sleep(VISIT_S)
            await asyncio.to_thread(self._end, visitor, signal.SIGTERM)
        del self.cluster.members[name]

    async def _without_disk(self, member: Member, seconds: float) -> bool:
        """Its state folder lies on a disk that is full. False where nobody may mount one."""
        folder = self.cluster.settings.snapshots_folder(member.name)
        await asyncio.to_thread(self._end, member, signal.SIGTERM)
        mounted = _mount(folder)
        member = self._again(member)
        if not mounted:
            self.missed.append("disk-full needs the right to mount a file system: skipped")
            self.planned["disk-full"] -= 1
            return False
        await self._ready(member)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._end, member, signal.SIGTERM)  # it wants to keep a snapshot then, too
        if SNAPSHOT_FAILED not in self.cluster.processes.log_file(member.name).read_text("utf-8"):
            self.missed.append(f"{member.name} noticed nothing of its full disk")
        await asyncio.to_thread(_unmount, folder)
        self._next_of(member)
        return True

    # --- signals ----------------------------------------------------------------------------------

    def _next_of(self, member: Member) -> Member:
        """Its successor, armed if the lane's next fault is."""
        return self._again(member, self._next[member.name])

    def _again(self, member: Member, armed: str | None = None) -> Member:
        return self.cluster.spawn(member.process, member.name, fault=armed)

    async def _ready(self, member: Member) -> None:
        """Until it works, or has had time enough to."""
        give_up_at = time.monotonic() + ARMED_LIMIT_S
        while member.alive and time.monotonic() < give_up_at:
            if (await asyncio.to_thread(self.cluster.processes.state, member.name)).ready:
                return
            await asyncio.sleep(4 * POLL_S)

    def _signal(self, member: Member, number: signal.Signals) -> None:
        if member.alive:
            os.kill(member.pid, number)

    def _end(self, member: Member, number: signal.Signals) -> None:
        """Returns when it has ended, by force if it does not in time."""
        self._signal(member, number)
        try:
            member.child.wait(self.cluster.settings.workers.drain_s * 4)
        except subprocess.TimeoutExpired:
            self.missed.append(f"{member.name} did not end on {number.name}")
            member.child.kill()
            member.child.wait()

    def _happened(self, fault: Fault, where: str) -> None:
        self.done[fault.kind] += 1
        self._carried_out += 1
        self.say(f"{fault.kind}: {where}")


def _ended(member: Member) -> str:
    return f"{member.name} ended by itself, with status {member.child.returncode}"


def _mount(folder: Path) -> bool:
    """A disk of a few blocks in the place of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)
