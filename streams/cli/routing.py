"""`ruvllm eval routing`: what the router makes of questions whose outcomes are known, beside its baselines."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ruvllm.errors import InvalidRequest
from ruvllm.streams.cli.context import of
from ruvllm.streams.cli.service import running_broker


class RoutingProtocols(StrEnum):
    """What a learner is told, and when."""

    full = "full"
    bandit = "bandit"
    drift = "drift"
    forget = "forget"
    estimate = "estimate"
    sessions = "sessions"


def routing(
    context: typer.Context,
    data: Annotated[Path | None, typer.Option(help="questions with outcomes (.jsonl or .jsonl.gz), split here")] = None,
    labels: Annotated[int, typer.Option(min=1, help="of --data: so many at random are learnt from")] = 1500,
    train: Annotated[Path | None, typer.Option(help="instead of --data: what is learnt from")] = None,
    test: Annotated[Path | None, typer.Option(help="beside --train: what is tested")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="runs with other splits and starts")] = 5,
    protocol: Annotated[
        RoutingProtocols, typer.Option(help="what a learner is told, and when")
    ] = RoutingProtocols.full,
    learners: Annotated[str | None, typer.Option(help="comma-separated; none: all")] = None,
    block: Annotated[int, typer.Option(min=1, help="bandit, drift: requests between two updates")] = 100,
    json: Annotated[Path | None, typer.Option(help="write the whole report to this file")] = None,
    plot: Annotated[Path | None, typer.Option(help="write a picture (PNG); beside --json if not named")] = None,
) -> None:
    """Routers side by side: quality and cost on questions not learnt from, at no more than the best single's cost.

    Each line of a file: {"id", "domain", "prompt", "outcomes": {model: {"quality": 0..1, "cost": number}}}.
    """
    from ruvllm.streams.proof.report import write_report

    console = of(context).console
    found = _measured(context, data, labels, train, test, seeds, protocol, learners, block)
    for name, row in found.get("policies", {}).items():
        console.print(f"{name}: {_line(row)}")
    if single := found.get("best_single"):
        console.print(f"best single model: quality {single['quality']:.4f} at cost {single['cost']:.4g}")
    write_report(json, found)
    picture = plot or (json.with_suffix(".png") if json else None)
    if picture and found.get("policies"):
        from ruvllm.streams.proof.routing_plot import plot as draw

        draw(found, picture)
        console.print(f"picture: {picture}")


def router_live(
    context: typer.Context,
    recorded: Annotated[
        list[Path], typer.Option(help="reports of `eval answers`: what each tier said; may be repeated")
    ],
    requests: Annotated[int, typer.Option(min=60, help="in each of the two installations")] = 300,
    seed: Annotated[int, typer.Option(help="of the order of the questions")] = 1,
    json: Annotated[Path | None, typer.Option(help="write the whole report to this file")] = None,
) -> None:
    """The router's loop in the running system, with recorded answers of real models, beside a frozen control."""
    import asyncio

    from ruvllm.streams.proof.report import write_report
    from ruvllm.streams.proof.router_live import router_live as measure_live

    here = of(context)
    flags = {name: value for name, value in here.flags.items() if name.startswith(("router.", "learning."))}
    flags["models"] = str(here.settings.models_folder)
    bootstrap = running_broker(context)
    found = asyncio.run(
        measure_live(bootstrap, recorded, requests=requests, seed=seed, flags=flags, say=here.console.print)
    )
    for name in ("learning", "frozen"):
        for number, window in enumerate(found[name]["windows"], 1):
            shares = "  ".join(f"{tier} {100 * share:.0f} %" for tier, share in window["decided"].items())
            here.console.print(
                f"{name} {number}: right {100 * window['right']:.0f} %, price {window['price']:.2f}, decided {shares}"
            )
    write_report(json, found)


def _line(row: dict[str, Any]) -> str:
    said = f"quality {row['quality']:.4f} at cost {row['cost']:.4g}, reward {row['reward']:.4f}"
    if row["ci95"]:
        said += ", less the best single {:+.4f} to {:+.4f}".format(*row["ci95"])
    if row["apgr"] is not None:
        said += f", APGR {row['apgr']:.4f}, CPT50 {row['cpt50']:.3f}, CPT80 {row['cpt80']:.3f}"
    if row.get("regret"):
        said += f", regret {row['regret']['total']:.1f}"
    if row.get("drift"):
        said += ", reward before {before:.3f}, after {after:.3f}, end {end:.3f}".format(**row["drift"])
    if row.get("forgetting"):
        said += ", forgot {points:.2f} points".format(**row["forgetting"])
    return said


def _measured(
    context: typer.Context,
    data: Path | None,
    labels: int,
    train: Path | None,
    test: Path | None,
    seeds: int,
    protocol: RoutingProtocols,
    learners: str | None,
    block: int,
) -> dict[str, Any]:
    from ruvllm.streams.clock import SystemClock
    from ruvllm.streams.proof.eval_routing import LEARNERS
    from ruvllm.streams.proof.routing_run import measure
    from ruvllm.streams.proof.routing_sets import load_routing
    from ruvllm.streams.wiring import Wiring

    here = of(context)
    if (data is None) == (train is None) or (train is None) != (test is None):
        raise InvalidRequest("either --data, or --train and --test", hint="`ruvllm eval routing --help`")
    first = load_routing(data or train)  # type: ignore[arg-type]
    second = load_routing(test, models=first.models) if test else None
    questions = len(first) + (len(second) if second else 0)
    here.console.print(f"{questions} questions, {len(first.models)} models; embedding what is not kept yet")
    return measure(
        first,
        second,
        Wiring(here.settings, SystemClock()).embedder,
        here.settings.home / "cache" / "embeddings",
        protocol=protocol.value,
        labels=labels,
        seeds=seeds,
        names=tuple(name.strip() for name in learners.split(",")) if learners else LEARNERS,
        block=block,
        say=here.console.print,
    )


def bench(
    context: typer.Context,
    rounds: Annotated[int, typer.Option(min=10, help="each part so often, in turns")] = 3000,
    past: Annotated[int, typer.Option(min=10, help="judged answers that are estimated from")] = 2000,
    seed: Annotated[int, typer.Option(help="all randomness follows from it")] = 1,
    json: Annotated[Path | None, typer.Option(help="write the whole report to this file")] = None,
) -> None:
    """What one routing decision takes, part by part."""
    from ruvllm.streams.proof.bench_router import bench_router
    from ruvllm.streams.proof.report import write_report

    console = of(context).console
    found = bench_router(rounds=rounds, past=past, seed=seed)
    for name, taken in found["parts"].items():
        console.print(f"{name}: {taken['p50_us']:.1f} us, 95 % within {taken['p95_us']:.1f}")
    write_report(json, found)
