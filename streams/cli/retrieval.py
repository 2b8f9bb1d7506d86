"""`ruvllm eval retrieval`: what learning from outcomes does to what is found."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ruvllm.streams.cli.context import of, run


class Protocols(StrEnum):
    """What is learnt from, and what is asked."""

    heldout = "heldout"
    repeat = "repeat"
    paraphrase = "paraphrase"
    stream = "stream"
    noise = "noise"
    shift = "shift"
    labels = "labels"


class Feedbacks(StrEnum):
    """What the system is told of its answers."""

    scalar = "scalar"
    served = "served"
    answers = "answers"
    gold = "gold"


USUAL_NOISE = 0.2


def retrieval(
    context: typer.Context,
    folders: Annotated[list[Path], typer.Argument(help="folders with corpus.jsonl.gz and queries.jsonl.gz")],
    protocol: Annotated[Protocols, typer.Option(help="what is learnt from, and what is asked")] = Protocols.heldout,
    feedback: Annotated[Feedbacks, typer.Option(help="what the system is told of its answers")] = Feedbacks.answers,
    seeds: Annotated[int, typer.Option(min=1, help="runs with other folds and starts")] = 5,
    noise: Annotated[float, typer.Option(min=0, max=1, help="share of wrong feedback (noise: 0.2)")] = 0.0,
    json: Annotated[Path | None, typer.Option(help="write the whole report to this file")] = None,
    plot: Annotated[Path | None, typer.Option(help="write a picture (PNG); beside --json if not named")] = None,
) -> None:
    """Rankers side by side on questions with known passages: bm25, vectors, hybrid, pagerank, frozen, learned."""
    from ruvllm.streams.proof.report import write_report

    console = of(context).console
    if protocol is Protocols.noise and not noise:
        noise = USUAL_NOISE
    found = _measured(context, folders, protocol, feedback, seeds, noise)
    for name, row in found["sets"].items():
        shown = "  ".join(f"{ranker} {100 * values['r@5']:.1f}" for ranker, values in row["rankers"].items())
        gain = row["learned_minus_hybrid"]
        low, high = (100 * bound for bound in gain["ci95"])
        console.print(f"{name} (n = {row['n']}), recall at 5: {shown}")
        console.print(
            f"  learned less hybrid: {100 * gain['r@5']:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"
        )
    write_report(json, found)
    picture = plot or (json.with_suffix(".png") if json else None)
    if picture:
        from ruvllm.streams.proof.retrieval_plot import plot as draw

        draw(found, picture)
        console.print(f"picture: {picture}")


def _measured(
    context: typer.Context, folders: list[Path], protocol: str, feedback: str, seeds: int, noise: float
) -> dict[str, Any]:
    from ruvllm.streams.clock import SystemClock
    from ruvllm.streams.proof.eval_retrieval import Evaluation, check
    from ruvllm.streams.proof.report import report
    from ruvllm.streams.proof.retrieval_bench import Bench
    from ruvllm.streams.proof.retrieval_scores import curve_of, learned_minus_hybrid, summary
    from ruvllm.streams.proof.retrieval_sets import load_sets
    from ruvllm.streams.wiring import Wiring

    settings = of(context).settings
    console = of(context).console
    pooled = load_sets(folders, paraphrased=settings.home / "paraphrases")
    check(pooled, protocol, feedback)  # type: ignore[arg-type]
    console.print(f"{len(pooled.passages)} passages, {len(pooled.queries)} questions; embedding what is not kept yet")
    embedder = Wiring(settings, SystemClock()).embedder
    bench = Bench(pooled, embedder, settings.home / "cache" / "embeddings")
    evaluation = Evaluation(bench, feedback=feedback, noise=noise, seeds=seeds, say=console.print)  # type: ignore[arg-type]
    evaluation.run(protocol)  # type: ignore[arg-type]
    queries, scores, curve, axis = pooled.queries, evaluation.scores, evaluation.curve, evaluation.axis
    measured = scores.measured(queries)
    together = {"n": len(measured), "learned_minus_hybrid": learned_minus_hybrid(scores, measured)}
    if curve:
        together["curve"] = curve_of(curve, axis, queries)
    sizes = {"passages": len(pooled.passages), "questions": len(pooled.queries), "noise": noise}
    gates = [{"passed": v.passed, "gain": round(v.gain, 4), "questions": v.questions} for v in evaluation.verdicts]
    return report(
        "ruvllm eval retrieval",
        seed=1,
        sizes={**sizes, "embedder": embedder.name},
        results={
            "protocol": str(protocol),
            "feedback": str(feedback),
            "seeds": seeds,
            "sets": summary(scores, curve, axis, pooled.sets(), queries),
            "pooled": together,
            "gates": gates,
        },
    )


def paraphrases(
    context: typer.Context,
    folders: Annotated[list[Path], typer.Argument(help="folders with corpus.jsonl.gz and queries.jsonl.gz")],
    minutes: Annotated[float, typer.Option(min=0, help="stop after this long; a second run goes on")] = 60.0,
    json: Annotated[Path | None, typer.Option(help="write the whole report to this file")] = None,
) -> None:
    """The questions in other words, by the largest local model, for `eval retrieval --protocol paraphrase`."""
    from ruvllm.streams.proof.report import report, write_report

    settings = of(context).settings
    made = run(_paraphrased(context, folders, minutes * 60))
    write_report(json, report("ruvllm eval paraphrases", seed=0, sizes={"profile": settings.profile}, results=made))


async def _paraphrased(context: typer.Context, folders: list[Path], seconds: float) -> dict[str, Any]:
    from ruvllm.streams.clock import SystemClock
    from ruvllm.streams.proof.paraphrases import make_paraphrases
    from ruvllm.streams.proof.retrieval_sets import load_sets
    from ruvllm.streams.wiring import Wiring

    settings, console = of(context).settings, of(context).console
    pooled = load_sets(folders)
    wiring = Wiring(settings, SystemClock())
    tier = wiring.tiers[-1]
    deadline = time.monotonic() + seconds
    results = {}
    try:
        for done, name in enumerate(pooled.sets()):
            results[name] = await make_paraphrases(
                [q for q in pooled.queries if q.of_set == name],
                settings.home / "paraphrases" / f"{name}.jsonl.gz",
                wiring.pool,
                tier,
                wiring.templates[tier],
                seconds=(deadline - time.monotonic()) / (len(pooled.sets()) - done),
                time_budget_s=settings.generation.time_budget_s,
                say=lambda text, name=name: console.print(f"{name}: {text}"),  # type: ignore[misc]
            )
            row = results[name]
            console.print(
                f"{name}: {row['paraphrased']} of {row['questions']} questions have a paraphrase, "
                f"token overlap with the original {row['overlap']}: {row['file']}"
            )
    finally:
        await wiring.close()
    return {"tier": tier, "sets": results}
