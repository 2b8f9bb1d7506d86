"""A process at work: its stages as Faust apps, their guards and owners, its health, and a clean end.

On SIGTERM or SIGINT it takes nothing new, finishes what is under way, commits, and leaves its groups,
so that others take over at once. If one of its apps crashes the process ends with an error: what
cannot work must not look alive.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import orjson
import structlog
from aiohttp import web

from ruvllm.agents.routers import Routers
from ruvllm.streams.clock import SystemClock
from ruvllm.streams.guard import Guard, Retry
from ruvllm.streams.health import Health, serve_health
from ruvllm.streams.learned_view import LearnedView
from ruvllm.streams.live_memory import memory_routes
from ruvllm.streams.memory_view import MemoryView
from ruvllm.streams.metrics import Metrics
from ruvllm.streams.owner import PartitionOwner
from ruvllm.streams.sender import Sender
from ruvllm.streams.settings import Settings
from ruvllm.streams.stage_app import Owners, StageApp
from ruvllm.streams.topics import check_reply_topics, ensure_topics
from ruvllm.streams.topology import Process, Shape, Stage, stages_of
from ruvllm.streams.trainer import Trainer, learnings
from ruvllm.streams.wiring import Wiring

log = structlog.get_logger(__name__)

CRASH_POLL_S = 0.5
BROKER_WAIT_S = 120.0
MEMORY_WAIT_S = 600.0


class Worker:
    """One of the service's processes: `answer`, `pool` or `learn`."""

    def __init__(self, process: Process, settings: Settings, bootstrap: str, *, name: str | None = None) -> None:
        self.process = process
        self.name = name or process  # of this one, where several of a kind run on one machine
        self.settings = settings
        self.bootstrap = bootstrap
        self.stages = stages_of(process)
        self.clock = SystemClock()
        self.metrics = Metrics()
        self.wiring = Wiring(settings, self.clock)
        self.names = self.wiring.names
        self.sender = Sender(bootstrap, self.names, source=f"{self.name}-{os.getpid()}")
        self.view: MemoryView | None = None
        self.learned: LearnedView | None = None
        self.trainers: list[Trainer] = []
        self._running: list[tuple[StageApp, Owners | None]] = []

    async def run(self, *, ready_file: Path | None = None) -> int:
        """Work until told to stop. Returns the exit status: 0 after a clean end, 1 after a crash."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            runner, port = await self._start()
        except BaseException:
            await self.sender.stop()
            raise
        for number in (signal.SIGTERM, signal.SIGINT):  # before, nothing is under way: they end the process at once
            loop.add_signal_handler(number, stop.set)
        if ready_file is not None:
            _write_whole(ready_file, orjson.dumps({"pid": os.getpid(), "port": port, "process": self.process}))
        log.info("started", process=self.process, stages=[s.name for s in self.stages], port=port)
        crashed = await self._wait(stop)
        log.info("stopping", process=self.process, crashed=crashed)
        await self._stop()
        await runner.cleanup()
        return 1 if crashed else 0

    async def _start(self) -> tuple[web.AppRunner, int]:
        await ensure_topics(
            self.bootstrap, self.names, replication=self.settings.kafka.replication, wait_s=BROKER_WAIT_S
        )
        if any(s.name == "desk" for s in self.stages):
            await check_reply_topics(self.bootstrap, self.settings.limits.reply_to)
        for stage in self.stages:
            await asyncio.to_thread(self.wiring.prepare, stage.name)
        await self.sender.start()
        checks = {}
        if any(s.recalls or s.name == "route" for s in self.stages):
            self.view = self._new_view()
            self.wiring.memory = self.view
            await self.view.start()
            await self.view.wait_ready(MEMORY_WAIT_S)
            checks["memory"] = lambda: self.view is not None and self.view.ready
            self.learned = self._new_learned_view()
            await self.learned.start()
        for stage in self.stages:
            self._running.append(self._bind(stage))
        if any(s.name == "reinforce" for s in self.stages):
            self.trainers = self._new_trainers()
            for trainer in self.trainers:
                await trainer.start()
        health = Health(self.process, self.metrics, self._running, checks)
        port = getattr(self.settings.workers, f"{self.process}_port")
        routes = memory_routes(self.view, self.learned) if self.view and self.learned else ()
        serving = await serve_health(health, self.metrics, port, routes)
        await asyncio.gather(*(app.start() for app, _ in self._running))
        return serving

    def _bind(self, stage: Stage) -> tuple[StageApp, Owners | None]:
        app = StageApp(stage, self.names, self.bootstrap, self.settings.kafka, self.metrics)
        topics = self.names.consumed(stage)
        if stage.shape is Shape.OWNER:
            owners = self._owners(stage, app, topics[0])
            app.bind_owners(owners, topics)
            return app, owners
        retry = Retry(attempts=self.settings.workers.retries)
        guard = Guard(stage, self.wiring.handler(stage.name), self.sender, self.clock, self.metrics, retry)
        if stage.shape is Shape.JOBS:
            app.bind_jobs(guard, topics, self.settings.generation.slots)
        else:
            app.bind_each(guard, topics)
        return app, None

    def _owners(self, stage: Stage, app: StageApp, lead: str) -> Owners:
        def is_mine(partition: int) -> bool:
            return app.is_mine(lead, partition)

        def make(partition: int) -> PartitionOwner:
            return PartitionOwner(
                stage,
                partition,
                self.wiring.keeper(stage.name),
                self.sender,
                self.bootstrap,
                self.clock,
                self.metrics,
                is_mine=lambda: is_mine(partition),
            )

        return Owners(stage, make, is_mine, self.metrics)

    def _new_learned_view(self) -> LearnedView:
        """And what the process's stages take from it."""
        routes = any(s.name == "route" for s in self.stages)
        past = self.wiring.new_past() if routes else None
        view = LearnedView(self.bootstrap, self.names, routers=Routers(self.wiring.untrained_router), past=past)
        self.wiring.ranker = view.rankers.current
        self.wiring.router = view.routers.current
        self.wiring.past = past
        return view

    def _new_trainers(self) -> list[Trainer]:
        assert self.learned is not None
        (app,) = (app for app, _ in self._running if app.stage.name == "reinforce")
        lead = self.names.consumed(app.stage)[0]
        given = self.settings.learning
        return [
            Trainer(
                self.bootstrap,
                self.sender,
                self.clock,
                learning,
                is_leader=lambda: app.is_mine(lead, 0),
                every_s=given.train_every_s,
                after=given.train_after,
            )
            for learner, learning in learnings(self.wiring, self.learned.rankers, self.learned.routers).items()
            if learner != "router" or given.router
        ]

    def _new_view(self) -> MemoryView:
        embedder = self.wiring.embedder
        return MemoryView(
            self.bootstrap,
            self.sender,
            self.clock,
            self.metrics,
            new_memory=self.wiring.new_memory,
            embedder=embedder.name,
            dimension=embedder.dimension,
            folder=self.settings.snapshots_folder(self.name),
            snapshot_every=self.settings.memory.snapshot_every,
            snapshots_kept=self.settings.memory.snapshots_kept,
        )

    async def _wait(self, stop: asyncio.Event) -> bool:
        """Until told to stop (False) or until an app has crashed (True)."""
        while not stop.is_set():
            if any(app.failed for app, _ in self._running) or (self.view is not None and self.view.failed):
                return True
            try:
                await asyncio.wait_for(stop.wait(), CRASH_POLL_S)
            except TimeoutError:
                continue
        return False

    async def _stop(self) -> None:
        """Consumers first (they finish and commit), then owners, memory, models, and the producer last."""
        drain = self.settings.workers.drain_s
        for app, owners in self._running:
            try:
                await asyncio.wait_for(app.stop(), drain)
            except TimeoutError:
                log.warning("drain_incomplete", stage=app.stage.name, open=app.open_deliveries())
            if owners is not None:
                await owners.stop()
        for part in (*self.trainers, self.learned, self.view):
            if part is not None:
                await part.stop()
        await self.wiring.close()
        await self.sender.stop()


def _write_whole(file: Path, content: bytes) -> None:
    """Readers see the whole file or none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    partial.write_bytes(content)
    partial.replace(file)
