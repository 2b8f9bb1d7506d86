"""`ruvllm undo`: take back what was learnt from an interaction, a document, a client, a stretch of time."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ruvllm.errors import InvalidRequest
from ruvllm.streams.cli.context import of, run
from ruvllm.streams.cli.documents import bar
from ruvllm.streams.cli.memory_source import SerialFile
from ruvllm.streams.cli.service import bootstrap_of

if TYPE_CHECKING:
    from ruvllm.streams.history.selection import Wanted
    from ruvllm.streams.history.source import Source
    from ruvllm.streams.history.undo import Plan


def register(app: typer.Typer) -> None:
    app.command()(undo)


def undo(
    context: typer.Context,
    interaction: Annotated[list[str] | None, typer.Option(help="by id, as responses name it; several may be")] = None,
    request: Annotated[str | None, typer.Option(help="by the id of its request")] = None,
    session: Annotated[str | None, typer.Option(help="of the request, where several sessions have its id")] = None,
    document: Annotated[list[str] | None, typer.Option(help="as `ruvllm docs list` names it; several may be")] = None,
    client: Annotated[str | None, typer.Option(help="all that this client has taught")] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="asked at this time or later, as 2026-11-21T09:00Z")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="asked before this time")] = None,
    tenant: Annotated[str, typer.Option(help="whose")] = "default",
    transitive: Annotated[
        bool, typer.Option(help="and the answers that stand on it, and what stands on those")
    ] = False,
    reason: Annotated[str, typer.Option(help="kept with what is taken back")] = "taken back by `ruvllm undo`",
    dry_run: Annotated[bool, typer.Option(help="only say what would be taken back")] = False,
    yes: Annotated[bool, typer.Option(help="do not ask")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON; asks nothing")] = False,
    serial_log: SerialFile = None,
) -> None:
    """Take back what was learnt, by events: memory becomes what it would be without. Twice does no more than once."""
    import orjson

    from ruvllm.streams.history import undone
    from ruvllm.streams.history.undo import plan_undo

    here = of(context)
    documents = tuple(document or ())
    wanted = _wanted(interaction, request, session, client, since, until, tenant, bool(documents))

    started = datetime.now(UTC)
    plan = run(
        plan_undo(
            _source(context, serial_log),
            wanted,
            documents=documents,
            tenant=tenant,
            transitive=transitive,
            reason=reason,
            now=started,
        )
    )
    planned = datetime.now(UTC)
    does = bool(plan) and not dry_run
    if does and not yes and not as_json:
        for line in undone.in_words(plan, {}, done=False):
            here.console.print(line)
        typer.confirm("take it back?", abort=True)
    if does:
        _carry_out(context, plan, serial_log, Console(stderr=True) if as_json else here.console)
    tainted = _tainted(context, serial_log)
    if as_json:
        facts = {
            "reason": reason,
            "done": does,
            "plan_s": round((planned - started).total_seconds(), 3),
            "seconds": round((datetime.now(UTC) - started).total_seconds(), 3),
        }
        here.console.print(orjson.dumps(undone.as_json(plan, tainted, **facts), option=orjson.OPT_INDENT_2).decode())
        return
    for line in undone.in_words(plan, tainted, done=does):
        here.console.print(line)


def _wanted(
    interactions: list[str] | None,
    request: str | None,
    session: str | None,
    client: str | None,
    since: str | None,
    until: str | None,
    tenant: str,
    documents: bool,
) -> Wanted | None:
    """The interactions that are meant; None for documents. Raises InvalidRequest for options that do not fit."""
    from ruvllm.streams.history.selection import Wanted

    given = [bool(interactions), bool(request), documents, bool(client or since or until)]
    if sum(given) > 1:
        raise InvalidRequest(
            "an interaction, a request, a document and a client or time are selected apart",
            hint="Run `ruvllm undo` once for each.",
        )
    if session and not request:
        raise InvalidRequest(f"--session {session} has no --request", hint="It says which request is meant.")
    if documents:
        return None
    return Wanted(
        tenant=tenant,
        interactions=frozenset(interactions or ()),
        request=request,
        session=session,
        client=client,
        since=_moment(since),
        until=_moment(until),
    )


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequest(f"{text!r} is not a time", hint="Write it as 2026-11-21T09:00:00Z.") from error
    if moment.tzinfo is None:
        raise InvalidRequest(f"{text!r} has no offset from UTC", hint=f"Write {text}Z or {text}+01:00.")
    return moment


def _source(context: typer.Context, serial_log: Path | None) -> Source:
    from ruvllm.streams.history.source import KafkaSource, SerialSource
    from ruvllm.streams.wiring import names_of

    settings = of(context).settings
    names = names_of(settings)
    return SerialSource(serial_log, names) if serial_log else KafkaSource(bootstrap_of(settings), names)


def _carry_out(context: typer.Context, plan: Plan, serial_log: Path | None, console: Console) -> None:
    """Returns when memory has it; how far it is shows on `console`."""
    here = of(context)
    if serial_log is not None:
        from ruvllm.streams.serial import SerialSystem

        async def serially() -> None:
            async with SerialSystem(here.settings, file=serial_log) as system:
                await system.send(*plan.remove, *plan.retract)
                await system.run()

        run(serially())
        return
    from ruvllm.streams.history.retracting import retract
    from ruvllm.streams.ingest import ingest
    from ruvllm.streams.wiring import names_of

    bootstrap = bootstrap_of(here.settings)
    names = names_of(here.settings)
    with bar(console) as progress:
        task = progress.add_task("taking back", total=len(plan.retract) + len(plan.remove))
        if plan.remove:
            run(ingest(here.settings, bootstrap, plan.remove, progress=lambda _: progress.advance(task)))
        if plan.retract:
            run(retract(bootstrap, names, plan.retract, progress=lambda done: progress.advance(task, done)))


def _tainted(context: typer.Context, serial_log: Path | None) -> dict[str, list[str]]:
    """Learner -> the checkpoints that have learnt from what was taken back."""
    from ruvllm.streams.tainted import tainted_checkpoints

    found = run(tainted_checkpoints(_source(context, serial_log)))
    return {learner: names for learner, names in found.items() if names}
