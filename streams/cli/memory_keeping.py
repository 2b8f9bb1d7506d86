"""`ruvllm memory export`, `import`, `backup` and `restore`: carry memory elsewhere, keep it, put it back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ruvllm.streams.cli.context import of, run
from ruvllm.streams.cli.memory_source import SerialFile, folded, new_memory_of, state_folder_of
from ruvllm.streams.cli.service import bootstrap_of


def register(app: typer.Typer) -> None:
    app.command()(export)
    app.command("import")(import_)
    app.command()(backup)
    app.command()(restore)


def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="to be written: lines of JSON")],
    tenant: Annotated[str | None, typer.Option(help="of this one only; without it: of all")] = None,
    serial_log: SerialFile = None,
) -> None:
    """Write memory to a file that another installation can import."""
    from ruvllm.streams.memory_tools.export import write_export

    found = folded(context, serial_log)
    head = write_export(found.memory, file, log_id=found.log_id, offsets=found.offsets, tenant=tenant)
    of(context).console.print(f"{file}: {head.nodes} nodes, {head.edges} edges, digest {head.digest}")


def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="as `ruvllm memory export` writes it")],
    merge: Annotated[bool, typer.Option(help="write what memory lacks, leave the rest as it is")] = False,
    serial_log: SerialFile = None,
) -> None:
    """Write an export into this installation's log. What documents it is of, `docs` learns only by ingesting them."""
    from ruvllm.streams.memory_tools.export import read_export
    from ruvllm.streams.memory_tools.importing import import_into_file, import_into_kafka
    from ruvllm.streams.wiring import names_of

    settings = of(context).settings
    given, names, new_memory = read_export(file), names_of(settings), new_memory_of(settings)
    if serial_log is not None:
        work = import_into_file(serial_log, names, given, merge=merge, new_memory=new_memory)
    else:
        work = import_into_kafka(
            bootstrap_of(settings),
            names,
            given,
            merge=merge,
            new_memory=new_memory,
            state_folder=state_folder_of(settings),
        )
    done = run(work)
    digest = done.after.memory.digest()
    same = "as in the export" if digest == given.head.digest else "of this and what else is known"
    of(context).console.print(
        f"{len(done.written.nodes)} nodes and {len(done.written.edges)} edges in {done.changes} changes; "
        f"memory has digest {digest}, {same}"
    )


def backup(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="a folder of its own; earlier backups stay in it")],
    keep: Annotated[int | None, typer.Option(min=1, help="delete all but so many; without it: none")] = None,
) -> None:
    """Keep a snapshot of memory as it is now."""
    from ruvllm.streams.memory_tools.backup import ALL, back_up

    found = folded(context, None)
    path = back_up(found, folder, keep=keep or ALL)
    of(context).console.print(f"{path}: digest {found.memory.digest()}, log {found.log_id}")


def restore(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="where `ruvllm memory backup` has put it")],
    worker: Annotated[list[str] | None, typer.Option(help="for this worker only; may be repeated")] = None,
) -> None:
    """Have the workers start from a backup of this very log. Without one they fold the log: nothing is lost."""
    from ruvllm.streams.memory_tools import backup
    from ruvllm.streams.memory_tools.reading import log_now
    from ruvllm.streams.topology import STAGES
    from ruvllm.streams.wiring import names_of

    settings = of(context).settings
    workers = worker or sorted({str(stage.process) for stage in STAGES if stage.recalls})
    log_id, spans = run(log_now(bootstrap_of(settings), names_of(settings)))
    done = backup.restore(
        folder,
        [settings.snapshots_folder(name) for name in workers],
        log_id=log_id,
        spans=spans,
        new_memory=new_memory_of(settings),
        keep=settings.memory.snapshots_kept,
    )
    held = done.memory.stats()
    of(context).console.print(
        f"{held.nodes} nodes, {held.edges} edges for {', '.join(workers)}: taken at their next start, "
        f"with {done.behind} places of the log to fold after it"
    )
