"""The broker that this machine runs from Kafka's own jars: it answers, it lasts, it can be killed.

Tests are synchronous, as the broker's calls are: each talk with Kafka is an event loop of its own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from ruvllm.errors import BrokerUnavailable
from ruvllm.streams.broker.files import KafkaFiles, wanted_jars
from ruvllm.streams.broker.local import LocalBroker, free_ports
from ruvllm.streams.broker.readiness import answers

pytestmark = pytest.mark.kafka

MakeBroker = Callable[[], LocalBroker]
PARTITION = TopicPartition("kept", 0)


async def make_topic(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(PARTITION.topic, num_partitions=1, replication_factor=1)])
        assert [error[1] for error in answer.topic_errors] == [0]
    finally:
        await admin.close()


async def topics(bootstrap: str) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()


async def send(bootstrap: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_request_size=2**24) as producer:
        await producer.send_and_wait(PARTITION.topic, value)


async def send_in_transaction(bootstrap: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id="one") as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(PARTITION.topic, value)
        await producer.commit_transaction()


async def everything(bootstrap: str) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    consumer.assign([PARTITION])
    async with consumer:
        end = (await consumer.end_offsets([PARTITION]))[PARTITION]
        values: list[bytes] = []
        while await consumer.position(PARTITION) < end:
            batch = await consumer.getmany(PARTITION, timeout_ms=1000)
            values += [record.value for records in batch.values() for record in records]
        return values


def eventually(holds: Callable[[], bool], within_s: float = 30.0) -> bool:
    deadline = time.monotonic() + within_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def test_a_started_broker_takes_work_at_once(make_broker: MakeBroker) -> None:
    broker = make_broker()
    assert broker.start().running
    asyncio.run(make_topic(broker.bootstrap))
    asyncio.run(send(broker.bootstrap, b"first"))
    assert asyncio.run(everything(broker.bootstrap)) == [b"first"]


def test_transactions_and_long_records_work(make_broker: MakeBroker) -> None:
    broker, long = make_broker(), b"x" * (10 * 2**20 - 1024)
    broker.start()
    asyncio.run(make_topic(broker.bootstrap))
    asyncio.run(send_in_transaction(broker.bootstrap, b"committed"))
    asyncio.run(send(broker.bootstrap, long))
    assert asyncio.run(everything(broker.bootstrap)) == [b"committed", long]


def test_data_survives_a_restart(make_broker: MakeBroker) -> None:
    broker = make_broker()
    broker.start()
    asyncio.run(make_topic(broker.bootstrap))
    asyncio.run(send(broker.bootstrap, b"before"))
    broker.stop()
    assert not answers(broker.bootstrap)
    broker.start()
    assert asyncio.run(everything(broker.bootstrap)) == [b"before"]


def test_data_survives_a_kill(make_broker: MakeBroker) -> None:
    broker = make_broker()
    status = broker.start()
    asyncio.run(make_topic(broker.bootstrap))
    asyncio.run(send(broker.bootstrap, b"before"))
    assert status.pid is not None
    os.kill(status.pid, signal.SIGKILL)
    assert eventually(lambda: not broker.status().running)
    again = broker.start()
    assert again.pid != status.pid
    assert asyncio.run(everything(broker.bootstrap)) == [b"before"]


def test_topics_are_never_made_by_naming_them(make_broker: MakeBroker) -> None:
    broker = make_broker()
    broker.start()

    async def send_to_a_topic_that_is_not_there() -> None:
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, request_timeout_ms=500) as producer:
            await producer.send_and_wait("misspelt", b"")

    with pytest.raises(KafkaError):
        asyncio.run(send_to_a_topic_that_is_not_there())
    assert "misspelt" not in asyncio.run(topics(broker.bootstrap))


def test_it_outlives_who_started_it_and_another_process_finds_and_stops_it(
    kafka_files: KafkaFiles, tmp_path: Path
) -> None:
    # given a broker that another process has started, and which that process has left
    ports = free_ports(2)
    program = (
        "import sys; from pathlib import Path; from ruvllm.streams.broker.files import KafkaFiles;"
        "from ruvllm.streams.broker.local import LocalBroker;"
        "home, files, port, controller = sys.argv[1:];"
        "LocalBroker(Path(home), int(port), int(controller), files=KafkaFiles(Path(files))).start()"
    )
    arguments = [str(tmp_path), str(kafka_files.folder), *(str(port) for port in ports)]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, timeout=120)
    # when we look for it
    broker = LocalBroker(tmp_path, *ports, files=kafka_files)
    status = broker.status()
    # then it is there, starting it again changes nothing, and we can stop it
    assert status.running
    assert answers(broker.bootstrap)
    assert broker.start().pid == status.pid
    broker.stop()
    assert not broker.status().running
    assert not answers(broker.bootstrap)


def test_status_tells_pid_uptime_and_size(make_broker: MakeBroker) -> None:
    broker = make_broker()
    assert not broker.status().running
    broker.start()
    status = broker.status()
    assert status.pid is not None
    assert Path(f"/proc/{status.pid}").exists() or sys.platform != "linux"
    assert status.uptime_s is not None
    assert 0 < status.uptime_s < 120
    assert status.data_bytes
    assert any("Kafka Server started" in line for line in broker.logs(20))


def test_a_broker_that_cannot_start_says_why(make_broker: MakeBroker) -> None:
    # given a data folder that belongs to another node
    broker = make_broker()
    broker.start()
    broker.stop()
    (meta,) = Path(broker.folder).rglob("meta.properties")
    meta.write_text(meta.read_text().replace("node.id=1", "node.id=7"))
    # when it starts, then the error shows Kafka's own words and nothing is left running
    with pytest.raises(BrokerUnavailable, match="node"):
        broker.start()
    assert not broker.status().running


def test_an_open_port_that_does_not_speak_kafka_is_no_broker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not answers(f"127.0.0.1:{port}")


def copying_maven(source: Path) -> Callable[[Sequence[str]], subprocess.CompletedProcess[str]]:
    """Does what `mvn dependency:copy-dependencies` does, from a folder in place of a repository."""

    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        (target,) = [word.partition("=")[2] for word in command if word.startswith("-DoutputDirectory=")]
        shutil.copytree(source, target)
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


def test_install_checks_the_jars_and_replaces_an_older_set(kafka_files: KafkaFiles, tmp_path: Path) -> None:
    # given a folder with the jars of an earlier version
    files = KafkaFiles(tmp_path / "kafka", run=copying_maven(kafka_files.libs))
    files.libs.mkdir(parents=True)
    (files.libs / "kafka_2.13-3.0.0.jar").write_bytes(b"old")
    files.class_archive.write_bytes(b"of the old classes")
    # when
    files.install()
    # then the new ones are there, whole and alone, and nothing of the fetching is left
    assert {jar.name for jar in files.libs.iterdir()} == set(wanted_jars())
    assert list(files.folder.iterdir()) == [files.libs]


def test_the_broker_that_all_tests_share_answers(kafka: str) -> None:
    assert answers(kafka)
