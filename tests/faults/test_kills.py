"""Workers die, freeze and lose their broker; nothing is lost and nothing happens twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ruvllm.streams.broker.files import KafkaFiles
from ruvllm.streams.broker.local import LocalBroker
from ruvllm.streams.client import Client
from ruvllm.streams.proof.aftermath import COUNTS
from ruvllm.streams.proof.cluster import Cluster
from ruvllm.streams.proof.corpus import demo_folder
from ruvllm.streams.proof.faults import FLAGS, KafkaOfOurOwn, broker_of_our_own, run_faults
from ruvllm.streams.proof.schedule import KINDS, Plan
from ruvllm.streams.topology import Process

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

ECHO = {**FLAGS, "kafka.partitions": "2"}
AWAY_S = 30.0
PROCESSES: tuple[Process, ...] = ("answer", "pool")


@pytest.fixture
def own_kafka(kafka_files: KafkaFiles) -> Iterator[KafkaOfOurOwn]:
    with broker_of_our_own(kafka_files.folder) as broker:
        yield broker


CORPUS = demo_folder() / "corpus"


async def test_a_dozen_kills_and_all_else_lose_and_double_nothing(own_kafka: KafkaOfOurOwn) -> None:
    # given a broker of its own and a plan of 12 kills; when all kinds of faults and oddities meet a run
    plan = Plan(seed=7, kills=12, requests=60, sessions=4, limit_s=300)
    found = await run_faults(own_kafka.bootstrap, CORPUS, plan, broker=own_kafka)
    # then nothing is lost or doubled, memory is what it would have been, and every planned kind has happened
    assert found["findings"] == []
    assert found["kills"] >= 12
    assert found["fold_equal"] and not any(found[name] for name in COUNTS)
    assert set(found["done"]) >= set(KINDS) - {"disk-full"}  # that one needs the right to mount


async def test_without_the_fence_a_zombie_does_harm_that_the_harness_finds(own_kafka: KafkaOfOurOwn) -> None:
    # given owners that fence nobody; when they freeze between send and commit and wake as zombies
    plan = Plan(seed=3, kills=40, requests=80, only=frozenset({"zombie"}), limit_s=25)
    found = await run_faults(own_kafka.bootstrap, CORPUS, plan, broker=own_kafka, without=("fence",))
    # then something happened twice
    assert found["answered_twice"] + found["effects_doubled"] > 0


async def test_without_the_ledger_a_kill_does_harm_that_the_harness_finds(own_kafka: KafkaOfOurOwn) -> None:
    # given consumers that commit what was delivered; when workers are killed with work under way
    plan = Plan(seed=1, kills=8, requests=80, only=frozenset({"kill"}), limit_s=25)
    slow = {"kafka.commit_interval_s": "0.05", "generation.echo_delay_s": "0.3"}
    found = await run_faults(own_kafka.bootstrap, CORPUS, plan, broker=own_kafka, without=("ledger",), flags=slow)
    # then something is lost
    assert found["lost"] + found["effects_lost"] > 0


async def test_a_pool_killed_during_generation_answers_after_its_restart(kafka: str) -> None:
    with Cluster(kafka, {**ECHO, "generation.echo_delay_s": "1.5"}) as cluster:
        for process in PROCESSES:
            cluster.spawn(process, process)
        await cluster.until_ready()
        async with Client(kafka, settings=cluster.settings) as client:
            request_id = await client.submit("survive", grounding="open")
            while (await _health(cluster, "pool"))["generate"]["open"] == 0:
                await asyncio.sleep(0.05)
            os.kill(cluster.members["pool"].pid, signal.SIGKILL)
            cluster.members["pool"].child.wait()
            cluster.spawn("pool", "pool")
            answer = await client.response(request_id, timeout_s=60)
    assert answer.ok


async def test_sigterm_finishes_what_is_under_way_and_ends_cleanly(kafka: str) -> None:
    with Cluster(kafka, {**ECHO, "generation.echo_delay_s": "1.5"}) as cluster:
        for process in PROCESSES:
            cluster.spawn(process, process)
        await cluster.until_ready()
        pool = cluster.members["pool"]
        async with Client(kafka, settings=cluster.settings) as client:
            request_id = await client.submit("finish this", grounding="open")
            while (await _health(cluster, "pool"))["generate"]["open"] == 0:
                await asyncio.sleep(0.05)
            os.kill(pool.pid, signal.SIGTERM)
            answer = await client.response(request_id, timeout_s=30)
        assert await asyncio.to_thread(pool.child.wait, 30) == 0
    assert answer.ok


async def test_the_broker_may_be_away_at_the_start_and_for_a_while(
    make_broker: Callable[[], LocalBroker], tmp_path: Path
) -> None:
    broker = make_broker()
    await asyncio.to_thread(broker.start)
    await asyncio.to_thread(broker.stop)  # its log exists, nobody answers
    with Cluster(broker.bootstrap, ECHO) as cluster:
        for process in PROCESSES:
            cluster.spawn(process, process)
        await asyncio.sleep(3)
        assert all(m.alive for m in cluster.members.values()), "a worker waits for its broker"
        await asyncio.to_thread(broker.start)
        await cluster.until_ready()
        async with Client(broker.bootstrap, settings=cluster.settings) as client:
            assert (await client.ask("before", grounding="open")).ok
            request_id = await client.submit("just before it goes", grounding="open")
            await asyncio.to_thread(broker.stop)
            await asyncio.sleep(AWAY_S)
            await asyncio.to_thread(broker.start)
            assert (await client.response(request_id, timeout_s=90)).ok
            assert (await client.ask("after", grounding="open", deadline_s=90)).ok
        assert all(m.alive for m in cluster.members.values())


async def _health(cluster: Cluster, name: str) -> dict[str, dict[str, int]]:
    state = await asyncio.to_thread(cluster.processes.state, name)
    return dict(state.report["stages"]) if state.report else {"generate": {"open": 0}}
