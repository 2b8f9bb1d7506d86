"""`ruvllm eval judge`: how well the judge tells right answers from wrong ones, and what that costs.

Labelled pairs are split by passage: the weights come from one half (`fit`), every figure from the other.
The cheap judge alone is the control of the cheap judge with a large model where it wavers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from ruvllm.errors import InvalidDocument
from ruvllm.models.judge.asking import choice
from ruvllm.models.judge.fitting import Pair, auc, calibration_errors, fit_weights, learnable
from ruvllm.models.judge.item import Item, Judgement, Served
from ruvllm.models.judge.judge import Judge
from ruvllm.models.judge.signals import NEUTRAL_CONFIDENCE
from ruvllm.models.judge.weights import Weights, packaged_weights
from ruvllm.streams.clock import SystemClock
from ruvllm.streams.proof.report import quantiles_ms, report
from ruvllm.streams.settings import Settings
from ruvllm.streams.wiring import Wiring

BUDGET_S: Final = 120.0
Say = Callable[[str], None]


def load_pairs(file: Path) -> list[Pair]:
    """Labelled pairs, one JSON object a line. Raises InvalidDocument naming file and line."""
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise InvalidDocument(f"{file} does not exist", hint="Name a file of labelled pairs (JSON lines).") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        try:
            pairs.append(_pair(orjson.loads(line)))
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise InvalidDocument(
                f"{file}, line {number}: {error!r}", hint="See tests/data/judge_pairs.jsonl."
            ) from error
    return pairs


def _pair(raw: dict[str, Any]) -> Pair:
    item = Item(
        question=raw["question"],
        answer=raw["answer"],
        served=tuple(Served(str(s["node_id"]), s["text"]) for s in raw["served"]),
        abstained=False,  # the judge has to see it for itself
        confidence=float(raw.get("confidence", NEUTRAL_CONFIDENCE)),
    )
    return Pair(str(raw["id"]), raw["kind"], bool(raw["label"]), raw["passage"], item)


async def eval_judge(
    settings: Settings, file: Path, *, tier: str | None, costly: bool, seed: int, say: Say = lambda _: None
) -> dict[str, Any]:
    """Judge the test half. `tier`: who is asked where the cheap judge wavers; none: the profile's largest."""
    pairs = [pair for pair in load_pairs(file) if not pair.training]
    random.Random(seed).shuffle(pairs)  # so that no prompt follows one about the same passage
    wiring = Wiring(settings, SystemClock())
    judge = Judge(packaged_weights(), wiring.embedder.embed)
    judge.judge(pairs[0].item)
    cheap, cheap_s = [], []
    for pair in pairs:
        started = time.perf_counter()
        cheap.append(judge.judge(pair.item))
        cheap_s.append(time.perf_counter() - started)
    results: dict[str, Any] = {"cheap": _figures(pairs, cheap), "cheap_ms": quantiles_ms(cheap_s)}
    say(f"cheap alone: {_line(results['cheap'])}; {results['cheap_ms']['p50']} ms an item")
    doubtful = [at for at, judgement in enumerate(cheap) if judge.uncertain(judgement)]
    results["share_uncertain"] = round(len(doubtful) / len(pairs), 4)
    tier = tier or wiring.tiers[-1]
    if costly:
        try:
            log_odds, costly_s = await _ask(wiring, tier, judge, [pairs[at] for at in doubtful], say)
        finally:
            await wiring.close()
        both = list(cheap)
        for at, odds in zip(doubtful, log_odds, strict=True):
            both[at] = judge.with_log_odds(cheap[at], odds)
        results |= {"with_costly": _figures(pairs, both), "costly_ms": quantiles_ms(costly_s)}
        results["uncertain_only"] = {
            "cheap": _overall([pairs[at] for at in doubtful], [cheap[at] for at in doubtful]),
            "with_costly": _overall([pairs[at] for at in doubtful], [both[at] for at in doubtful]),
        }
        say(f"with {tier} where it wavers ({len(doubtful)} of {len(pairs)}): {_line(results['with_costly'])}")
    sizes: dict[str, Any] = {
        "pairs": len(pairs),
        "passages": len({p.passage for p in pairs}),
        "profile": settings.profile,
    }
    sizes |= {"embedder": wiring.embedder.name, "tier": tier if costly else None}
    return report("ruvllm eval judge", seed=seed, sizes=sizes, results=results)


async def fit_judge(
    settings: Settings, file: Path, *, tier: str | None, costly: bool, say: Say = lambda _: None
) -> Weights:
    """Weights from the training half. Without `costly` the log odds recorded with the present weights are kept."""
    pairs = load_pairs(file)
    wiring = Wiring(settings, SystemClock())
    embedder = wiring.embedder
    tier = tier or wiring.tiers[-1]
    if costly:
        model = wiring.profile.tier(tier).model
        unasked = fit_weights(pairs, embedder.embed, {}, embedder=embedder.name, model=model)
        chosen = learnable(pairs)
        try:
            asked, _ = await _ask(wiring, tier, Judge(unasked, embedder.embed), chosen, say)
        finally:
            await wiring.close()
        log_odds = {pair.id: odds for pair, odds in zip(chosen, asked, strict=True)}
    else:
        log_odds, model = packaged_weights().fitted_on["log_odds"], packaged_weights().joined_with
    weights = fit_weights(pairs, embedder.embed, log_odds, embedder=embedder.name, model=model)
    say(f"fitted to {weights.fitted_on['pairs']} pairs of {weights.fitted_on['passages']} passages")
    return weights


def weights_file() -> Path:
    """Where the packaged weights lie."""
    return Path(str(files("ruvllm.models.judge"))) / "weights.json"


async def _ask(
    wiring: Wiring, tier: str, judge: Judge, pairs: Sequence[Pair], say: Say
) -> tuple[list[float], list[float]]:
    """Log odds and seconds by pair; the model is loaded before the first is timed."""
    template = wiring.templates[tier]
    found: list[float] = []
    seconds: list[float] = []
    for pair in [pairs[0], *pairs] if pairs else []:
        asked = choice(pair.item, judge.judge(pair.item), template, time_budget_s=BUDGET_S)
        started = time.perf_counter()
        found.append(await wiring.pool.log_odds(tier, asked))
        seconds.append(time.perf_counter() - started)
        if len(found) % 25 == 0:
            say(f"{tier} was asked {len(found)} times")
    return found[1:], seconds[1:]


def _figures(pairs: Sequence[Pair], judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Overall, and by kind: accuracy at success 0.5, and for each wrong kind its AUC against all right pairs."""
    by_kind: dict[str, Any] = {}
    rows = list(zip(pairs, judgements, strict=True))
    right = [(p, j) for p, j in rows if p.right]
    for kind in sorted({p.kind for p in pairs}):
        own = [(p, j) for p, j in rows if p.kind == kind]
        by_kind[kind] = {
            "n": len(own),
            "accuracy": round(float(np.mean([(j.success > 0.5) == p.right for p, j in own])), 4),
        }
        if not own[0][0].right and right:
            scores = np.array([j.success for _, j in [*right, *own]])
            by_kind[kind]["auc"] = round(auc(scores, [p.right for p, _ in [*right, *own]]), 4)
    return {**_overall(pairs, judgements), "by_kind": by_kind}


def _overall(pairs: Sequence[Pair], judgements: Sequence[Judgement]) -> dict[str, float]:
    success = np.array([j.success for j in judgements])
    truth = [p.right for p in pairs]
    brier, ece = calibration_errors(success, truth)
    return {
        "auc": round(auc(success, truth), 4),
        "auc_quality": round(auc(np.array([j.quality for j in judgements]), truth), 4),
        "accuracy": round(float(np.mean((success > 0.5) == np.array(truth))), 4),
        "brier": round(brier, 4),
        "ece": round(ece, 4),
    }


def _line(figures: dict[str, Any]) -> str:
    return ", ".join(f"{name} {figures[name]:.3f}" for name in ("auc", "accuracy", "brier", "ece"))
