"""Loop A on real Kafka: feedback becomes an outcome, an outcome becomes memory, memory another answer."""

from __future__ import annotations

import pytest

from ruvllm.schemas.memory import NodeAdded
from ruvllm.streams.client import Client
from ruvllm.streams.ingest import until_folded
from ruvllm.streams.lineage import learnt_from
from ruvllm.streams.proof.cluster import Cluster
from ruvllm.streams.wiring import names_of

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
