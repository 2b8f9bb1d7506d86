"""Apache Kafka as a Docker container, its log in a named volume: the container is disposable, the log not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from ruvllm.errors import BrokerUnavailable, MissingRequirement
from ruvllm.streams.broker.contract import BrokerStatus
from ruvllm.streams.broker.properties import KAFKA_VERSION, as_environment, container_settings
from ruvllm.streams.broker.readiness import Answers, answers, wait_until_answers
from ruvllm.streams.preflight import Run, run

IMAGE = f"apache/kafka:{KAFKA_VERSION}"
DATA = "/var/lib/kafka/data"  # the image's own volume folder: its user may write there
_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 30


class DockerBroker:
    """A container and a volume, both called `name`; the port is published on the loopback address."""

    kind = "docker"

    def __init__(self, port: int, *, name: str = "ruvllm-kafka", run: Run = run, answers: Answers = answers) -> None:
        self.bootstrap = f"127.0.0.1:{port}"
        self._port = port
        self._name = name
        self._run = run
        self._answers = answers

    def install(self) -> None:
        """Pull the image if it is not here. Raises MissingRequirement."""
        if self._run(["docker", "image", "inspect", IMAGE]).returncode == 0:
            return
        pulled = self._run(["docker", "pull", IMAGE])
        if pulled.returncode != 0:
            raise MissingRequirement(
                f"Docker could not pull {IMAGE}: {pulled.stderr.strip()}",
                hint="Check Docker's network, or use Java and Maven, or set KAFKA_BOOTSTRAP_SERVERS.",
            )

    def start(self) -> BrokerStatus:
        if not self._running():
            self.install()
            self._run(["docker", "rm", "--force", self._name])  # what is left of an earlier run
            started = self._run(self._run_command())
            if started.returncode != 0:
                raise BrokerUnavailable(
                    f"Docker could not start {self._name}: {started.stderr.strip()}",
                    hint="`docker ps --all` shows who has the name or the port.",
                )
        if not wait_until_answers(self.bootstrap, _START_TIMEOUT_S, alive=self._running, answers=self._answers):
            tail = "\n".join(self.logs(15))
            raise BrokerUnavailable(
                f"the container {self._name} runs no broker that answers at {self.bootstrap}:\n{tail}",
                hint="`ruvllm broker logs` shows more.",
            )
        return self.status()

    def stop(self) -> None:
        if not self._running():
            return
        stopped = self._run(["docker", "stop", "--time", str(_STOP_TIMEOUT_S), self._name])
        if stopped.returncode != 0:
            raise BrokerUnavailable(f"Docker could not stop {self._name}: {stopped.stderr.strip()}")

    def status(self) -> BrokerStatus:
        """The log lies inside Docker, so its size is not told."""
        state = self._state()
        if not state.get("Running"):
            return BrokerStatus(self.kind, self.bootstrap, running=False)
        started = datetime.fromisoformat(state["StartedAt"])
        uptime = (datetime.now(UTC) - started).total_seconds()
        return BrokerStatus(self.kind, self.bootstrap, running=True, pid=state["Pid"], uptime_s=uptime)

    def logs(self, lines: int) -> list[str]:
        done = self._run(["docker", "logs", "--tail", str(lines), self._name])
        return (done.stdout + done.stderr).splitlines() if done.returncode == 0 else []

    def _running(self) -> bool:
        return bool(self._state().get("Running"))

    def _state(self) -> dict[str, Any]:
        """What `docker inspect` says of the container; empty when there is none."""
        done = self._run(["docker", "inspect", "--format", "{{json .State}}", self._name])
        state: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return state

    def _run_command(self) -> list[str]:
        environment = as_environment(container_settings(self._port, DATA))
        return [
            "docker",
            "run",
            "--detach",
            f"--name={self._name}",
            f"--publish=127.0.0.1:{self._port}:{self._port}",
            f"--volume={self._name}:{DATA}",
            *(f"--env={key}={value}" for key, value in environment.items()),
            IMAGE,
        ]
