"""`ruvllm router`: what routes requests now, why, what it would cost otherwise, where it came from, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ruvllm.streams.cli.context import of, run
from ruvllm.streams.cli.memory_source import folded
from ruvllm.streams.cli.service import bootstrap_of

if TYPE_CHECKING:
    from ruvllm.agents.routers import Routers
    from ruvllm.streams.wiring import Wiring

router_app = typer.Typer(help="The router: which model answers, and how that is learnt.", no_args_is_help=True)
Tenant = Annotated[str, typer.Option(help="whose memory and past")]


def register(app: typer.Typer) -> None:
    for command in (show, decide, curve, history, rollback):
        router_app.command()(command)
    app.add_typer(router_app, name="router")


def show(context: typer.Context, tenant: Tenant = "default") -> None:
    """The checkpoint in force: lineage, calibration, what it may choose, and the past that it estimates from."""
    from ruvllm.streams.history.source import KafkaSource
    from ruvllm.streams.router_tools import past_now
    from ruvllm.streams.tainted import tainted_checkpoints

    here = of(context)
    wiring, routers = _learned(context)
    router = routers.current()
    checkpoint, parameters = router.checkpoint, router.checkpoint.parameters
    say = here.console.print
    say(f"checkpoint {checkpoint.id}" + ("" if checkpoint.parent else ": untrained, every request takes the default"))
    say(f"lineage {' <- '.join(_lineage(routers)) or 'none'}")
    tainted = run(tainted_checkpoints(KafkaSource(bootstrap_of(here.settings), wiring.names)))
    if checkpoint.id in tainted.get("router", ()):
        say("tainted: it has learnt from answers that were taken back since; the next run replaces or demotes it")
    runs = [run for run in routers.runs if run.checkpoint == checkpoint.id]
    for recorded in runs[-1:]:
        say(f"learnt from {recorded.examples} answers on {recorded.time:%Y-%m-%d %H:%M}")
        for name, value in recorded.measures.items():
            say(f"  {name.replace('_', ' ')} {value:.3f}")
    slope, intercept = parameters.calibration.tolist()
    say(
        f"confidence = familiarity * sigmoid({slope:.2f} logit {intercept:+.2f}); density of W {parameters.density:.2f}"
    )
    table = Table("tier", "tried", "cost", "judged answers kept", box=None)
    counts = run(past_now(bootstrap_of(here.settings), wiring)).counts(tenant)
    for row, tier in enumerate(router.arms.tiers):
        tried = "yes" if checkpoint.tried["tier"][row] else "hardly"
        table.add_row(tier, tried, f"{float(parameters.costs[row].mean()):.2f}", str(counts[row]))
    here.console.print(table)


def decide(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="a question")],
    tenant: Tenant = "default",
    features: Annotated[bool, typer.Option(help="list the features that are not zero")] = False,
) -> None:
    """What would route a question now, and why. Nothing is asked or written."""
    from ruvllm.models.router.features import FEATURES, PROJECTED
    from ruvllm.streams.router_tools import by_tier, past_now
    from ruvllm.streams.router_tools import decide as decision

    here = of(context)
    wiring, routers = _learned(context)
    router, memory = routers.current(), folded(context, None).memory
    past = run(past_now(bootstrap_of(here.settings), wiring))
    routed = run(decision(prompt, wiring, memory, router, past, tenant=tenant))
    taken = routed.route
    expected, preferred = by_tier(router, routed)
    table = Table("tier", "quality", "seconds", "cost", "value", "", box=None)
    for tier, of_it in expected.items():
        value = router.objective.score(of_it.quality, of_it.cost, of_it.latency_s)[1]
        mark = "taken" if tier == taken.tier else ""
        table.add_row(
            tier, f"{of_it.quality:.3f}", f"{of_it.latency_s:.1f}", f"{of_it.cost:.2f}", f"{value:+.3f}", mark
        )
    here.console.print(table)
    objective = router.objective
    here.console.print(
        f"{taken.tier}, context {taken.context_tokens}, temperature {taken.temperature:g}, top_p {taken.top_p:g}; "
        f"value = quality - {objective.cost_weight:g} cost - {objective.latency_weight:g} time over {objective.sla_s} s"
    )
    why = "under the threshold: the default route" if preferred.fallback else "at or over the threshold"
    here.console.print(f"confidence {taken.confidence:.3f}, {why} {router.confidence_threshold:g}")
    if features:
        for feature, value in list(zip(FEATURES, taken.features.tolist(), strict=True))[PROJECTED:]:
            if value:
                here.console.print(f"  {feature.name} {value:.3f}  {feature.meaning}")


def curve(context: typer.Context) -> None:
    """Quality and cost that the checkpoint expects over the log's requests, as the weight of cost grows."""
    from ruvllm.agents.routers import RouterCourse
    from ruvllm.streams.router_tools import curve as points
    from ruvllm.streams.router_tools import events_of

    here = of(context)
    wiring, routers = _learned(context)
    course = wiring.new_courses()["router"]()
    assert isinstance(course, RouterCourse)

    async def gather() -> None:
        for kind in course.kinds:
            async for event in events_of(bootstrap_of(here.settings), wiring, kind):
                course.take(event)

    run(gather())
    router = routers.current()
    table = Table("cost weight", "quality", "cost", *router.arms.tiers, box=None)
    for point in points(router, list(course.lessons())):
        shares = (f"{100 * point.shares[tier]:.0f} %" for tier in router.arms.tiers)
        table.add_row(f"{point.cost_weight:g}", f"{point.quality:.3f}", f"{point.cost:.3f}", *shares)
    here.console.print(table)


def history(context: typer.Context) -> None:
    """Every training run, and every checkpoint that was put in force."""
    here = of(context)
    _, routers = _learned(context)
    table = Table("time", "what", "checkpoint", "why", box=None)
    for recorded in routers.runs:
        verdict = recorded.verdict
        why = f"{verdict.gain:+.3f} ± {verdict.error or 0:.3f} on {verdict.questions} of {recorded.examples} answers"
        what = "run" if verdict.passed else "run, held back"
        table.add_row(f"{recorded.time:%Y-%m-%d %H:%M:%S}", what, recorded.checkpoint or "", why)
    for chosen in routers.chosen:
        table.add_row(f"{chosen.time:%Y-%m-%d %H:%M:%S}", "in force", chosen.checkpoint or "untrained", chosen.reason)
    here.console.print(table)


def rollback(
    context: typer.Context,
    to: Annotated[str | None, typer.Option(help="this checkpoint; without it the one in force before")] = None,
) -> None:
    """Put an earlier checkpoint in force, at once, in every serving process."""
    from ruvllm.agents.outbox import Emit
    from ruvllm.streams.connection import connected
    from ruvllm.streams.router_tools import roll_back
    from ruvllm.streams.sender import Sender

    here = of(context)
    wiring, routers = _learned(context)
    event = roll_back(wiring, routers, to)
    bootstrap = bootstrap_of(here.settings)

    async def send() -> None:
        sender = Sender(bootstrap, wiring.names, source="router-rollback")
        async with connected(bootstrap, sender):
            await sender.send([Emit(event)])

    run(send())
    here.console.print(f"{event.checkpoint or 'the untrained router'} serves from now on: {event.reason}")


def _learned(context: typer.Context) -> tuple[Wiring, Routers]:
    """This installation's wiring, its ranker as it serves, and the fold of its routers."""
    from ruvllm.streams.clock import SystemClock
    from ruvllm.streams.learned_log import learned_so_far
    from ruvllm.streams.wiring import Wiring

    settings = of(context).settings
    wiring = Wiring(settings, SystemClock())
    rankers, routers = run(learned_so_far(bootstrap_of(settings), wiring))
    wiring.ranker = rankers.current
    return wiring, routers


def _lineage(routers: Routers) -> list[str]:
    """Of what is in force: it, its parent, and so on, as far as runs are known."""
    parents = {recorded.checkpoint: recorded.parent for recorded in routers.runs if recorded.checkpoint}
    name: str | None = routers.current().checkpoint.id
    found = []
    while name is not None and name in parents:
        found.append(name)
        name = parents[name]
    return [*found, "untrained"] if found else []
