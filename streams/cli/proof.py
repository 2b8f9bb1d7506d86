"""Commands that measure and prove: bench, eval, faults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ruvllm.streams.cli.context import of, run
from ruvllm.streams.cli.faulting import faults
from ruvllm.streams.cli.learning_figures import judge, junk, memory, undo
from ruvllm.streams.cli.retrieval import paraphrases, retrieval
from ruvllm.streams.cli.routing import bench as router_bench
from ruvllm.streams.cli.routing import router_live, routing
from ruvllm.streams.cli.service import running_broker

bench_app = typer.Typer(help="Figures of speed, each beside its baseline.", no_args_is_help=True)
eval_app = typer.Typer(help="Figures of quality, each beside its control.", no_args_is_help=True)

Json = Annotated[Path | None, typer.Option("--json", help="write the whole report to this file")]
Seed = Annotated[int, typer.Option(help="all randomness follows from it")]


eval_app.command("retrieval")(retrieval)
eval_app.command("routing")(routing)
eval_app.command("router-live")(router_live)
eval_app.command("judge")(judge)
bench_app.command("junk")(junk)
bench_app.command("memory")(memory)
bench_app.command("undo")(undo)
bench_app.command("router")(router_bench)
eval_app.command("paraphrases")(paraphrases)


def register(app: typer.Typer) -> None:
    app.command()(faults)
    app.add_typer(bench_app, name="bench")
    app.add_typer(eval_app, name="eval")


def finish(console: Console, report: dict[str, Any], file: Path | None, shown: tuple[str, ...]) -> None:
    """Print the chosen results, and write the report."""
    from ruvllm.streams.proof.report import write_report

    for name in shown:
        console.print(f"{name}: {report[name]}")
    write_report(file, report)


@bench_app.command("pipeline")
def pipeline(
    context: typer.Context,
    requests: Annotated[int, typer.Option(min=10)] = 300,
    seed: Seed = 1,
    json: Json = None,
) -> None:
    """The answer path with instant handlers beside the same hops and transactions in bare aiokafka."""
    from ruvllm.streams.proof.bench_pipeline import bench_pipeline

    found = run(bench_pipeline(running_broker(context), requests=requests, seed=seed))
    finish(of(context).console, found, json, ("flow_ms", "raw_ms", "ratio_p50", "ratio_p95", "handlers_ms"))


@bench_app.command("replay")
def replay(
    context: typer.Context,
    events: Annotated[int, typer.Option(min=300)] = 60_000,
    seed: Seed = 1,
    json: Json = None,
) -> None:
    """Memory folded from the log, beside bare reading of it, in events a second."""
    from ruvllm.streams.proof.bench_replay import bench_replay

    found = run(bench_replay(running_broker(context), events=events, seed=seed))
    finish(of(context).console, found, json, ("sizes", "events_per_s", "fold_over_getmany", "replay_over_getmany"))


@bench_app.command("start")
def start(
    context: typer.Context,
    nodes: Annotated[int, typer.Option(min=100)] = 100_000,
    seed: Seed = 1,
    json: Json = None,
) -> None:
    """How soon a worker's memory answers: from the log alone, and from a snapshot."""
    from ruvllm.streams.proof.bench_start import bench_start

    found = run(bench_start(running_broker(context), nodes=nodes, seed=seed))
    finish(of(context).console, found, json, ("sizes", "from_log", "from_snapshot"))


@eval_app.command("answers")
def answers(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(help="corpus/ and questions.jsonl; none: the packaged corpus")
    ] = None,
    tiers: Annotated[str | None, typer.Option(help="comma-separated; none: all of the profile")] = None,
    limit: Annotated[int | None, typer.Option(help="the first so many questions only")] = None,
    paraphrases: Annotated[bool, typer.Option(help="ask the other wordings instead")] = False,
    seed: Seed = 1,
    json: Json = None,
) -> None:
    """The share of right answers by tier, with memory and without."""
    from ruvllm.streams.proof.corpus import demo_folder
    from ruvllm.streams.proof.eval_answers import eval_answers

    here = of(context)
    found = run(
        eval_answers(
            here.settings,
            folder or demo_folder(),
            tiers=tiers.split(",") if tiers else None,
            limit=limit,
            paraphrases=paraphrases,
            seed=seed,
            say=here.console.print,
        )
    )
    finish(here.console, found, json, ("tiers",))
