"""Which broker this machine uses: the one named, else where our log lies, else Docker, else Java.

The only module of the broker that looks at the environment.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ruvllm.errors import MissingRequirement
from ruvllm.streams.broker.docker import DockerBroker
from ruvllm.streams.broker.external import ExternalBroker
from ruvllm.streams.broker.local import LocalBroker
from ruvllm.streams.preflight import JAVA_MIN, Run, docker_answers, java_version, run


@dataclass(frozen=True)
class BrokerSettings:
    """What the configuration says; `bootstrap_servers` names a broker that somebody else runs."""

    home: Path
    port: int = 9092
    controller_port: int = 9093
    bootstrap_servers: str | None = None


def choose_broker(
    settings: BrokerSettings,
    *,
    environment: Mapping[str, str] = os.environ,
    which: Callable[[str], str | None] = shutil.which,
    run: Run = run,
) -> ExternalBroker | DockerBroker | LocalBroker:
    """The broker to use; nothing is installed or started. Raises MissingRequirement.

    A log that lies on this machine already decides before Docker: whoever starts Docker one day must not
    find an empty log in the place of a full one.
    """
    servers = settings.bootstrap_servers or environment.get("KAFKA_BOOTSTRAP_SERVERS")
    if servers:
        return ExternalBroker(servers)
    local = LocalBroker(settings.home, settings.port, settings.controller_port)
    if local.has_log():
        return local
    if docker_answers(run):
        return DockerBroker(settings.port)
    java = java_version(run)
    if java is not None and java >= JAVA_MIN and (local.installed() or which("mvn")):
        return local
    raise MissingRequirement(
        "no way to a Kafka broker on this machine",
        hint="Set KAFKA_BOOTSTRAP_SERVERS=host:port to use one that runs, or start Docker, "
        f"or install Java {JAVA_MIN} or later and Maven.",
    )
