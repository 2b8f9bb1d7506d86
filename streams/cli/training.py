"""`ruvllm train`: a training run now, over all that the log holds."""

from __future__ import annotations

from typing import Annotated

import typer

from ruvllm.streams.cli.context import of, run
from ruvllm.streams.cli.service import bootstrap_of

train_app = typer.Typer(help="Training runs over the log, each behind its gate.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(train_app, name="train")


@train_app.command()
def attention(
    context: typer.Context, seed: Annotated[int, typer.Option(help="all randomness follows from it")] = 1
) -> None:
    """Train the ranker of what memory finds; it serves at once if it beats the hybrid on held-out questions."""
    from ruvllm.schemas.training import TrainingRecorded
    from ruvllm.streams.attention_trainer import train_and_publish
    from ruvllm.streams.clock import SystemClock
    from ruvllm.streams.connection import connected
    from ruvllm.streams.sender import Sender
    from ruvllm.streams.wiring import names_of

    settings = of(context).settings
    bootstrap = bootstrap_of(settings)

    async def work() -> TrainingRecorded:
        sender = Sender(bootstrap, names_of(settings), source="train")
        async with connected(bootstrap, sender):
            return await train_and_publish(bootstrap, sender, SystemClock(), seed=seed)

    found = run(work())
    verdict = found.verdict
    error = "" if verdict.error is None else f" ± {verdict.error:.3f}"
    console = of(context).console
    console.print(f"{found.examples} judged questions, {found.seconds:.1f} s")
    console.print(
        f"gain over the hybrid {verdict.gain:+.3f}{error} on {verdict.questions} held-out questions: "
        + (f"{found.checkpoint} serves from now on" if verdict.passed else "held back, nothing changes")
    )
