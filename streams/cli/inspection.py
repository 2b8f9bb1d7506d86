"""Commands that look and change nothing: config, topology, topics, doctor."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ruvllm.streams.cli.context import of, run
from ruvllm.streams.cli.service import bootstrap_of


class Format(str, Enum):  # noqa: UP042  typer reads the members of a str enum
    """Forms of the topology."""

    table = "table"
    mermaid = "mermaid"
    asyncapi = "asyncapi"
    jsonschema = "jsonschema"


def register(app: typer.Typer) -> None:
    for command in (config, topology, topics, doctor):
        app.command()(command)


def config(context: typer.Context) -> None:
    """Every setting, its value and where it came from."""
    from ruvllm.streams.settings import resolve, setting_names

    here = of(context)
    settings, origin = resolve(here.flags, file=here.file)
    table = Table("setting", "value", "from", box=None)
    for name in setting_names():
        value: Any = settings
        for part in name.split("."):
            value = getattr(value, part)
        table.add_row(name, str(value), origin.get(name, "default"))
    here.console.print(table)


def topology(
    context: typer.Context,
    form: Annotated[Format, typer.Option("--format", help="table, mermaid, asyncapi or jsonschema")] = Format.table,
) -> None:
    """The flow: stages, topics and events, in a form for people or for tools."""
    import orjson

    from ruvllm.streams import describe
    from ruvllm.streams.wiring import names_of

    if form is Format.table:
        print(describe.table())
    elif form is Format.mermaid:
        print(describe.mermaid())
    else:
        document = (
            describe.asyncapi(names_of(of(context).settings)) if form is Format.asyncapi else describe.jsonschema()
        )
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")


def topics(
    context: typer.Context,
    create: Annotated[bool, typer.Option(help="make those that are missing")] = False,
) -> None:
    """Every topic that the topology wants beside what the broker has. Exit status 1 if one does not fit."""
    from ruvllm.streams.topics import TopicState, admin, ensure_topics, topic_states
    from ruvllm.streams.wiring import names_of

    here = of(context)
    bootstrap, names = bootstrap_of(here.settings), names_of(here.settings)

    async def look() -> list[TopicState]:
        if create:
            await ensure_topics(bootstrap, names, replication=here.settings.kafka.replication)
        async with admin(bootstrap) as client:
            return await topic_states(client, names)

    table = Table("topic", "partitions", "wanted", "records are", box=None)
    states = run(look())
    for state in states:
        present = str(state.present) if state.present else "missing"
        table.add_row(state.name, present, str(state.wanted), state.keeping.value)
    here.console.print(table)
    if not all(s.fits for s in states):
        raise typer.Exit(1)


def doctor(context: typer.Context) -> None:
    """Look over machine, models, broker and topics, and say what to do. Exit status 1 if something is missing."""
    from ruvllm.streams.doctor import examine

    here = of(context)
    findings = examine(here.settings, lambda: bootstrap_of(here.settings))
    for finding in findings:
        mark = ("ok  ", "green") if finding.good else ("look", "red")
        here.console.print(Text.assemble(mark, f" {finding.subject}: {finding.fact}"))
        if not finding.good:
            here.console.print(f"       {finding.advice}")
    if not all(f.good for f in findings):
        raise typer.Exit(1)
