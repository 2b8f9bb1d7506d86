"""What `ruvllm replay` prints: lines for people, JSON for programs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruvllm.streams.cli.context import Context

if TYPE_CHECKING:
    from ruvllm.streams.cli.replay import Order, Said
    from ruvllm.streams.history.replay import Replay
    from ruvllm.streams.history.retraining import Run


def as_json(order: Order, done: Replay, said: Said) -> dict[str, Any]:
    from ruvllm.streams.history.replay import rate

    progress = done.progress
    events = progress.events + said.training
    return {
        "from": order.words[0],
        "to": order.words[1],
        "events": events,
        "seconds": round(progress.seconds, 3),
        "events_per_s": rate(events, progress.seconds),
        "digests": said.digests,
        "in_force": said.in_force,
        "runs": [
            {
                **{
                    k: getattr(r, k)
                    for k in ("learner", "run_id", "recorded", "repeated", "equal", "examples", "differs")
                },
                "verdict": r.verdict.model_dump(),
            }
            for r in said.runs
        ],
        "interleavings": said.interleavings,
        "verified": asdict(said.verified) if said.verified else None,
        "differences": said.differences,
        "left_out": progress.left_out,
    }


def tell(here: Context, folder: Path, order: Order, done: Replay, said: Said) -> None:
    from ruvllm.streams.history.replay import rate

    say, progress = here.console.print, done.progress
    if "memory" in order.loops:
        held = done.memory.stats()
        speed = rate(progress.events, progress.seconds)
        say(
            f"{progress.events} changes of memory in {progress.seconds:.1f} s ({speed:,.0f} a second), "
            f"{progress.left_out} left out: {held.nodes} nodes, {held.edges} edges"
        )
    for name, digest in said.digests.items():
        serves = f", {said.in_force[name] or 'nothing learnt'} in force" if name in said.in_force else ""
        say(f"{name:9} {digest}{serves}")
    for row in said.interleavings:
        say(f"interleaving {row['seed']}: {'equal' if row['equal'] else 'another memory'}, {row['digest']}")
    for made in said.runs:
        say(run_line(made))
    if said.verified is not None:
        word = "equal" if said.verified.equal else "another memory"
        say(f"beside {said.verified.against}, at {sum(said.verified.offsets.values())} places of the log: {word}")
    for line in said.differences:
        say(f"differs: {line}")
    say(f"kept in {folder}")


def run_line(made: Run) -> str:
    verdict = made.verdict
    gate = f"gain {verdict.gain:+.3f} on {verdict.questions}, {'passed' if verdict.passed else 'held back'}"
    of_it = f"{made.learner} run {made.run_id}, {made.examples} examples, {gate}"
    if made.equal is None:
        return f"new {of_it}: {made.repeated or 'no checkpoint'}"
    same = f"{made.repeated or 'no checkpoint'} again" if made.equal else f"{made.repeated}, recorded {made.recorded}"
    return f"{of_it}: {same}" + "".join(f"; {difference}" for difference in made.differs)
