"""`ruvllm loop`: a learning loop's training run over all that the log holds, now or whenever enough is new."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from ruvllm.streams.cli.context import Context, of, run
from ruvllm.streams.cli.service import bootstrap_of

if TYPE_CHECKING:
    from ruvllm.schemas.training import Learner, TrainingRecorded

loop_app = typer.Typer(help="Training runs over the log, each behind its gate.", no_args_is_help=True)

Once = Annotated[bool, typer.Option("--once", help="one run now; without it a run whenever enough is new, until ^C")]
Seed = Annotated[int, typer.Option(help="all randomness of the run follows from it")]


def register(app: typer.Typer) -> None:
    app.add_typer(loop_app, name="loop")


@loop_app.command()
def attention(context: typer.Context, once: Once = False, seed: Seed = 1) -> None:
    """Loop A's ranker of what memory finds; it serves at once if it beats the hybrid on held-out questions."""
    _learn(of(context), "attention", "credit among the first five", once=once, seed=seed)


@loop_app.command()
def router(context: typer.Context, once: Once = False, seed: Seed = 1) -> None:
    """Loop B's router; it serves at once if its value on held-out sessions beats that of what serves now."""
    _learn(of(context), "router", "value by the objective", once=once, seed=seed)


def _learn(here: Context, learner: Learner, unit: str, *, once: bool, seed: int) -> None:
    from ruvllm.streams.clock import SystemClock
    from ruvllm.streams.connection import connected
    from ruvllm.streams.learned_log import learned_so_far
    from ruvllm.streams.sender import Sender
    from ruvllm.streams.trainer import learnings, train_and_publish
    from ruvllm.streams.wiring import Wiring

    settings = here.settings
    bootstrap = bootstrap_of(settings)
    wiring = Wiring(settings, SystemClock())

    async def one_run() -> TrainingRecorded | None:
        sender = Sender(bootstrap, wiring.names, source=f"loop-{learner}")
        async with connected(bootstrap, sender):
            rankers, routers = await learned_so_far(bootstrap, wiring)
            learning = learnings(wiring, rankers, routers)[learner]
            if not once and not await learning.has_new(bootstrap, wiring.names, settings.learning.train_after):
                return None
            return await train_and_publish(bootstrap, sender, SystemClock(), learning, seed=seed)

    while True:
        found = run(one_run())
        if found is not None:
            _tell(here, found, unit)
        if once:
            return
        run(asyncio.sleep(settings.learning.train_every_s))


def _tell(here: Context, found: TrainingRecorded, unit: str) -> None:
    verdict = found.verdict
    error = "" if verdict.error is None else f" ± {verdict.error:.3f}"
    here.console.print(f"{found.examples} judged answers, {found.seconds:.1f} s")
    for name, value in found.measures.items():
        here.console.print(f"  {name.replace('_', ' ')} {value:.3f}")
    here.console.print(
        f"gain in {unit} {verdict.gain:+.3f}{error} on {verdict.questions} held-out answers: "
        + (f"{found.checkpoint} serves from now on" if verdict.passed else "held back")
    )
