"""Figures of Loop A: `ruvllm bench junk`, `bench memory`, `eval judge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ruvllm.streams.cli.context import of, run

PAIRS = Path("tests/data/judge_pairs.jsonl")


def judge(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="labelled pairs, JSON lines")] = PAIRS,
    tier: Annotated[str | None, typer.Option(help="whom to ask where it wavers; none: the largest")] = None,
    costly: Annotated[bool, typer.Option(help="ask a large model where the cheap judge wavers")] = True,
    fit: Annotated[
        bool, typer.Option("--fit", help="write the packaged weights from the training half, first")
    ] = False,
    seed: Annotated[int, typer.Option(help="all randomness follows from it")] = 1,
    json: Annotated[Path | None, typer.Option("--json", help="write the whole report to this file")] = None,
) -> None:
    """The judge of answers on labelled pairs that its weights have not seen, cheap alone and with a large model."""
    from ruvllm.streams.proof.eval_judge import eval_judge, fit_judge, weights_file
    from ruvllm.streams.proof.report import write_report

    here = of(context)
    if fit:
        weights = run(fit_judge(here.settings, file, tier=tier, costly=costly, say=here.console.print))
        weights_file().write_bytes(weights.to_json())
        here.console.print(f"written: {weights_file()}")
    found = run(eval_judge(here.settings, file, tier=tier, costly=costly, seed=seed, say=here.console.print))
    for name in ("cheap", "with_costly"):
        for kind, row in found.get(name, {}).get("by_kind", {}).items():
            area = f", AUC {row['auc']:.3f}" if "auc" in row else ""
            here.console.print(f"{name}, {kind} (n = {row['n']}): accuracy {row['accuracy']:.3f}{area}")
    for name in ("cheap_ms", "costly_ms", "share_uncertain"):
        if name in found:
            here.console.print(f"{name}: {found[name]}")
    write_report(json, found)


def junk(
    context: typer.Context,
    interactions: Annotated[int, typer.Option(min=100)] = 10_000,
    true_outcomes: Annotated[
        bool, typer.Option(help="not the cheap judge: a third wrong at first, then the truth")
    ] = False,
    seed: Annotated[int, typer.Option(help="all randomness follows from it")] = 1,
    json: Annotated[Path | None, typer.Option("--json", help="write the whole report to this file")] = None,
) -> None:
    """What memory keeps of interactions of which half were answered badly, and how much of that is junk."""
    from ruvllm.streams.clock import SystemClock
    from ruvllm.streams.proof.corpus import demo_folder
    from ruvllm.streams.proof.junk import bench_junk
    from ruvllm.streams.proof.report import write_report
    from ruvllm.streams.wiring import Wiring

    here = of(context)
    embedder = Wiring(here.settings, SystemClock()).embedder
    judge: Literal["truth", "cheap"] = "truth" if true_outcomes else "cheap"
    found = run(bench_junk(embedder, demo_folder() / "corpus", interactions=interactions, judge=judge, seed=seed))
    for name in ("answered_badly", "kept", "junk", "junk_share", "recalled_text_written_back", "ms_an_interaction"):
        here.console.print(f"{name}: {found[name]}")
    write_report(json, found)


def memory(
    context: typer.Context,
    nodes: Annotated[list[int] | None, typer.Option(help="how many nodes; several give a table")] = None,
    seed: Annotated[int, typer.Option(help="all randomness follows from it")] = 1,
    json: Annotated[Path | None, typer.Option("--json", help="write the whole report to this file")] = None,
) -> None:
    """Memory by its size: time to build, bytes a node, recall and latency, beside raw hnswlib."""
    from ruvllm.streams.proof.bench_memory import bench_memory
    from ruvllm.streams.proof.report import write_report

    found = bench_memory(nodes or [1_000, 10_000, 100_000], seed=seed, say=of(context).console.print)
    write_report(json, found)


def undo(
    context: typer.Context,
    interactions: Annotated[int, typer.Option(min=100, help="of a hundred clients, one of which is undone")] = 10_000,
    seed: Annotated[int, typer.Option(help="all randomness follows from it")] = 1,
    json: Annotated[Path | None, typer.Option("--json", help="write the whole report to this file")] = None,
) -> None:
    """Take back 1 % of a history, beside a fold of the log without it. Exit status 1 if the memories differ."""
    from ruvllm.streams.proof.bench_undo import bench_undo
    from ruvllm.streams.proof.report import write_report

    found = run(bench_undo(interactions, seed=seed))
    for name in ("sizes", "plan_s", "owner_s", "take_in_s", "fold_without_s", "times_faster", "equal"):
        of(context).console.print(f"{name}: {found[name]}")
    write_report(json, found)
    if not found["equal"]:
        raise typer.Exit(1)
