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
    for command in (explain, diff, whatif):
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


def diff(
    context: typer.Context,
    requests: Annotated[list[str] | None, typer.Argument(help="two askings of one question, by request id")] = None,
    question: Annotated[str | None, typer.Option(help="instead of requests: this question")] = None,
    start: Annotated[str | None, typer.Option("--from", help="beginning, a time, or places p:offset,...")] = None,
    end: Annotated[str, typer.Option("--to", help="end, a time, or places p:offset,...")] = "end",
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="twice: two rankers or two routers over one memory (--to)")
    ] = None,
    session: Session = None,
    tenant: Annotated[str, typer.Option(help="whose memory")] = "default",
    json: Json = False,
    serial_log: SerialFile = None,
) -> None:
    """Why one question is answered differently: which candidates moved, by which edges, by which events."""
    from ruvllm.errors import InvalidRequest
    from ruvllm.streams.cli.memory_source import state_folder_of
    from ruvllm.streams.cli.telling import print_difference
    from ruvllm.streams.clock import SystemClock
    from ruvllm.streams.history.asked import find_asked
    from ruvllm.streams.history.comparing import Comparing
    from ruvllm.streams.history.difference import Difference
    from ruvllm.streams.history.moments import moment_of
    from ruvllm.streams.wiring import Wiring

    settings, source = of(context).settings, source_of(context, serial_log)
    wiring, names, two = Wiring(settings, SystemClock()), requests or [], tuple(checkpoint or ())
    now = wiring.clock.now()
    comparing = Comparing(source, wiring, None if serial_log else state_folder_of(settings))

    async def compared() -> Difference:
        if len(names) == 2 and not (question or two or start):
            asked = [(await find_asked(source, name, session=session, tenant=tenant))[1] for name in names]
            return await comparing.askings(*asked)
        if question and len(two) == 2 and not (names or start):
            return await comparing.checkpoints(
                question, tenant, await moment_of(source, end, "--to", now), (two[0], two[1])
            )
        if question and start and not (names or two):
            before = await moment_of(source, start, "--from", now)
            return await comparing.moments(question, tenant, before, await moment_of(source, end, "--to", now))
        raise InvalidRequest(
            "diff compares two requests, or a question at two moments, or under two checkpoints",
            hint="REQUEST REQUEST; or --question TEXT --from MOMENT; or --question TEXT --checkpoint A --checkpoint B.",
        )

    found = run(compared())
    if json:
        print_json(found)
    else:
        print_difference(of(context).console, found)


def whatif(
    context: typer.Context,
    checkpoint: Annotated[str | None, typer.Option(help="of the router; `untrained`: nothing learnt")] = None,
    cost_weight: Annotated[float | None, typer.Option(min=0, help="lambda: what the dearest route costs")] = None,
    latency_weight: Annotated[float | None, typer.Option(min=0, help="mu: what each further SLA costs")] = None,
    minimum_quality: Annotated[float | None, typer.Option(min=0, max=1, help="theta: expected at least")] = None,
    exploration: Annotated[
        float | None, typer.Option(min=0, max=1, help="share drawn at random; usually as in force")
    ] = None,
    always: Annotated[str | None, typer.Option(help="this tier for every request; nothing drawn at random")] = None,
    start: Annotated[str, typer.Option("--from", help="beginning, a time, or places p:offset,...")] = "beginning",
    end: Annotated[str, typer.Option("--to", help="end, a time, or places p:offset,...")] = "end",
    json: Json = False,
    serial_log: SerialFile = None,
) -> None:
    """Another policy on the log's traffic: what it would have earned, or why the log cannot say (exit status 1)."""
    from ruvllm.errors import InvalidRequest
    from ruvllm.models.router.what_if import suppose
    from ruvllm.streams.cli.telling import print_supposition
    from ruvllm.streams.clock import SystemClock
    from ruvllm.streams.history.checkpoints import Learnt
    from ruvllm.streams.history.ranges import range_of
    from ruvllm.streams.history.supposing import Asked, logged_answers, policy_of, report
    from ruvllm.streams.wiring import Wiring

    asked = Asked(checkpoint, cost_weight, latency_weight, minimum_quality, exploration, always)
    if asked == Asked():
        raise InvalidRequest("whatif needs a policy to try", hint="Such as --cost-weight 0.5 or --always 135m.")
    source, wiring = source_of(context, serial_log), Wiring(of(context).settings, SystemClock())
    stretch = run(logged_answers(source, range_of(start, end), wiring))
    router = policy_of(asked, run(Learnt.of(source)), wiring)
    found = suppose(stretch.answers, router)
    if json:
        print_json(report(asked, router, stretch, found))
    else:
        print_supposition(of(context).console, stretch, found)
    if not found.supported:
        raise typer.Exit(1)


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
