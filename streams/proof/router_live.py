"""Loop B in the running system: the share of small models rises and quality holds, beside a control that is frozen.

Requests go through Kafka and all three processes. What the models say was recorded before (`generation.backend =
recorded`), so that hundreds of requests take minutes; everything else is the service as it runs: the router draws
its routes with logged propensities, each answer is rated against what is known to be right, the learn process trains
by itself, and the serving process swaps between two requests. The control is another installation, with the same
requests, in which the router's loop is off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from ruvllm.errors import InvalidConfiguration
from ruvllm.models.pool.recorded import load_recordings
from ruvllm.schemas.event import Event
from ruvllm.schemas.flow import Interaction, Route
from ruvllm.schemas.training import CheckpointChosen, TrainingRecorded
from ruvllm.streams.client import Client
from ruvllm.streams.guard import read
from ruvllm.streams.ingest import documents_in, ingest
from ruvllm.streams.log_reader import read_to_end
from ruvllm.streams.model_files import packaged_catalogue
from ruvllm.streams.proof.cluster import Cluster
from ruvllm.streams.proof.corpus import Question, demo_folder, is_right, load_questions
from ruvllm.streams.proof.report import report
from ruvllm.streams.topology import Process, topic
from ruvllm.streams.wiring import names_of

Say = Callable[[str], None]
WINDOWS: Final = 6
PACE_S: Final = 0.4
"""Between two requests: the loops have time to work beside them."""
FLAGS: Final = {
    "profile": "small",
    "generation.backend": "recorded",
    "router.exploration": "0.6",
    "router.cost_weight": "0.2",
    "router.confidence_threshold": "0.3",
    "learning.costly_judge": "false",
    "learning.train_every_s": "5",
    "learning.train_after": "100",
}


async def router_live(
    bootstrap: str, recorded: Sequence[Path], *, requests: int, seed: int, flags: dict[str, str], say: Say
) -> dict[str, Any]:
    """Run both installations; shares, quality and cost by window. Raises InvalidConfiguration without recordings."""
    asked = _asked(tuple(recorded), requests, seed)
    files = orjson.dumps([str(file.absolute()) for file in recorded]).decode()
    results = {}
    for name, learns in (("learning", "true"), ("frozen", "false")):
        say(f"{name}: {requests} requests, {len({text for text, _ in asked})} different questions")
        given = {**FLAGS, "generation.recorded": files, "learning.router": learns, **flags}
        with Cluster(bootstrap, given) as cluster:
            results[name] = await _run(cluster, asked, say)
    return report(
        "ruvllm eval router-live",
        seed=seed,
        sizes={"requests": requests, "questions": len({text for text, _ in asked}), "windows": WINDOWS},
        results={"flags": FLAGS, **results},
    )


def _asked(files: tuple[Path, ...], requests: int, seed: int) -> list[tuple[str, Question]]:
    """Wordings that every tier has answered, at random, again and again."""
    recordings = load_recordings(files)
    by_wording = {w: q for q in load_questions(demo_folder()) for w in (q.question, *q.paraphrases)}
    tiers = [tier.tier for tier in packaged_catalogue().profile(FLAGS["profile"]).tiers]
    known = [w for w in by_wording if all(w in recordings.get(tier, {}) for tier in tiers)]
    if not known:
        raise InvalidConfiguration(
            "no question of the packaged corpus is recorded for every tier",
            hint="`ruvllm eval answers --json FILE` records them; name the file with --recorded.",
        )
    drawn = np.random.default_rng(seed).choice(len(known), requests)
    return [(known[i], by_wording[known[i]]) for i in drawn]


async def _run(cluster: Cluster, asked: Sequence[tuple[str, Question]], say: Say) -> dict[str, Any]:
    processes: tuple[Process, ...] = ("answer", "pool", "learn")
    for process in processes:
        cluster.spawn(process, process)
    await cluster.until_ready()
    settings, names = cluster.settings, names_of(cluster.settings)
    await ingest(settings, cluster.bootstrap, documents_in([demo_folder() / "corpus"]))
    right: dict[str, bool] = {}
    async with Client(cluster.bootstrap, settings=settings) as client:
        for number, (text, question) in enumerate(asked, 1):
            response = await client.ask(text, max_tokens=48)
            right[response.interaction_id] = is_right(response.text, question.answers)
            await client.feedback(response, passed=right[response.interaction_id])
            await asyncio.sleep(PACE_S)
            if number % (len(asked) // WINDOWS) == 0:
                lately = list(right.values())[-(len(asked) // WINDOWS) :]
                say(f"  {number} asked; {100 * sum(lately) / len(lately):.0f} % of the last {len(lately)} right")
    interactions = _kept(cluster.bootstrap, names.topic(Interaction.topic), (Interaction,))
    routes = {
        e.interaction_id: e.route
        async for e in interactions
        if isinstance(e, Interaction) and e.route is not None and e.interaction_id in right
    }
    learnt = [
        e
        async for e in _kept(cluster.bootstrap, names.topic("training.recorded"), topic("training.recorded").events)
        if getattr(e, "learner", None) == "router"
    ]
    price = {tier.tier: tier.cost_per_token for tier in packaged_catalogue().profile(settings.profile).tiers}
    rows = [(routes[name], ok) for name, ok in right.items() if name in routes]
    return {
        "windows": [_window([rows[i] for i in part], price) for part in np.array_split(np.arange(len(rows)), WINDOWS)],
        "runs": [
            {"passed": e.verdict.passed, "gain": e.verdict.gain, "error": e.verdict.error, "answers": e.examples}
            | e.measures
            for e in learnt
            if isinstance(e, TrainingRecorded)
        ],
        "chosen": [e.checkpoint for e in learnt if isinstance(e, CheckpointChosen)],
        "served": list(dict.fromkeys(route.checkpoint for route, _ in rows)),
    }


async def _kept(bootstrap: str, kafka_topic: str, kinds: tuple[type[Event], ...]) -> AsyncIterator[Event]:
    async for record in read_to_end(bootstrap, kafka_topic):
        yield read(record, kinds)


def _window(rows: Sequence[tuple[Route, bool]], price: dict[str, float]) -> dict[str, Any]:
    """Of some requests: the share right, the mean price of a token, the share of each tier; greedy ones apart."""
    decided = [max(route.arms["tier"], key=route.arms["tier"].__getitem__) for route, _ in rows]
    count = len(rows)
    return {
        "requests": count,
        "right": round(sum(ok for _, ok in rows) / count, 4),
        "price": round(sum(price[route.tier] for route, _ in rows) / count, 4),
        "share": {t: round(sum(route.tier == t for route, _ in rows) / count, 4) for t in price},
        "decided": {t: round(sum(d == t for d in decided) / count, 4) for t in price},
        "by_default": round(sum(route.fallback for route, _ in rows) / count, 4),
    }
