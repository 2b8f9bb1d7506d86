"""The broker away for a minute under load: what is lost, and how soon the flow is back to normal.

Requests come at an even pace before, during and after; those of the outage wait at their sender, as a client's do.
The flow is back to normal when answers come at the usual pace again, counted from the moment at which the broker
answers. When the backlog is gone is another figure: it depends on how much faster than its load the service is.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruvllm.agents.outbox import Emit
from ruvllm.errors import MissingRequirement
from ruvllm.schemas.request import Ask, Constraints, Response
from ruvllm.streams.connection import connected
from ruvllm.streams.guard import read
from ruvllm.streams.log_reader import read_to_end
from ruvllm.streams.proof.chaos import Say
from ruvllm.streams.proof.cluster import Cluster
from ruvllm.streams.proof.faults import FLAGS, KafkaOfOurOwn
from ruvllm.streams.proof.load import Answers, Submission, sessions_apart
from ruvllm.streams.proof.report import report
from ruvllm.streams.proof.schedule import PROCESSES
from ruvllm.streams.sender import Sender
from ruvllm.streams.topology import Names
from ruvllm.streams.wiring import names_of

AWAY_S = 60.0
GOAL_S = 10.0
"""From the broker's return to normal."""
BEFORE_S, AFTER_S = 20.0, 30.0
EVERY_S = 0.2
LIMIT_S = 120.0
WINDOW_S = 3.0
SLACK_S = 0.5
"""A request is late if it takes so much longer than the slowest of the quiet time before."""


@dataclass(frozen=True)
class Course:
    """What happened when, by the monotonic clock. `sent`: submission -> when it was due."""

    gone: float
    back: float
    sent: dict[Submission, float]
    answered: dict[Submission, float]

    def by_second(self) -> list[dict[str, Any]]:
        """Second since the broker went -> requests that came, and answers."""
        came, went = (Counter(int(t // 1 - self.gone // 1) for t in x.values()) for x in (self.sent, self.answered))
        return [{"second": s, "requests": came[s], "answers": went[s]} for s in sorted(came.keys() | went.keys())]

    def back_to_normal_s(self) -> float | None:
        """Seconds from the return until answers come at the usual pace for `WINDOW_S`; None if they never do."""
        pace = sum(at < self.gone for at in self.sent.values()) / (self.gone - min(self.sent.values()))
        after = sorted(at for at in self.answered.values() if at >= self.back)
        wanted = max(1, math.floor(pace * WINDOW_S))
        starts = (one for one, last in zip(after, after[wanted - 1 :], strict=False) if last - one <= WINDOW_S)
        return next((start - self.back for start in starts), None)

    def backlog_gone_s(self) -> float | None:
        """Seconds from the return to the last late answer; 0 if there is none, None if one never came."""
        before = [at - self.sent[s] for s, at in self.answered.items() if at < self.gone]
        usual = max(before, default=0.0) + SLACK_S
        if self.sent.keys() - self.answered.keys():
            return None
        late = [at for s, at in self.answered.items() if at > self.back and at - self.sent[s] > usual]
        return max(late, default=self.back) - self.back


async def measure_outage(
    bootstrap: str, broker: KafkaOfOurOwn | None, *, seed: int, away_s: float = AWAY_S, say: Say = lambda _: None
) -> dict[str, Any]:
    """Measure once, with one worker of each kind. Raises MissingRequirement if the broker is somebody else's."""
    if broker is None:
        raise MissingRequirement(
            "broker-away needs a broker of its own to stop", hint="Unset kafka.bootstrap_servers; Kafka runs on Java."
        )
    with Cluster(bootstrap, FLAGS, forks=True) as cluster:
        for process in PROCESSES:
            cluster.spawn(process, process)
        await cluster.until_ready()
        names = names_of(cluster.settings)
        sessions = sessions_apart(8, names.partitions)
        sender, answers = Sender(bootstrap, names, source="outage"), Answers(bootstrap, names)
        sent: dict[Submission, float] = {}
        pending: set[asyncio.Task[None]] = set()

        async def load() -> None:
            while True:
                submission = sessions[len(sent) % len(sessions)], f"r{len(sent):05d}"
                sent[submission] = time.monotonic()
                pending.add(asyncio.create_task(sender.send([Emit(_ask(*submission))])))
                await asyncio.sleep(EVERY_S)

        async with connected(bootstrap, sender), answers.listening():
            asking = asyncio.create_task(load())
            await asyncio.sleep(BEFORE_S)
            gone, cpu = time.monotonic(), _cpu_s(cluster)
            await asyncio.to_thread(broker.stop)
            say("the broker is gone")
            await asyncio.sleep(max(0.0, gone + away_s - time.monotonic()))
            busy = (_cpu_s(cluster) - cpu) / (time.monotonic() - gone)
            await asyncio.to_thread(broker.start)
            back = time.monotonic()
            say(f"the broker is back after {back - gone:.1f} s")
            await asyncio.sleep(AFTER_S)
            asking.cancel()
            await asyncio.wait({asking, *pending}, timeout=LIMIT_S)
            lost = await answers.wait_for(sent.keys(), LIMIT_S)
        died = [m.name for m in cluster.members.values() if not m.alive]
        errors = await _errors(bootstrap, names)
        course = Course(gone, back, sent, answers.at)
        normal_s = course.back_to_normal_s()
        findings = [f"request {r} of {s} has no response" for s, r in sorted(lost)[:5]]
        findings += [f"worker {name} ended" for name in died]
        findings += [f"the errors are {dict(errors)}"] if errors else []
        if normal_s is None or normal_s > GOAL_S:
            findings.append(f"back to normal after {normal_s} s, the goal is {GOAL_S:.0f} s")
        cluster.failed = bool(findings)
    return report(
        "ruvllm faults --only broker-away",
        seed=seed,
        sizes={"requests_per_s": 1 / EVERY_S, "sessions": len(sessions), "workers": 1},
        results={
            "requests": len(sent),
            "lost": len(lost),
            "away_s": round(back - gone, 1),
            "errors": sum(errors.values()),
            "back_to_normal_s": None if normal_s is None else round(normal_s, 1),
            "backlog_gone_s": course.backlog_gone_s(),
            "cores_used_while_away": round(busy, 2),
            "by_second": course.by_second(),
            "findings": findings,
        },
    )


async def _errors(bootstrap: str, names: Names) -> Counter[str]:
    """By code, the errors among the responses."""
    found: Counter[str] = Counter()
    async for record in read_to_end(bootstrap, names.topic("response.completed")):
        response = read(record, (Response,))
        assert isinstance(response, Response)
        if response.error is not None:
            found[response.error.code] += 1
    return found


def _ask(session: str, request_id: str) -> Ask:
    return Ask(
        time=datetime.now(UTC),
        request_id=request_id,
        session=session,
        prompt=f"question {request_id}",
        constraints=Constraints(grounding="open"),
    )


def _cpu_s(cluster: Cluster) -> float:
    """Processor seconds that the workers have taken so far."""
    total = 0
    for member in cluster.members.values():
        fields = Path(f"/proc/{member.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")
