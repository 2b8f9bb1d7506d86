"""`ruvllm eval judge`: how well the judge of answers tells right from wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
