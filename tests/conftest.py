"""What the layers share: one Kafka for the whole run, started when the first test asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ruvllm.streams.broker.files import KafkaFiles
from ruvllm.streams.broker.local import LocalBroker, free_ports
from ruvllm.streams.broker.properties import KAFKA_VERSION
from ruvllm.streams.preflight import docker_answers, run

MakeBroker = Callable[[], LocalBroker]


@pytest.fixture(scope="session")
def kafka_files() -> KafkaFiles:
    """Kafka's jars, those of `make setup` (installed if they are not there)."""
    home = Path(os.environ.get("RUVLLM_HOME") or "~/.ruvllm").expanduser()
    files = KafkaFiles(home / f"kafka-{KAFKA_VERSION}")
    LocalBroker(home, 0, 0, files=files).install()
    return files


@pytest.fixture
def make_broker(kafka_files: KafkaFiles, tmp_path: Path) -> Iterator[MakeBroker]:
    """Makes brokers of the test's own, each with an empty log, to be stopped and killed at will."""
    made: list[LocalBroker] = []

    def make() -> LocalBroker:
        made.append(LocalBroker(tmp_path / f"kafka-{len(made)}", *free_ports(2), files=kafka_files))
        return made[-1]

    yield make
    for broker in made:
        broker.stop()


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a broker that all tests share: the one named, else Docker's, else Java's."""
    named = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if named:
        yield named
    elif docker_answers(run):
        yield from _container()
    else:
        home = tmp_path_factory.mktemp("kafka")
        broker = LocalBroker(home, *free_ports(2), files=request.getfixturevalue("kafka_files"))
        broker.start()
        yield broker.bootstrap
        broker.stop()


def _container() -> Iterator[str]:
    from testcontainers.core.container import DockerContainer

    from ruvllm.streams.broker.docker import DATA, IMAGE
    from ruvllm.streams.broker.properties import as_environment, container_settings
    from ruvllm.streams.broker.readiness import wait_until_answers

    (port,) = free_ports(1)
    container = DockerContainer(IMAGE).with_envs(**as_environment(container_settings(port, DATA)))
    with container.with_bind_ports(port, port):
        bootstrap = f"127.0.0.1:{port}"
        assert wait_until_answers(bootstrap, timeout_s=120, alive=lambda: True)
        yield bootstrap
