"""Loop A on real Kafka: feedback becomes an outcome, an outcome becomes memory, memory another answer."""

from __future__ import annotations

import asyncio
import time

import pytest

from ruvllm.agents.rankers import Rankers
from ruvllm.agents.routers import Routers
from ruvllm.schemas.memory import NodeAdded
from ruvllm.streams.client import Client
from ruvllm.streams.clock import SystemClock
from ruvllm.streams.connection import connected
from ruvllm.streams.ingest import until_folded
from ruvllm.streams.learned_view import LearnedView
from ruvllm.streams.lineage import learnt_from
from ruvllm.streams.proof.cluster import Cluster
from ruvllm.streams.sender import Sender
from ruvllm.streams.trainer import learnings, train_and_publish
from ruvllm.streams.wiring import Wiring, names_of

pytestmark = pytest.mark.kafka

QUESTION = "Who winds the harbour clock of Tarn Vessel?"


async def test_a_correction_is_learnt_and_answers_the_next_time(cluster: Cluster) -> None:
    names = names_of(cluster.settings)
    async with Client(cluster.bootstrap, settings=cluster.settings) as client:
        # given a question that memory cannot answer; when its answer is corrected
        first = await client.ask(QUESTION, grounding="open")
        assert "Ada Quill" not in first.text
        await client.feedback(first, correction="Ada Quill winds the harbour clock of Tarn Vessel.")
        learnt = await learnt_from(cluster.bootstrap, names, first.interaction_id, by="task")
        # then the outcome says so, and memory has a question and its answer
        assert learnt.outcome.quality == 0.0
        assert learnt.outcome.accepted == "Ada Quill winds the harbour clock of Tarn Vessel."
        assert {c.node_kind for c in learnt.changes if isinstance(c, NodeAdded)} == {"question", "answer"}
        # and the same question is answered from it
        await until_folded(cluster.bootstrap, names, learnt.offsets)
        second = await client.ask(QUESTION)
    assert "Ada Quill" in second.text
    assert second.sources[0].snippet == "Ada Quill winds the harbour clock of Tarn Vessel."


async def test_a_training_run_is_recorded_and_every_view_of_rankers_hears_of_it(cluster: Cluster) -> None:
    # given a few judged answers; when the ranker is trained; then the run is recorded with what it read, and is
    # held back: so few questions say nothing
    names = names_of(cluster.settings)
    sender = Sender(cluster.bootstrap, names, source="test")
    wiring = Wiring(cluster.settings, SystemClock())
    routers = Routers(wiring.untrained_router)
    learning = learnings(wiring, Rankers(), routers)["attention"]
    async with connected(cluster.bootstrap, sender):
        recorded = await train_and_publish(cluster.bootstrap, sender, SystemClock(), learning, seed=1)
    assert set(recorded.offsets) == {"interaction.recorded", "candidates.credited"}
    assert (recorded.verdict.passed, recorded.checkpoint) == (False, None)
    # and a process that starts now knows it
    view = LearnedView(cluster.bootstrap, names, routers=routers)
    await view.start()
    try:
        give_up_at = time.monotonic() + 30
        while view.rankers.last_run is None or view.rankers.last_run.run_id != recorded.run_id:
            assert time.monotonic() < give_up_at
            await asyncio.sleep(0.1)
        assert view.rankers.current() is None
    finally:
        await view.stop()
