"""What a run of faults does to a service, as data: which worker meets what, in which order, and which requests are odd.

Invariant: a pure function of the plan. The same seed gives the same faults for each worker, in the same order,
and the same oddities for each request, however long the run takes.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal, get_args

from ruvllm.streams.topology import Process

Kind = Literal[
    "kill", "aimed", "zombie", "freeze", "pause", "terminate", "throttle", "storm", "disk-full",
    "broker-restart", "broker-kill",
]  # fmt: skip
Oddity = Literal["duplicates", "skew", "early-feedback", "poison"]
KINDS: tuple[str, ...] = get_args(Kind)
ODDITIES: tuple[str, ...] = get_args(Oddity)
DEADLY = ("kill", "aimed", "broker-kill")
OF_BROKER = ("broker-restart", "broker-kill")
BROKER = "broker"
"""The lane of the faults that meet the broker; the other lanes are named after workers."""

PROCESSES: tuple[Process, ...] = ("answer", "pool", "learn")
POINTS: dict[Process, tuple[str, ...]] = {
    "answer": ("worked", "passed", "handled", "sent", "committed", "offsets"),
    "pool": ("worked", "passed", "offsets"),
    "learn": ("handled", "sent", "committed", "offsets"),
}
"""The fault points that each process comes to."""
ZOMBIES = ("handled", "sent")
"""Where zombies fall asleep: with effects that were computed, or sent, from a state that is not the last any more."""
SHARE_AIMED = 0.6
"""Of the kills: at a fault point; the others at a random moment."""
PER_KILLS: dict[str, int] = {
    "zombie": 10, "freeze": 20, "pause": 10, "terminate": 10, "throttle": 20, "storm": 20, "disk-full": 40,
    "broker-restart": 40, "broker-kill": 20,
}  # fmt: skip
"""One of a kind to so many kills, and one at least."""
POISON = ("bytes", "wrong-kind", "no-fields", "too-long", "named", "huge")
POISON_FEEDBACK = ("bytes", "wrong-kind", "no-fields", "huge")


@dataclass(frozen=True)
class Plan:
    """How much of what. `limit_s` is for the load, and then for the next answer; `only`: these kinds, no other.

    More requests than planned are sent while the schedule is not carried out.
    """

    seed: int = 1
    kills: int = 40
    requests: int = 200
    sessions: int = 8
    workers: int = 2
    only: frozenset[str] = frozenset(KINDS) | frozenset(ODDITIES)
    limit_s: float = 600.0

    @property
    def odd(self) -> frozenset[str]:
        return self.only & frozenset(ODDITIES)

    def without(self, kinds: tuple[str, ...]) -> Plan:
        return Plan(
            self.seed, self.kills, self.requests, self.sessions, self.workers, self.only - set(kinds), self.limit_s
        )


@dataclass(frozen=True)
class Fault:
    """One fault. `after_s`: the quiet before it; `lasts_s`: of freezes and outages.

    `point` and `nth`: the worker meets it the n-th time it comes there, not at a random moment.
    """

    kind: Kind
    after_s: float = 0.0
    lasts_s: float = 0.0
    point: str | None = None
    nth: int = 0

    @property
    def armed(self) -> str | None:
        """As a worker's environment says it."""
        if self.point is None:
            return None
        return f"{self.point}:{self.nth}:{'KILL' if self.kind == 'aimed' else 'STOP'}"


Lanes = dict[str, tuple[Fault, ...]]


def lanes(plan: Plan, *, session_timeout_s: float) -> Lanes:
    """Lane (a worker's name, or the broker) -> its faults in order. Lanes are carried out side by side."""
    draws = random.Random(f"faults:{plan.seed}")
    kinds = [k for k in KINDS if k in plan.only]
    counts = {k: max(1, plan.kills // PER_KILLS[k]) for k in kinds if k in PER_KILLS}
    left = max(0, plan.kills - counts.get("broker-kill", 0))
    if "aimed" in kinds:
        counts["aimed"] = round(left * SHARE_AIMED) if "kill" in kinds else left
    if "kill" in kinds:
        counts["kill"] = left - counts.get("aimed", 0)
    names = [f"{process}-{n + 1}" for n in range(plan.workers) for process in PROCESSES]
    found: defaultdict[str, list[Fault]] = defaultdict(list)
    points = _turns_at_points(draws)
    turn = itertools.cycle(names)
    for kind in (k for k in kinds for _ in range(counts[k])):
        if kind in OF_BROKER:
            found[BROKER].append(Fault(kind, draws.uniform(8, 25)))  # type: ignore[arg-type]
        elif kind in ("aimed", "zombie"):
            process, point = (
                next(points) if kind == "aimed" else (draws.choice(("answer", "learn")), draws.choice(ZOMBIES))
            )
            name = f"{process}-{draws.randint(1, plan.workers)}"
            lasts_s = session_timeout_s + draws.uniform(2, 4) if kind == "zombie" else 0.0
            found[name].append(Fault(kind, 0.0, lasts_s, point, draws.randint(1, 3)))  # type: ignore[arg-type]
        else:
            name = next(turn)
            if kind == "disk-full":  # the pool keeps nothing
                name = f"{draws.choice(('answer', 'learn'))}-{draws.randint(1, plan.workers)}"
            found[name].append(Fault(kind, draws.uniform(0.2, 4), _lasts_s(kind, session_timeout_s, draws)))  # type: ignore[arg-type]
    for lane in found.values():
        draws.shuffle(lane)
    return {name: tuple(found[name]) for name in sorted(found)}


def _turns_at_points(draws: random.Random) -> itertools.cycle[tuple[Process, str]]:
    """Every point of every process, in a drawn order, over and over: each step between work and ack gets its turn."""
    places = [(process, point) for process in PROCESSES for point in POINTS[process]]
    draws.shuffle(places)
    return itertools.cycle(places)


def _lasts_s(kind: str, session_timeout_s: float, draws: random.Random) -> float:
    if kind == "pause":
        return draws.uniform(0.3, 0.6) * session_timeout_s
    if kind == "freeze":
        return session_timeout_s + draws.uniform(2, 4)
    return draws.uniform(4, 8)


@dataclass(frozen=True)
class Step:
    """One request and what is odd about it and its feedback. Times are event times against the clock."""

    number: int
    session: int
    skew_s: float = 0.0
    rating: int | None = None
    early: bool = False  # feedback goes before the request
    again_after: int | None = None  # so many requests later the same id is sent again
    again_skew_s: float = 0.0
    poison: str | None = None
    poison_feedback: str | None = None


def step(plan: Plan, number: int) -> Step:
    """What the `number`-th request of a run is like."""
    draws = random.Random(f"load:{plan.seed}:{number}")
    odd = plan.odd
    session = draws.randrange(plan.sessions)
    rated = draws.random() < 1 / 3
    rating, early = draws.randint(1, 5), draws.random() < 0.3
    skewed, skew_s = draws.random() < 0.2, draws.uniform(-6, 6) * 3600
    again, after, minutes = draws.random() < 0.1, draws.choice((0, 1, 7, 40)), draws.uniform(1, 30)
    poisoned, poison = draws.random(), (draws.choice(POISON), draws.choice(POISON_FEEDBACK))
    return Step(
        number,
        session,
        skew_s=skew_s if skewed and "skew" in odd else 0.0,
        rating=rating if rated else None,
        early=early and "early-feedback" in odd,
        again_after=after if again and "duplicates" in odd else None,
        again_skew_s=minutes * 60,
        poison=poison[0] if poisoned < 0.04 and "poison" in odd else None,
        poison_feedback=poison[1] if poisoned > 0.97 and "poison" in odd else None,
    )
