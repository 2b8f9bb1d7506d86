"""Workers die, freeze and lose their broker; nothing is lost and nothing happens twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ruvllm.streams.broker.local import LocalBroker
from ruvllm.streams.client import Client
from ruvllm.streams.proof.cluster import Cluster
from ruvllm.streams.proof.corpus import demo_folder
from ruvllm.streams.proof.faults import FLAGS, Plan, run_faults
from ruvllm.streams.topology import Process

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

ECHO = {**FLAGS, "kafka.partitions": "2"}
AWAY_S = 30.0
PROCESSES: tuple[Process, ...] = ("answer", "pool")


async def test_random_and_aimed_kills_and_a_zombie_lose_and_double_nothing(kafka: str) -> None:
    plan = Plan(requests=60, sessions=4, kills=3, aimed=2, zombies=1, seed=7, limit_s=240)
    found = await run_faults(kafka, demo_folder() / "corpus", plan)
    for name in ("lost", "answered_twice", "effects_lost", "effects_doubled", "order_inversions", "errors"):
        assert found[name] == 0, found["findings"]
    assert found["fold_equal"]
    assert found["done"] == found["planned"] == {"kills": 3, "aimed": 2, "zombies": 1}
    assert found["findings"] == []


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
