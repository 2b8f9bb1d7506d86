"""The fault harness: `ruvllm faults`."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ruvllm.errors import InvalidRequest
from ruvllm.streams.cli.context import of, run
from ruvllm.streams.cli.service import broker_of

OF_THE_HARNESS = ("home", "kafka.prefix", "kafka.bootstrap_servers")
"""Settings that its workers do not take from the command line."""
LIMIT_S = {False: 600.0, True: 25.0}
"""For the load, and then for the next answer; without a safeguard some never come."""


def faults(
    context: typer.Context,
    seed: Annotated[int, typer.Option(help="the whole schedule follows from it")] = 1,
    seeds: Annotated[str | None, typer.Option(help="runs of several seeds, as 1-25")] = None,
    kills: Annotated[int, typer.Option(min=0, help="SIGKILLs; the other faults are in proportion")] = 40,
    requests: Annotated[int, typer.Option(min=1, help="at least; more are sent until all faults happened")] = 200,
    only: Annotated[str | None, typer.Option(help="kinds of faults and oddities, comma-separated")] = None,
    workers: Annotated[int, typer.Option(min=1, help="of each kind")] = 2,
    without: Annotated[
        str | None, typer.Option(help="a safeguard that its workers do without, to see the harm found: fence or ledger")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="write the whole report to this file")] = None,
    table: Annotated[Path | None, typer.Option(help="write the table of all seeds to this file")] = None,
) -> None:
    """Do to workers and broker what happens to them, while requests come in; then count.

    Exit status 1 if anything is amiss, or if not all that was planned has happened.
    """
    from ruvllm.streams.logs import configure_logs
    from ruvllm.streams.proof.corpus import demo_folder
    from ruvllm.streams.proof.fault_table import as_markdown, summary
    from ruvllm.streams.proof.faults import run_faults
    from ruvllm.streams.proof.outage import measure_outage
    from ruvllm.streams.proof.report import write_report
    from ruvllm.streams.proof.schedule import Plan

    configure_logs("ERROR")  # what the harness's own sender meets is meant
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # workers and broker are not to outlive it
    console = of(context).console
    chosen = _kinds(only)
    runs: list[dict[str, Any]] = []
    with _broker(context) as (bootstrap, broker):
        if chosen == {"broker-away"}:
            found = run(measure_outage(bootstrap, broker, seed=seed, say=console.print))
            write_report(json, found)
            for name in ("requests", "lost", "errors", "away_s", "back_to_normal_s", "backlog_gone_s", "findings"):
                console.print(f"{name}: {found[name]}")
            raise typer.Exit(1 if found["findings"] else 0)
        for number in _range(seeds) if seeds else (seed,):
            plan = Plan(number, kills, requests, workers=workers, only=chosen, limit_s=LIMIT_S[without is not None])
            console.print(f"seed {number}")
            corpus, off = demo_folder() / "corpus", _safeguards(without)
            flags = {name: value for name, value in of(context).flags.items() if name not in OF_THE_HARNESS}
            runs.append(
                run(run_faults(bootstrap, corpus, plan, broker=broker, without=off, flags=flags, say=console.print))
            )
            write_report(json, summary(runs) if seeds else runs[0])
            if table is not None:
                table.write_text(as_markdown(runs), encoding="utf-8")
    console.print(as_markdown(runs))
    for one in runs:
        for line in (*one["notes"], *one["findings"]):
            console.print(f"seed {one['seed']}: {line}")
    if any(one["findings"] for one in runs):
        raise typer.Exit(1)


@contextmanager
def _broker(context: typer.Context) -> Iterator[tuple[str, Any]]:
    """A broker of the harness's own where Kafka can be run; else the one that is named, which is left alone."""
    from ruvllm.streams.broker.properties import KAFKA_VERSION
    from ruvllm.streams.proof.faults import broker_of_our_own

    settings = of(context).settings
    chosen = broker_of(settings)
    if chosen.kind != "local":
        if chosen.kind != "external":
            chosen.start()
        yield chosen.bootstrap, None
        return
    with broker_of_our_own(settings.home / f"kafka-{KAFKA_VERSION}") as own:
        yield own.bootstrap, own


def _kinds(only: str | None) -> frozenset[str]:
    from ruvllm.streams.proof.schedule import KINDS, ODDITIES

    known = (*KINDS, *ODDITIES, "broker-away")
    chosen = frozenset(only.split(",")) if only else frozenset(known[:-1])
    if unknown := sorted(chosen - set(known)):
        raise InvalidRequest(f"there is no fault {unknown[0]!r}", hint=f"There are: {', '.join(known)}.")
    if "broker-away" in chosen and len(chosen) > 1:
        raise InvalidRequest("broker-away is measured alone", hint="Give it in a run of its own.")
    return chosen


def _safeguards(without: str | None) -> tuple[str, ...]:
    from ruvllm.streams.safeguards import SAFEGUARDS

    off = tuple(without.split(",")) if without else ()
    if unknown := sorted(set(off) - set(SAFEGUARDS)):
        raise InvalidRequest(f"there is no safeguard {unknown[0]!r}", hint=f"There are: {', '.join(SAFEGUARDS)}.")
    return off


def _range(seeds: str) -> range:
    """`1-25` as numbers; `7` is one."""
    first, _, last = seeds.partition("-")
    try:
        return range(int(first), int(last or first) + 1)
    except ValueError as error:
        raise InvalidRequest(f"--seeds {seeds!r} is no range", hint="Write it as 1-25.") from error
