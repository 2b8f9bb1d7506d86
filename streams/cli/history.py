"""Commands that ask the log why: explain, diff and whatif. They read, and disturb nobody."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ruvllm.streams.cli.context import of, run
from ruvllm.streams.cli.memory_source import SerialFile
from ruvllm.streams.cli.service import bootstrap_of

if TYPE_CHECKING:
    from ruvllm.streams.history.source import Source

Json = Annotated[bool, typer.Option("--json", help="as JSON, for machines")]
Session = Annotated[str | None, typer.Option(help="if several sessions have asked under this id")]
AnyTenant = Annotated[str | None, typer.Option(help="if several tenants have")]


def register(app: typer.Typer) -> None:
    for command in (explain,):
        app.command()(command)


def explain(
    context: typer.Context,
    request: Annotated[str, typer.Argument(help="a request's id, or its interaction's")],
    session: Session = None,
    tenant: AnyTenant = None,
    json: Json = False,
    serial_log: SerialFile = None,
) -> None:
    """The whole story of one answer: its sources and who made them, its route, its verdicts, what was learnt."""
    from ruvllm.streams.cli.telling import print_story
    from ruvllm.streams.history.asked import find_asked
    from ruvllm.streams.history.gathering import tell
    from ruvllm.streams.history.story import Story

    source = source_of(context, serial_log)

    async def gather() -> Story:
        place, asked = await find_asked(source, request, session=session, tenant=tenant)
        return await tell(source, place, asked)

    found = run(gather())
    if json:
        print_json(found.as_json())
    else:
        print_story(of(context).console, found)


def source_of(context: typer.Context, serial_log: Path | None) -> Source:
    """The log that a command reads: the broker's, or a serial log's file."""
    from ruvllm.streams.history.source import KafkaSource, SerialSource
    from ruvllm.streams.wiring import names_of

    settings = of(context).settings
    names = names_of(settings)
    return KafkaSource(bootstrap_of(settings), names) if serial_log is None else SerialSource(serial_log, names)


def print_json(found: Any) -> None:
    import orjson

    option = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    sys.stdout.write(orjson.dumps(found, option=option).decode() + "\n")
