"""`ruvllm replay`: fold a stretch of the log anew, beside what is live, and compare."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ruvllm.errors import InvalidRequest
from ruvllm.streams.cli.context import Context, of, run, warnings_apart
from ruvllm.streams.cli.log import Exported, From, Json, To, bar, print_json, source_of
from ruvllm.streams.cli.memory_source import SerialFile
from ruvllm.streams.cli.replay_report import as_json, run_line, tell

if TYPE_CHECKING:
    from ruvllm.streams.history.learnt import Learnt
    from ruvllm.streams.history.ranges import Range
    from ruvllm.streams.history.replay import Replay
    from ruvllm.streams.history.retraining import Run
    from ruvllm.streams.history.source import Source
    from ruvllm.streams.history.verifying import Live, Verified
    from ruvllm.streams.wiring import Wiring

T = TypeVar("T")

LOOPS = ("memory", "attention", "router")
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class Retrain(StrEnum):
    """Which training runs are made."""

    recorded = "recorded"
    new = "new"


@dataclass
class Said:
    """What a replay found."""

    digests: dict[str, str] = field(default_factory=dict)
    in_force: dict[str, str | None] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    interleavings: list[dict[str, Any]] = field(default_factory=list)
    verified: Verified | None = None
    differences: list[str] = field(default_factory=list)
    training: int = 0  # events of training


@dataclass(frozen=True)
class Order:
    """What is asked for."""

    loops: tuple[str, ...]
    stretch: Range
    words: tuple[str, str]
    retrain: Retrain | None
    seed: int
    interleavings: int
    verify: bool
    worker: str | None
    snapshot: Path | None


def register(app: typer.Typer) -> None:
    app.command()(replay)


def replay(
    context: typer.Context,
    from_: From = "beginning",
    to: To = "end",
    loops: Annotated[str, typer.Option(help="which learned state, with commas between")] = ",".join(LOOPS),
    into: Annotated[
        Path | None, typer.Option(help="where the replay is kept; without it <home>/replays/<prefix>")
    ] = None,
    exported: Exported = None,
    serial_log: SerialFile = None,
    anew: Annotated[bool, typer.Option("--anew", help="start over; without it the folder's replay goes on")] = False,
    retrain: Annotated[
        Retrain | None, typer.Option(help="repeat the recorded training runs, or make one new run a learner")
    ] = None,
    seed: Annotated[int, typer.Option(help="of new runs")] = 1,
    interleavings: Annotated[
        int, typer.Option(min=0, help="fold it so many times more, partitions in other orders")
    ] = 0,
    verify: Annotated[
        bool, typer.Option("--verify", help="compare with a live worker, at exactly its offsets")
    ] = False,
    worker: Annotated[str | None, typer.Option(help="which one to compare with")] = None,
    snapshot: Annotated[Path | None, typer.Option(help="compare with the newest snapshot in this folder")] = None,
    json: Json = False,
) -> None:
    """Fold the log into fresh state beside the live one. Exit status 1 if something differs, 130 if interrupted."""
    from ruvllm.streams.clock import SystemClock
    from ruvllm.streams.history.ranges import range_of
    from ruvllm.streams.history.replay import Interrupted
    from ruvllm.streams.wiring import Wiring

    warnings_apart()
    here = of(context)
    order = Order(
        _chosen(loops), range_of(from_, to), (from_, to), retrain, seed, interleavings, verify, worker, snapshot
    )
    _check(order, exported, serial_log)
    source, wiring = source_of(here, exported, serial_log), Wiring(here.settings, SystemClock())
    folder = into or here.settings.replays_folder
    try:
        done, said = run(_carry_out(here, source, wiring, folder, order, anew=anew))
    except Interrupted:
        here.console.print(f"interrupted; {folder} is saved: the same command goes on from there")
        raise typer.Exit(INTERRUPTED) from None
    if json:
        print_json(as_json(order, done, said))
    else:
        tell(here, folder, order, done, said)
    if said.differences:
        raise typer.Exit(1)


def _chosen(loops: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(word.strip() for word in loops.split(",") if word.strip()))
    unknown = [name for name in found if name not in LOOPS]
    if unknown or not found:
        raise InvalidRequest(f"--loops {loops!r} names no loop", hint=f"They are {', '.join(LOOPS)}.")
    return found


def _check(order: Order, exported: Path | None, serial_log: Path | None) -> None:
    """Raises InvalidRequest for what cannot be asked together."""
    if order.stretch.of_one_topic and order.loops != ("memory",):
        raise InvalidRequest(
            "places are of memory.changed, and mean nothing to what was learnt in runs",
            hint="--loops memory, or give times.",
        )
    compares = order.verify or order.worker is not None or order.snapshot is not None
    if compares and (order.stretch.start != "beginning" or order.stretch.end != "end" or "memory" not in order.loops):
        raise InvalidRequest(
            "what is compared is memory, from the beginning to where the other side is",
            hint="Leave out --from and --to, and have memory among the loops.",
        )
    if order.verify and (exported is not None or serial_log is not None):
        raise InvalidRequest("a live worker follows the broker's log", hint="Leave out --log and --serial-log.")


async def _carry_out(
    here: Context, source: Source, wiring: Wiring, folder: Path, order: Order, *, anew: bool
) -> tuple[Replay, Said]:
    from ruvllm.streams.history import replay as replaying
    from ruvllm.streams.history.verifying import Live

    live = Live(here.settings, order.worker) if order.verify else None  # before an hour is spent
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    said = Said()
    done = await replaying.begin(source, folder, wiring.new_memory, order.stretch, order.words, anew=anew)
    done.stop = stop
    if "memory" in order.loops:
        await _fold(here, source, done, order, live, said)
        await done.save()
        said.digests["memory"] = done.memory.digest()
        await _unless(stop, _interleave(source, wiring, done, order, said))
    if order.loops != ("memory",):
        await _unless(stop, _learn(source, wiring, done, order, said))
    return done, said


async def _fold(here: Context, source: Source, done: Replay, order: Order, live: Live | None, said: Said) -> None:
    """To the range's end, or to where the side is that it is compared with."""
    from ruvllm.streams.history.replay import MEMORY
    from ruvllm.streams.history.verifying import against_live, against_snapshot

    _, end = await order.stretch.places(source, MEMORY)
    ahead = sum(at - done.progress.positions.get(p, 0) for p, at in end.items())
    with bar(here, "memory", ahead) as done.advance:
        if live is not None:
            said.verified = await against_live(source, done, live)
        elif order.snapshot is not None:
            said.verified = await against_snapshot(source, done, order.snapshot)
        else:
            await done.fold_to(end)
    if said.verified is not None and not said.verified.equal:
        said.differences.append(str(said.verified.first_difference or f"the digest there is {said.verified.digest}"))


async def _interleave(source: Source, wiring: Wiring, done: Replay, order: Order, said: Said) -> None:
    from ruvllm.models.memory.sameness import differences
    from ruvllm.streams.history.replay import interleaved

    contents, progress = done.memory.contents(), done.progress
    partitions = range(source.names.partitions)
    for seed in range(1, order.interleavings + 1):
        other = await interleaved(source, wiring.new_memory, progress.start, progress.positions, partitions, seed)
        first = next(differences(contents, other.contents(), half_life_s=other.half_life_s), None)
        said.interleavings.append({"seed": seed, "digest": other.digest(), "equal": first is None})
        if first is not None:
            said.differences.append(f"interleaving {seed}: {first}")


async def _learn(source: Source, wiring: Wiring, done: Replay, order: Order, said: Said) -> None:
    """The folds of what was learnt in runs, and the runs that are asked for."""
    from ruvllm.streams.history.learnt import TRAINING, Learnt

    learnt = Learnt(wiring.untrained_router)
    start, end = await order.stretch.places(source, TRAINING)
    live = said.verified.training_offsets if said.verified else None
    if live is not None:
        end = {p: live.get(str(p), 0) for p in end}
    async for batch in source.read(TRAINING, start, end):
        done.progress.left_out += len(learnt.fold(batch))
        said.training += len(batch)
    in_force = said.verified.in_force if said.verified else None
    for name in ("attention", "router"):
        if name not in order.loops:
            continue
        said.in_force[name], said.digests[name] = learnt.in_force(name), learnt.digest(name)
        if in_force is not None and in_force[name] != said.in_force[name]:
            said.differences.append(f"{name}: {in_force[name]} is in force there, {said.in_force[name]} by the log")
    await _retrain(source, wiring, done, learnt, order, said)


async def _retrain(source: Source, wiring: Wiring, done: Replay, learnt: Learnt, order: Order, said: Said) -> None:
    from ruvllm.streams.history.retraining import anew, repeat

    courses = wiring.new_courses()
    if order.retrain is Retrain.recorded:
        for recorded in learnt.runs:
            if recorded.learner in order.loops:
                made = await repeat(source, learnt, recorded, courses[recorded.learner], wiring.clock)
                said.runs.append(made)
                if not made.equal:
                    said.differences.append(run_line(made))
    elif order.retrain is Retrain.new:
        for learner, new_course in courses.items():
            if learner in order.loops:
                made = await anew(
                    source,
                    learnt,
                    learner,
                    new_course,
                    wiring.clock,
                    stretch=order.stretch,
                    seed=order.seed,
                    folder=done.folder / "checkpoints",
                )
                said.runs.append(made)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Do it, or raise Interrupted once `stop` is set: then it is cancelled."""
    from ruvllm.streams.history.replay import Interrupted

    doing, waiting = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not doing.done():
        doing.cancel()
        await asyncio.wait({doing})
        raise Interrupted
    return doing.result()
