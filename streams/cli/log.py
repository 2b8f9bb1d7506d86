"""`ruvllm log`: show it, carry it elsewhere, write it anew without what has to go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ruvllm.errors import InvalidRequest
from ruvllm.streams.cli.context import Context, of, run, warnings_apart
from ruvllm.streams.cli.memory_source import SerialFile
from ruvllm.streams.cli.service import bootstrap_of

if TYPE_CHECKING:
    from ruvllm.streams.history.erasing import Wanted
    from ruvllm.streams.history.rewriting import Rewritten
    from ruvllm.streams.history.source import Source

log_app = typer.Typer(help="The log: all that learned state is folded from.", no_args_is_help=True)

From = Annotated[str, typer.Option("--from", help="beginning, a time with its offset, or places as 0:120,1:98")]
To = Annotated[str, typer.Option("--to", help="end, a time, or places; what is there itself is left out")]
Exported = Annotated[Path | None, typer.Option("--log", help="an exported log in place of the broker's")]
KINDS = ("client", "document", "request", "interaction")
Json = Annotated[bool, typer.Option("--json", help="as JSON, for machines")]


def register(app: typer.Typer) -> None:
    log_app.command()(show)
    log_app.command()(export)
    log_app.command("import")(import_)
    log_app.command()(rewrite)
    log_app.callback()(warnings_apart)
    app.add_typer(log_app, name="log")


def show(context: typer.Context, exported: Exported = None, serial_log: SerialFile = None, json: Json = False) -> None:
    """Each topic that is kept: what it spans, how many records it has, and from when to when."""
    from ruvllm.streams.history.survey import survey

    source = source_of(of(context), exported, serial_log)
    rows = run(survey(source))
    if json:
        print_json({row.name: {k: v for k, v in vars(row).items() if k != "name"} for row in rows})
        return
    table = Table("topic", "partitions", "offsets", "records", "first", "last", box=None)
    for row in rows:
        span = sum(end - first for first, end in row.spans.values())
        table.add_row(
            row.name, str(len(row.spans)), str(span), str(row.records), _time(row.first_ms), _time(row.last_ms)
        )
    of(context).console.print(table)


def export(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="to be made")],
    topic: Annotated[list[str] | None, typer.Option(help="of these only; without it all that is carried")] = None,
    from_: From = "beginning",
    to: To = "end",
    serial_log: SerialFile = None,
    json: Json = False,
) -> None:
    """Write the log into a folder: a Parquet file a topic, and a manifest with offsets and hashes."""
    from ruvllm.streams.history import exported
    from ruvllm.streams.history.groups import committed
    from ruvllm.streams.history.ranges import range_of
    from ruvllm.streams.history.source import SerialSource
    from ruvllm.streams.history.survey import committed_in

    here = of(context)
    topics = tuple(topic or exported.CARRIED)
    for name in topics:
        if name not in exported.CARRIED:
            raise InvalidRequest(f"topic {name} is not carried", hint=f"It is one of {', '.join(exported.CARRIED)}.")
    stretch, source = range_of(from_, to), source_of(here, None, serial_log)

    async def work() -> exported.Manifest:
        if isinstance(source, SerialSource):
            places = committed_in(source)
        else:  # first: what is handled meanwhile is handled again there, and known by its owners
            places = await committed(bootstrap_of(here.settings), source.names)
        with bar(here, "exporting", await length(source, topics)) as advance:
            return await exported.export(source, folder, topics, stretch, committed=places, advance=advance)

    manifest = run(work())
    if json:
        rows = {name: vars(row) for name, row in manifest.topics.items()}
        print_json({"folder": str(folder), "topics": rows})
        return
    table = Table("topic", "records", "bytes", "sha256", box=None)
    for name, row in manifest.topics.items():
        table.add_row(name, str(row.records), str(row.bytes), row.sha256[:16])
    here.console.print(table)
    here.console.print(f"{folder}: {sum(row.records for row in manifest.topics.values())} records")


def import_(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="as `ruvllm log export` makes it")],
    json: Json = False,
) -> None:
    """Write an exported log into this installation's topics, which must be empty, and have its stages go on there."""
    from ruvllm.streams.history.copying import Copied, copy
    from ruvllm.streams.history.exported import CARRIED, ExportedSource
    from ruvllm.streams.wiring import names_of

    here = of(context)
    source, settings = ExportedSource(folder), here.settings
    missing = [name for name in CARRIED if name not in source.manifest.topics]
    if missing:
        raise InvalidRequest(
            f"{folder} has no {', '.join(missing)}: a service could not go on from it",
            hint="Export without --topic. `ruvllm replay --log FOLDER` folds what is there.",
        )

    async def work() -> Copied:
        with bar(here, "importing", 2 * await length(source, CARRIED)) as advance:
            return await copy(
                source,
                bootstrap_of(settings),
                names_of(settings),
                replication=settings.kafka.replication,
                committed=source.manifest.committed,
                advance=advance,
            )

    done = run(work())
    if json:
        print_json({"written": done.written, "moved": done.moved.moves})
        return
    table = Table("topic", "records", "offsets moved by, at the last record", box=None)
    for name, count in done.written.items():
        moves = done.moved.moves.get(name, {})
        table.add_row(name, str(count), ", ".join(f"{p}: {by:+d}" for p, by in sorted(moves.items())))
    here.console.print(table)
    here.console.print(f"{sum(done.written.values())} records are in the topics of {settings.kafka.prefix}")


def rewrite(
    context: typer.Context,
    without: Annotated[
        list[str], typer.Option(help="client:NAME, document:ID, request:ID or interaction:ID; may be repeated")
    ],
    tenant: Annotated[str, typer.Option(help="whose they are")] = "default",
    to_prefix: Annotated[
        str | None, typer.Option(help="of the next generation; without it <prefix>-g2, -g3, ...")
    ] = None,
    delete_old: Annotated[bool, typer.Option("--delete-old", help="then delete the old topics and snapshots")] = False,
    json: Json = False,
) -> None:
    """Erase: copy the log to topics of another prefix, without all that holds what is named. Stop the service first."""
    from ruvllm.streams.history import rewriting
    from ruvllm.streams.history.erasing import Erasure
    from ruvllm.streams.history.exported import CARRIED, Advance
    from ruvllm.streams.wiring import names_of

    here = of(context)
    settings, old = here.settings, names_of(here.settings)
    prefix = to_prefix or rewriting.next_prefix(settings.kafka.prefix)
    if prefix == settings.kafka.prefix:
        raise InvalidRequest(f"{prefix} is the prefix that the log has", hint="Leave --to-prefix out.")
    bootstrap, wanted = bootstrap_of(settings), _wanted(tenant, without)
    source = source_of(here, None, None)
    with ExitStack() as shown:
        total = 2 * run(length(source, CARRIED))

        def planned(_: Erasure) -> Advance:
            return shown.enter_context(bar(here, "copying", total))

        done = run(rewriting.rewrite(bootstrap, settings, old, prefix, wanted, delete_old=delete_old, planned=planned))
    report = _report(settings.kafka.prefix, prefix, done)
    if json:
        print_json(report)
        return
    say = here.console.print
    table = Table("topic", "written", "left out", box=None)
    for name, row in report["topics"].items():
        table.add_row(name, str(row["written"]), str(row["left_out"]))
    say(table)
    say(
        f"erased: {report['requests']} requests, {report['interactions']} interactions, {report['documents']} documents"
    )
    for what, names in (
        ("answers that were given from it", report["derived"]),
        ("training runs that learnt from it", report["runs"]),
        ("checkpoints of theirs; the next run learns anew", report["checkpoints"]),
        ("deleted", report["deleted"]),
        ("still holds the bytes", report["still_holds"]),
    ):
        for name in names:
            say(f"  {what}: {name}")
    say(f"set kafka.prefix = {prefix!r}; memory is folded anew at the next start")


def _wanted(tenant: str, without: list[str]) -> Wanted:
    """What the words name. Raises InvalidRequest."""
    from ruvllm.streams.history.erasing import Wanted

    found: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for word in without:
        kind, colon, name = word.partition(":")
        if kind not in found or not colon or not name:
            raise InvalidRequest(
                f"--without {word!r} names nothing", hint=f"Write {', '.join(KINDS)} and a colon first."
            )
        found[kind].add(name)
    return Wanted(tenant, **{f"{kind}s": frozenset(names) for kind, names in found.items()})


def _report(old: str, new: str, done: Rewritten) -> dict[str, Any]:
    erasure, copied = done.erasure, done.copied
    return {
        "from_prefix": old,
        "to_prefix": new,
        "requests": len(erasure.request_keys),
        "interactions": len(erasure.interactions),
        "documents": len(erasure.wanted.documents),
        "derived": sorted(erasure.derived),
        "runs": sorted(erasure.runs),
        "checkpoints": sorted(erasure.checkpoints),
        "topics": {n: {"written": count, "left_out": copied.left_out[n]} for n, count in copied.written.items()},
        "deleted": list(done.deleted),
        "still_holds": list(done.still_holds),
    }


# --- what commands on history share -----------------------------------------------------------------------


def source_of(here: Context, exported: Path | None, serial_log: Path | None) -> Source:
    """Where a command reads: an exported log, a serial log's file, or the broker. Raises InvalidRequest for two."""
    from ruvllm.streams.history.exported import ExportedSource
    from ruvllm.streams.history.source import KafkaSource, SerialSource
    from ruvllm.streams.wiring import names_of

    if exported is not None and serial_log is not None:
        raise InvalidRequest("--log and --serial-log name two logs", hint="Give one of them.")
    if exported is not None:
        return ExportedSource(exported)
    names = names_of(here.settings)
    if serial_log is not None:
        return SerialSource(serial_log, names)
    return KafkaSource(bootstrap_of(here.settings), names)


async def length(source: Source, topics: tuple[str, ...]) -> int:
    """At most so many records: offsets have gaps."""
    return sum([end - first for name in topics for first, end in (await source.spans(name)).values()])


@contextmanager
def bar(here: Context, word: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar with its rate and the time left, on a terminal; nothing elsewhere. Told how many more are done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not here.console.is_terminal:
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=here.console, transient=True) as progress:
        task = progress.add_task(word, total=max(total, 1), rate="")

        def advance(more: int) -> None:
            progress.advance(task, more)
            speed = progress.tasks[task].speed
            progress.update(task, rate=f"{speed:,.0f} events/s" if speed else "")

        yield advance


def print_json(given: Any) -> None:
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    sys.stdout.write(orjson.dumps(given, option=options).decode() + "\n")


def _time(ms: int) -> str:
    return "" if ms < 0 else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
