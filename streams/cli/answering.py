"""Commands that ask: ask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ruvllm.schemas.request import Response
from ruvllm.streams.cli.context import of, run
from ruvllm.streams.cli.service import bootstrap_of

Constraint = Annotated[str | None, typer.Option(help="tiers the router may use, comma-separated")]


def register(app: typer.Typer) -> None:
    app.command()(ask)


def ask(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="the question")],
    session: Annotated[str | None, typer.Option(help="conversation it belongs to")] = None,
    tiers: Constraint = None,
    max_tokens: Annotated[int | None, typer.Option()] = None,
    temperature: Annotated[float | None, typer.Option()] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    deadline: Annotated[float | None, typer.Option(help="seconds")] = None,
    grounding: Annotated[str, typer.Option(help="memory, open or none")] = "memory",
    serial: Annotated[bool, typer.Option("--serial", help="without Kafka: the whole flow in this process")] = False,
    log: Annotated[Path | None, typer.Option(help="with --serial: the log's file, kept between calls")] = None,
    json: Annotated[bool, typer.Option("--json", help="the whole response event")] = False,
) -> None:
    """Ask one question. Exit status 1 if the answer is an error."""
    given: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "grounding": grounding,
        "allowed_tiers": tuple(tiers.split(",")) if tiers else None,
    }
    constraints = {k: v for k, v in given.items() if v is not None}
    here = of(context)
    if serial:
        response = run(_ask_serial(here.settings, log, prompt, session, deadline, constraints))
    else:
        response = run(_ask(here.settings, bootstrap_of(here.settings), prompt, session, deadline, constraints))
    if json:
        from ruvllm.schemas.wire import encode

        here.console.print(encode(response).decode())
    else:
        show(here.console, response)
    if response.error is not None:
        raise typer.Exit(1)


async def _ask(
    settings: Any, bootstrap: str, prompt: str, session: str | None, deadline: float | None, constraints: dict[str, Any]
) -> Response:
    from ruvllm.streams.client import Client

    async with Client(bootstrap, settings=settings) as client:
        return await client.ask(prompt, session=session, deadline_s=deadline, **constraints)


async def _ask_serial(
    settings: Any,
    log: Path | None,
    prompt: str,
    session: str | None,
    deadline: float | None,
    constraints: dict[str, Any],
) -> Response:
    from ruvllm.streams.serial import SerialSystem

    async with SerialSystem(settings, file=log) as system:
        return await system.ask(prompt, session=session, deadline_s=deadline, **constraints)


def show(console: Console, response: Response) -> None:
    """An answer for people: text, where it came from, which model, how long each stage took."""
    if response.error is not None:
        console.print(Text.assemble((response.error.code, "red"), " ", response.error.message))
        console.print(f"  {response.error.hint}")
        return
    console.print(response.text, style="bold")
    for number, source in enumerate(response.sources, 1):
        snippet = " ".join(source.snippet.split())
        console.print(f"  {number}. {source.title} ({source.score:.2f}): {snippet[:90]}...", style="dim")
    usage = response.usage
    console.print(
        f"  {response.finish_reason}, tier {response.tier}, confidence {response.confidence:.2f}, "
        f"{usage.prompt_tokens} tokens in ({usage.cached_tokens} from cache), {usage.completion_tokens} out",
        style="dim",
    )
    stages = ", ".join(f"{name} {ms:.0f}" for name, ms in response.latency_ms.items())
    console.print(f"  milliseconds: {stages}", style="dim")
