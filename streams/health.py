"""Health by assignment and progress, and metrics, over HTTP.

A process that runs is not a process that works: it is healthy while its consumers have been told
what is theirs, be it nothing (a spare worker), and records that were delivered get done. It is ready
when its owners have read their state as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ruvllm.errors import InvalidConfiguration
from ruvllm.streams.metrics import Metrics
from ruvllm.streams.stage_app import LONGEST_HANDLER_S, Owners, StageApp

STUCK_AFTER_S = LONGEST_HANDLER_S + 60
"""Without progress, or without the coordinator's word: a rebalance waits for the longest handler."""


class Health:
    """What this process says of itself."""

    def __init__(
        self,
        process: str,
        metrics: Metrics,
        stages: Sequence[tuple[StageApp, Owners | None]],
        checks: dict[str, Callable[[], bool]],
        *,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._process = process
        self._metrics = metrics
        self._stages = stages
        self._checks = checks
        self._seconds = seconds
        self._started = seconds()
        self._progress: dict[str, tuple[float, float]] = {}  # stage -> (handled, when it last grew)
        self._told: dict[str, float] = {}  # stage -> when it last knew what is its own

    def report(self) -> dict[str, Any]:
        """The state of each stage; `ready` when it can work, `healthy` while it does."""
        now = self._seconds()
        stages = {app.stage.name: self._stage(app, owners, now) for app, owners in self._stages}
        checks = {name: check() for name, check in self._checks.items()}
        return {
            "process": self._process,
            "pid": os.getpid(),
            "uptime_s": round(now - self._started, 1),
            "ready": all(s["ready"] for s in stages.values()) and all(checks.values()),
            "healthy": all(s["healthy"] for s in stages.values()),
            "checks": checks,
            "stages": stages,
        }

    def _stage(self, app: StageApp, owners: Owners | None, now: float) -> dict[str, Any]:
        name = app.stage.name
        if app.joined:
            self._told[name] = now
        handled = sum(self._metrics.handled.labels(name, outcome)._value.get() for outcome in ("done", "failed"))
        seen, since = self._progress.get(name, (-1.0, now))
        open_deliveries = app.open_deliveries()
        if handled != seen or open_deliveries == 0:
            since = now
        self._progress[name] = (handled, since)
        self._metrics.open.labels(name).set(open_deliveries)
        lag = app.lag()
        self._metrics.lag.labels(name).set(lag)
        stuck = now - since > STUCK_AFTER_S
        forgotten = now - self._told.get(name, self._started) > STUCK_AFTER_S
        return {
            "partitions": len(app.partitions()),
            "lag": lag,
            "open": open_deliveries,
            "handled": int(handled),
            "idle_s": round(now - since, 1),
            "ready": app.joined and (owners is None or owners.ready()),
            "healthy": not app.failed and not stuck and not forgotten,
        }


async def serve_health(
    health: Health, metrics: Metrics, port: int, routes: Sequence[web.RouteDef] = ()
) -> tuple[web.AppRunner, int]:
    """Serve /health (200 when ready and healthy, else 503), /metrics and what else this process has to say.

    Returns the runner and its port. Only this machine is answered.
    """

    async def get_health(_: web.Request) -> web.Response:
        report = health.report()
        status = 200 if report["ready"] and report["healthy"] else 503
        return web.Response(body=orjson.dumps(report), status=status, content_type="application/json")

    async def get_metrics(_: web.Request) -> web.Response:
        health.report()
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/health", get_health), web.get("/metrics", get_metrics), *routes])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise InvalidConfiguration(
            f"port {port} for health and metrics is taken",
            hint="Set workers.answer_port, workers.pool_port or workers.learn_port; 0 takes a free one.",
        ) from error
    server: Any = site._server
    return runner, int(server.sockets[0].getsockname()[1])
