"""Commands on what memory is made from: ingest, docs list, docs rm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ruvllm.schemas.memory import DocumentProcessed
from ruvllm.streams.cli.context import of, run
from ruvllm.streams.cli.service import bootstrap_of

docs_app = typer.Typer(help="Documents in memory.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.command()(ingest)
    app.add_typer(docs_app, name="docs")


def ingest(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(help="files or folders: .md, .txt, .jsonl")],
    tenant: Annotated[str, typer.Option()] = "default",
    wait: Annotated[bool, typer.Option(help="return when answers can use it")] = True,
    serial_log: Annotated[Path | None, typer.Option(help="without Kafka: into this log's file")] = None,
) -> None:
    """Put documents into memory. Ingesting twice changes nothing; a changed file replaces its passages."""
    from ruvllm.streams import ingest as work
    from ruvllm.streams.serial import SerialSystem

    here = of(context)
    commands = work.documents_in(paths, tenant=tenant)
    if serial_log is not None:

        async def serially() -> list[DocumentProcessed]:
            async with SerialSystem(here.settings, file=serial_log) as system:
                await system.send(*commands)
                await system.run()
                wanted = {c.command_id for c in commands}
                found = [e for e in system.events("document.processed") if isinstance(e, DocumentProcessed)]
                return [e for e in found if e.command_id in wanted]

        done = run(serially())
    elif not wait:
        from ruvllm.streams.client import Client

        async def send() -> None:
            async with Client(bootstrap_of(here.settings), settings=here.settings, tenant=tenant) as client:
                await client.documents(commands)

        run(send())
        here.console.print(f"{len(commands)} documents sent")
        return
    else:
        with bar(here.console) as progress:
            task = progress.add_task("ingesting", total=len(commands))
            done = run(
                work.ingest(
                    here.settings,
                    bootstrap_of(here.settings),
                    commands,
                    progress=lambda _: progress.advance(task),
                )
            )
    summarise(here.console, done)
    if any(e.outcome == "failed" for e in done):
        raise typer.Exit(1)


def bar(console: Console) -> Progress:
    """A progress bar that counts."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def summarise(console: Console, done: list[DocumentProcessed]) -> None:
    """One line of counts; each failure with its reason."""
    counts = {o: sum(e.outcome == o for e in done) for o in dict.fromkeys(e.outcome for e in done)}
    nodes = f"{sum(e.added for e in done)} passages added, {sum(e.removed for e in done)} removed"
    console.print(f"{', '.join(f'{n} {o}' for o, n in counts.items())}; {nodes}")
    for event in done:
        if event.fault is not None:
            console.print(Text.assemble((event.document_id, "red"), ": ", event.fault.message))


@docs_app.command("list")
def list_(context: typer.Context) -> None:
    """Which documents memory holds, and how many passages of each."""
    from ruvllm.streams.ingest import documents_known

    here = of(context)
    table = Table("tenant", "document", "title", "passages", "since", box=None)
    for state in run(documents_known(here.settings, bootstrap_of(here.settings))):
        table.add_row(
            state.tenant, state.document_id, state.title, str(len(state.nodes)), f"{state.time:%Y-%m-%d %H:%M:%S}"
        )
    here.console.print(table)


@docs_app.command("rm")
def rm(
    context: typer.Context,
    documents: Annotated[list[str], typer.Argument(help="names as `ruvllm docs list` shows them")],
    tenant: Annotated[str, typer.Option()] = "default",
) -> None:
    """Forget documents: their passages are no longer used by any answer."""
    from datetime import UTC, datetime

    from ruvllm.schemas.memory import RemoveDocument
    from ruvllm.streams import ingest as work

    here = of(context)
    commands = [RemoveDocument(tenant=tenant, time=datetime.now(UTC), document_id=d) for d in documents]
    done = run(work.ingest(here.settings, bootstrap_of(here.settings), commands))
    summarise(here.console, done)
    if any(e.outcome == "absent" for e in done):
        raise typer.Exit(1)
