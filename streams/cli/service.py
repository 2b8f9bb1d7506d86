"""Commands that run the service: up, down, status, worker, broker."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from rich.table import Table

from ruvllm.errors import RuvllmError
from ruvllm.streams.cli.context import of
from ruvllm.streams.settings import Settings

broker_app = typer.Typer(help="The local Kafka broker.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(worker)
    app.add_typer(broker_app, name="broker")


def broker_of(settings: Settings) -> Any:
    """The broker that these settings mean."""
    from ruvllm.streams.broker.choose import BrokerSettings, choose_broker

    kafka = settings.kafka
    return choose_broker(
        BrokerSettings(
            home=settings.home,
            port=kafka.port,
            controller_port=kafka.port + 1,
            bootstrap_servers=kafka.bootstrap_servers or None,
        )
    )


def running_broker(context: typer.Context) -> str:
    """Where the configured broker answers; it is started if it is ours and does not run."""
    broker = broker_of(of(context).settings)
    if broker.kind != "external":
        broker.start()
    return str(broker.bootstrap)


def bootstrap_of(settings: Settings) -> str:
    """Where clients connect."""
    return settings.kafka.bootstrap_servers or str(broker_of(settings).bootstrap)


def up(context: typer.Context) -> None:
    """Start the broker, unless one is named, and the three processes; returns when all are ready.

    If that fails or is interrupted, what it started is stopped again.
    """
    from ruvllm.streams.processes import Processes

    here = of(context)
    broker = broker_of(here.settings)
    was_running = broker.kind == "external" or broker.status().running
    processes = Processes(here.settings, {**here.flags, "kafka.bootstrap_servers": broker.bootstrap}, file=here.file)
    try:
        if broker.kind != "external":
            with here.console.status("starting Kafka"):
                broker.start()
        with here.console.status("starting answer, pool and learn"):
            processes.start()
    except BaseException:
        if not was_running:
            broker.stop()
        raise
    here.console.print(f"up: Kafka at {broker.bootstrap}, profile {here.settings.profile}")
    here.console.print('ask with `ruvllm ask "..."`, look with `ruvllm status`, stop with `ruvllm down`')


def down(
    context: typer.Context, keep_broker: Annotated[bool, typer.Option(help="leave Kafka running")] = False
) -> None:
    """Stop the three processes in order, then the broker. What is in the log stays."""
    from ruvllm.streams.processes import Processes

    here = of(context)
    stopped = Processes(here.settings).stop()
    broker = broker_of(here.settings)
    if broker.kind != "external" and not keep_broker and broker.status().running:
        broker.stop()
        stopped.append("kafka")
    here.console.print(f"stopped: {', '.join(stopped) or 'nothing was running'}")


def status(context: typer.Context) -> None:
    """What runs, and whether it works: by assignment and progress. Exit status 1 if something does not."""
    from ruvllm.streams.processes import Processes

    here = of(context)
    states = Processes(here.settings).states()
    kafka = broker_of(here.settings).status()
    here.console.print(f"kafka    {'running' if kafka.running else 'not running'} at {kafka.bootstrap} ({kafka.kind})")
    table = Table("process", "state", "stage", "partitions", "lag", "open", "handled", "idle s", box=None)
    for state in states:
        word = "ready" if state.ready else ("not ready" if state.running else "not running")
        stages = state.report["stages"] if state.report else {}
        if not stages:
            table.add_row(state.process, word)
        for name, stage in stages.items():
            facts = [str(stage[k]) for k in ("partitions", "lag", "open", "handled", "idle_s")]
            table.add_row(state.process, word, name, *facts)
    here.console.print(table)
    if not all(s.ready for s in states):
        raise typer.Exit(1)


def worker(
    context: typer.Context,
    process: Annotated[str, typer.Argument(help="answer, pool or learn")],
    name: Annotated[str | None, typer.Option(help="of this one, where several of a kind run here")] = None,
) -> None:
    """Run one process in the foreground until SIGTERM or SIGINT."""
    import uvloop

    from ruvllm.streams.broker_away import wait_for_broker
    from ruvllm.streams.fault_points import arm
    from ruvllm.streams.logs import configure_logs
    from ruvllm.streams.processes import PROCESSES, Processes
    from ruvllm.streams.safeguards import take_off
    from ruvllm.streams.worker import BROKER_WAIT_S, Worker

    here = of(context)
    kind = next((p for p in PROCESSES if p == process), None)
    if kind is None:
        raise RuvllmError(f"there is no process {process!r}", hint=f"It is one of: {', '.join(PROCESSES)}.")
    configure_logs(os.environ.get("RUVLLM_LOG", "INFO"))
    arm(os.environ)
    take_off(os.environ, here.settings.home)
    wait_for_broker(BROKER_WAIT_S)
    processes = Processes(here.settings)
    name = name or process
    bootstrap = bootstrap_of(here.settings)

    async def work() -> int:
        return await Worker(kind, here.settings, bootstrap, name=name).run(ready_file=processes.ready_file(name))

    with processes.hold(name):
        raise typer.Exit(uvloop.run(work()))


@broker_app.command("install")
def broker_install(context: typer.Context) -> None:
    """Bring Kafka to this machine (Maven artefacts, or the Docker image); quick if it is here."""
    broker = broker_of(of(context).settings)
    broker.install()
    of(context).console.print(f"kafka: {broker.kind}, {broker.bootstrap}")


@broker_app.command("start")
def broker_start(context: typer.Context) -> None:
    """Start the broker and wait until it answers."""
    state = broker_of(of(context).settings).start()
    of(context).console.print(f"kafka runs at {state.bootstrap} ({state.kind}, process {state.pid})")


@broker_app.command("stop")
def broker_stop(context: typer.Context) -> None:
    """Stop the broker; its data stays."""
    broker_of(of(context).settings).stop()
    of(context).console.print("kafka is stopped; its log stays")


@broker_app.command("status")
def broker_status(context: typer.Context) -> None:
    """Whether it runs, since when, and how much its log takes. Exit status 1 if it does not run."""
    state = broker_of(of(context).settings).status()
    word = "running" if state.running else "not running"
    of(context).console.print(f"{word} ({state.kind}) at {state.bootstrap}")
    if state.uptime_s is not None:
        of(context).console.print(f"process {state.pid}, up {state.uptime_s:.0f} s")
    if state.data_bytes is not None:
        of(context).console.print(f"log on disk: {state.data_bytes / 1e6:.1f} MB")
    if not state.running:
        raise typer.Exit(1)


@broker_app.command("logs")
def broker_logs(context: typer.Context, lines: Annotated[int, typer.Option("-n", help="how many")] = 40) -> None:
    """The last lines of the broker's own log."""
    for line in broker_of(of(context).settings).logs(lines):
        of(context).console.print(line)
