"""`ruvllm bench pipeline`: the answer path with instant handlers beside raw hops, in one run.

The flow is the real one (three processes' worth of stages, fenced desk, guards), with the echo
generator and the hashing embedder in place of models. The baseline is `raw_hops`: the same number of
aiokafka hops and the same transactions, nothing else. Both answer requests one at a time, in blocks
that take turns, so that the machine's moods meet both alike.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import NewTopic

from ruvllm.streams.client import Client
from ruvllm.streams.connection import connected
from ruvllm.streams.log_reader import listen_from_now
from ruvllm.streams.proof.cluster import Cluster
from ruvllm.streams.proof.raw_hops import HOPS, hop_topic, side_topic
from ruvllm.streams.proof.report import quantiles_ms, report
from ruvllm.streams.topics import admin

FLAGS = {"profile": "tiny", "generation.backend": "echo", "retrieval.embedder": "hashing"}
WARM_UP = 64  # every partition several times: a producer's first transactions are slow


class RawPath:
    """The baseline's client: writes to the first hop, waits at the last."""

    def __init__(self, bootstrap: str, prefix: str, partitions: int) -> None:
        self._bootstrap, self._prefix, self._partitions = bootstrap, prefix, partitions
        self._waiting: dict[bytes, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make the topics, start the hops, connect; stop the hops in the end."""
        async with admin(self._bootstrap) as client:
            names = [hop_topic(self._prefix, h) for h in range(HOPS)] + [side_topic(self._prefix)]
            await client.create_topics([NewTopic(n, self._partitions, 1) for n in names])
        arguments = (self._bootstrap, self._prefix, str(self._partitions))
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ruvllm.streams.proof.raw_hops", *arguments, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert child.stdout is not None
            for _ in range(HOPS - 1):
                await asyncio.wait_for(child.stdout.readline(), 60)
            async with self._connected():
                yield
        finally:
            child.terminate()
            await child.wait()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap, acks="all", enable_idempotence=True, linger_ms=0
        )
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, group_id=None, isolation_level="read_committed")
        async with connected(self._bootstrap, self._producer, consumer):
            await listen_from_now(consumer, hop_topic(self._prefix, HOPS - 1))
            reader = asyncio.create_task(self._read(consumer))
            yield
            reader.cancel()
            await asyncio.wait({reader})

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        async for message in consumer:
            if (future := self._waiting.pop(message.key, None)) is not None and not future.done():
                future.set_result(None)

    async def ask(self, text: str, number: int) -> None:
        """One request through all hops; its value is as long as a request event."""
        key = f"raw-{number}".encode()
        future = self._waiting[key] = asyncio.get_running_loop().create_future()
        await self._producer.send_and_wait(
            hop_topic(self._prefix, 0), text.encode().ljust(512), key=key, partition=number % self._partitions
        )
        await asyncio.wait_for(future, 30)


async def bench_pipeline(bootstrap: str, *, requests: int = 300, block: int = 25, seed: int = 1) -> dict[str, Any]:
    """Latency of both paths, request by request. Returns the report."""
    with Cluster(bootstrap, FLAGS) as cluster:
        for process in ("answer", "pool"):
            cluster.spawn(process, process)
        await cluster.until_ready()
        settings = cluster.settings
        raw = RawPath(bootstrap, settings.kafka.prefix, settings.kafka.partitions)
        draws = random.Random(seed)
        async with raw.running(), Client(bootstrap, settings=settings) as client:
            flow_s: list[float] = []
            raw_s: list[float] = []
            stages: list[dict[str, float]] = []
            for number in range(WARM_UP):
                await client.ask(f"warm {number}", session=f"w{number}", grounding="open")
                await raw.ask("warm", number)
            for start in range(0, requests, block):
                for number in range(start, min(start + block, requests)):
                    started = time.perf_counter()
                    answer = await client.ask(f"request {draws.random()}", session=f"s{number}", grounding="open")
                    flow_s.append(time.perf_counter() - started)
                    stages.append(answer.raise_for_error().latency_ms)
                for number in range(start, min(start + block, requests)):
                    started = time.perf_counter()
                    await raw.ask("request", number)
                    raw_s.append(time.perf_counter() - started)
    own_ms = {
        stage: round(statistics.median(s[stage] for s in stages), 2) for stage in ("retrieve", "route", "generate")
    }
    flow, base = quantiles_ms(flow_s), quantiles_ms(raw_s)
    hops = {
        "hops": HOPS,
        "transactions": 2,
        "partitions": settings.kafka.partitions,
        "load": round(os.getloadavg()[0], 1),
    }
    return report(
        "ruvllm bench pipeline",
        seed=seed,
        sizes={"requests": requests, "block": block, **hops},
        results={
            "flow_ms": flow,
            "raw_ms": base,
            "ratio_p50": round(flow["p50"] / base["p50"], 3),
            "ratio_p95": round(flow["p95"] / base["p95"], 3),
            "handlers_ms": own_ms,
        },
    )
