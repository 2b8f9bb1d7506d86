"""Which broker is chosen, what each kind is told to do, and what is said when something is missing.

No broker runs here. Commands go to `Commands`, which answers as the tools would.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from ruvllm.errors import BrokerUnavailable, MissingRequirement
from ruvllm.streams.broker.choose import BrokerSettings, choose_broker
from ruvllm.streams.broker.contract import Broker
from ruvllm.streams.broker.docker import DATA, IMAGE, DockerBroker
from ruvllm.streams.broker.external import ExternalBroker
from ruvllm.streams.broker.files import KafkaFiles, check_jars, wanted_jars
from ruvllm.streams.broker.local import LocalBroker, free_ports
from ruvllm.streams.broker.properties import (
    KAFKA_VERSION,
    as_environment,
    as_properties,
    container_settings,
    local_settings,
    packaged,
    shared_settings,
)
from ruvllm.streams.broker.readiness import answers, wait_until_answers
from ruvllm.streams.pid_file import PidFile
from ruvllm.streams.preflight import COMMAND_NOT_FOUND, run

REPOSITORY = Path(__file__).parents[2]


class Commands:
    """Stands for the machine's commands: answers by the longest known beginning, keeps what was asked."""

    def __init__(self, answers: dict[str, tuple[int, str]]) -> None:
        self._answers = answers
        self.asked: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        self.asked.append(list(command))
        line = " ".join(command)
        known = max((start for start in self._answers if line.startswith(start)), key=len, default=None)
        code, text = (COMMAND_NOT_FOUND, "") if known is None else self._answers[known]
        return subprocess.CompletedProcess(list(command), code, text if code == 0 else "", text if code else "")


JAVA_17 = {"java -version": (0, 'openjdk version "17.0.15" 2025-04-15')}
JAVA_11 = {"java -version": (0, 'openjdk version "11.0.2" 2019-01-15')}
DOCKER = {"docker info": (0, "")}
CLIENT_WITHOUT_ENGINE = {"docker info": (1, "Cannot connect to the Docker daemon")}


def has(*names: str) -> Callable[[str], str | None]:
    return lambda name: f"/usr/bin/{name}" if name in names else None


# --- which one -------------------------------------------------------------------------------------


def test_a_named_broker_comes_first(tmp_path: Path) -> None:
    machine = Commands(DOCKER | JAVA_17)
    settings = BrokerSettings(tmp_path)
    broker = choose_broker(
        settings, environment={"KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"}, which=has("mvn"), run=machine
    )
    assert isinstance(broker, ExternalBroker)
    assert broker.bootstrap == "kafka:9092"
    assert machine.asked == []


def test_the_settings_name_a_broker_before_the_environment_does(tmp_path: Path) -> None:
    broker = choose_broker(
        BrokerSettings(tmp_path, bootstrap_servers="mine:1"),
        environment={"KAFKA_BOOTSTRAP_SERVERS": "theirs:2"},
        which=has(),
        run=Commands({}),
    )
    assert broker.bootstrap == "mine:1"


def test_docker_comes_second_where_an_engine_answers(tmp_path: Path) -> None:
    broker = choose_broker(
        BrokerSettings(tmp_path, port=9192), environment={}, which=has("mvn"), run=Commands(DOCKER | JAVA_17)
    )
    assert isinstance(broker, DockerBroker)
    assert broker.bootstrap == "127.0.0.1:9192"


def test_java_with_maven_comes_third(tmp_path: Path) -> None:
    machine = Commands(CLIENT_WITHOUT_ENGINE | JAVA_17)
    broker = choose_broker(BrokerSettings(tmp_path), environment={}, which=has("mvn"), run=machine)
    assert isinstance(broker, LocalBroker)


def test_java_alone_is_enough_once_kafka_is_installed(tmp_path: Path) -> None:
    place_jars(tmp_path / f"kafka-{KAFKA_VERSION}" / "libs")
    broker = choose_broker(BrokerSettings(tmp_path), environment={}, which=has(), run=Commands(JAVA_17))
    assert isinstance(broker, LocalBroker)


def test_a_log_that_lies_here_is_not_forsaken_when_docker_appears(tmp_path: Path) -> None:
    (tmp_path / "broker" / "data").mkdir(parents=True)
    (tmp_path / "broker" / "data" / "meta.properties").touch()
    broker = choose_broker(BrokerSettings(tmp_path), environment={}, which=has(), run=Commands(DOCKER))
    assert isinstance(broker, LocalBroker)


@pytest.mark.parametrize(
    ("commands", "which"), [({}, has("mvn")), (JAVA_11, has("mvn")), (JAVA_17, has()), (CLIENT_WITHOUT_ENGINE, has())]
)
def test_with_none_of_them_all_three_ways_are_named(
    commands: dict[str, tuple[int, str]], which: Callable[[str], str | None], tmp_path: Path
) -> None:
    with pytest.raises(MissingRequirement) as caught:
        choose_broker(BrokerSettings(tmp_path), environment={}, which=which, run=Commands(commands))
    assert caught.value.code == "missing_requirement"
    for way in ("KAFKA_BOOTSTRAP_SERVERS", "Docker", "Java", "Maven"):
        assert way in str(caught.value)


def test_every_kind_keeps_the_contract(tmp_path: Path) -> None:
    brokers: list[Broker] = [
        ExternalBroker("kafka:9092", answers=lambda _: False),
        DockerBroker(9092, run=Commands({})),
        LocalBroker(tmp_path, 9092, 9093),
    ]
    assert [broker.kind for broker in brokers] == ["external", "docker", "local"]
    for broker in brokers:
        status = broker.status()
        assert (status.kind, status.bootstrap, status.running) == (broker.kind, broker.bootstrap, False)


# --- one that somebody else runs -------------------------------------------------------------------


@pytest.mark.parametrize("verb", [ExternalBroker.start, ExternalBroker.stop, lambda broker: broker.logs(5)])
def test_an_external_broker_is_left_alone(verb: Callable[[ExternalBroker], object]) -> None:
    with pytest.raises(BrokerUnavailable, match="kafka:9092 is run by somebody else") as caught:
        verb(ExternalBroker("kafka:9092"))
    assert "KAFKA_BOOTSTRAP_SERVERS" in caught.value.hint


def test_an_external_broker_runs_when_it_answers() -> None:
    assert ExternalBroker("kafka:9092", answers=lambda servers: servers == "kafka:9092").status().running


# --- does it answer --------------------------------------------------------------------------------


def test_a_closed_port_is_no_broker() -> None:
    (port,) = free_ports(1)
    assert not answers(f"127.0.0.1:{port}")


class Clock:
    """Time passes only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.mark.parametrize(("answers_at_s", "dies_at_s", "expected"), [(3, 99, True), (99, 99, False), (5, 2, False)])
def test_waiting_ends_with_an_answer_a_death_or_the_time(answers_at_s: float, dies_at_s: float, expected: bool) -> None:
    clock = Clock()
    answered = wait_until_answers(
        "kafka:9092",
        timeout_s=10,
        alive=lambda: clock() < dies_at_s,
        answers=lambda _: clock() >= answers_at_s,
        clock=clock,
        sleep=clock.sleep,
    )
    assert answered is expected
    assert clock() <= 10.1


# --- the Java process, without Java ----------------------------------------------------------------


def place_jars(libs: Path) -> None:
    libs.mkdir(parents=True)
    for name in wanted_jars():
        (libs / name).touch()


@pytest.fixture
def installed(tmp_path: Path) -> KafkaFiles:
    files = KafkaFiles(tmp_path / "kafka", run=Commands({}))
    place_jars(files.libs)
    return files


def test_a_taken_port_is_named_with_what_to_do(tmp_path: Path, installed: KafkaFiles) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        broker = LocalBroker(tmp_path, port, *free_ports(1), files=installed)
        with pytest.raises(BrokerUnavailable, match=f"port {port} is taken") as caught:
            broker.start()
    assert f"KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:{port}" in caught.value.hint


def test_without_java_the_error_says_so(tmp_path: Path, installed: KafkaFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingRequirement, match="Java"):
        LocalBroker(tmp_path, *free_ports(2), files=installed).start()


def test_storage_that_cannot_be_formatted_is_reported_in_kafkas_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(java.parent))
    files = KafkaFiles(tmp_path / "kafka", run=Commands({"java": (1, "UnsupportedClassVersionError")}))
    place_jars(files.libs)
    with pytest.raises(BrokerUnavailable, match="UnsupportedClassVersionError") as caught:
        LocalBroker(tmp_path, *free_ports(2), files=files).start()
    assert "Java 17" in caught.value.hint


def test_a_running_broker_is_seen_and_stopped_and_not_started_on_another_port(
    tmp_path: Path, installed: KafkaFiles
) -> None:
    # given a process that holds the home's pid file, as a broker on port 1 does
    broker = LocalBroker(tmp_path, *free_ports(2), files=installed)
    broker.folder.mkdir()
    child = PidFile(broker.folder / "broker.pid").launch(["sleep", "60"], tmp_path / "log", port=1)
    status = broker.status()
    assert status.running
    assert status.bootstrap == "127.0.0.1:1"
    # when it shall run on another port, then this is refused
    with pytest.raises(BrokerUnavailable, match="runs on port 1"):
        broker.start()
    # when stopped, then it ends
    broker.stop()
    assert child.wait() == -signal.SIGTERM
    assert not broker.status().running
    broker.stop()  # a second time: nothing to do


def test_the_log_is_read_from_its_end(tmp_path: Path) -> None:
    broker = LocalBroker(tmp_path, 9092, 9093)
    assert broker.logs(2) == []
    broker.folder.mkdir()
    (broker.folder / "broker.log").write_text("one\ntwo\nthree\n")
    assert broker.logs(2) == ["two", "three"]


# --- Kafka's jars ----------------------------------------------------------------------------------


def test_what_is_installed_is_not_fetched_again(installed: KafkaFiles) -> None:
    installed.install()
    assert isinstance(installed.run, Commands)
    assert installed.run.asked == []


def test_without_maven_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingRequirement, match="Maven"):
        KafkaFiles(tmp_path / "kafka", run=Commands({})).install()


def test_mavens_first_error_is_shown(tmp_path: Path) -> None:
    maven = Commands({"mvn": (1, "[INFO] going\n[ERROR] no such host\n[ERROR] see above")})
    with pytest.raises(MissingRequirement, match="no such host"):
        KafkaFiles(tmp_path / "kafka", run=maven).install()


def test_maven_is_asked_for_the_packaged_pom_with_strict_checksums(tmp_path: Path) -> None:
    maven = Commands({"mvn": (1, "stop")})
    with pytest.raises(MissingRequirement):
        KafkaFiles(tmp_path / "kafka", run=maven).install()
    (command,) = maven.asked
    assert "--strict-checksums" in command
    assert any(word.startswith("--file=") and word.endswith("pom.xml") for word in command)


def test_a_jar_with_a_wrong_hash_is_refused_and_nothing_is_installed(tmp_path: Path) -> None:
    # given a Maven that brings jars which are not Kafka's
    def forging_maven(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        (libs,) = [word.partition("=")[2] for word in command if word.startswith("-DoutputDirectory=")]
        place_jars(Path(libs))
        return subprocess.CompletedProcess(list(command), 0, "", "")

    files = KafkaFiles(tmp_path / "kafka", run=forging_maven)
    with pytest.raises(MissingRequirement, match="it is not used"):
        files.install()
    assert not files.installed()
    assert list(files.folder.iterdir()) == []


def test_a_jar_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingRequirement, match=next(iter(wanted_jars()))):
        check_jars(tmp_path)


def test_pom_hashes_and_image_are_of_one_version() -> None:
    assert f"<artifactId>kafka_2.13</artifactId>\n      <version>{KAFKA_VERSION}<" in packaged("pom.xml")
    assert f"kafka_2.13-{KAFKA_VERSION}.jar" in wanted_jars()
    assert f"apache/kafka:{KAFKA_VERSION}" == IMAGE
    assert {len(digest) for digest in wanted_jars().values()} == {64}


# --- the settings ----------------------------------------------------------------------------------


def test_topics_are_not_made_by_naming_them_and_nothing_expires() -> None:
    settings = shared_settings()
    assert settings["auto.create.topics.enable"] == "false"
    assert settings["log.retention.ms"] == settings["log.retention.bytes"] == "-1"
    assert int(settings["offsets.retention.minutes"]) >= 365 * 24 * 60


def test_the_local_broker_listens_on_this_machine_only() -> None:
    settings = local_settings(1, 2, Path("/data"))
    for listener in settings["listeners"].split(","):
        assert "://127.0.0.1:" in listener


def test_the_packaged_file_is_read_as_kafka_reads_it() -> None:
    text = as_properties({"log.dirs": "C:\\kafka", "a": "b=c"})
    assert text == "log.dirs=C:\\\\kafka\na=b=c\n"
    assert all(not key.startswith("#") for key in shared_settings())


def test_a_container_knows_itself_by_the_published_port() -> None:
    settings = container_settings(9192, DATA)
    assert "PLAINTEXT://:9192" in settings["listeners"]
    assert settings["advertised.listeners"] == "PLAINTEXT://127.0.0.1:9192"


# --- Docker ----------------------------------------------------------------------------------------

UP = {"docker inspect": (0, '{"Running": true, "Pid": 42, "StartedAt": "2026-01-02T03:04:05.678901234Z"}')}
DOWN = {"docker inspect": (0, '{"Running": false, "Pid": 0, "StartedAt": "0001-01-01T00:00:00Z"}')}
ABSENT = {"docker inspect": (1, "no such object")}


class Engine(Commands):
    """A Docker engine with one container, which `run` starts and `stop` ends."""

    def __call__(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        done = super().__call__(command)
        if done.returncode == 0 and command[1] in {"run", "stop"}:
            self._answers.update(UP if command[1] == "run" else DOWN)
        return done


def engine(state: dict[str, tuple[int, str]], **more: tuple[int, str]) -> Engine:
    good = ("image inspect", "run", "rm", "stop")
    return Engine({f"docker {verb}": (0, "") for verb in good} | {f"docker {k}": v for k, v in more.items()} | state)


def test_docker_is_started_by_one_command() -> None:
    docker = engine(ABSENT)
    status = DockerBroker(9192, run=docker, answers=lambda _: True).start()
    assert status.running
    assert status.pid == 42
    (command,) = [command for command in docker.asked if command[1] == "run"]
    settings = as_environment(container_settings(9192, DATA))
    assert command == [
        "docker",
        "run",
        "--detach",
        "--name=ruvllm-kafka",
        "--publish=127.0.0.1:9192:9192",
        "--volume=ruvllm-kafka:/var/lib/kafka/data",
        *(f"--env={key}={value}" for key, value in settings.items()),
        "apache/kafka:4.1.0",
    ]
    assert "--env=KAFKA_AUTO_CREATE_TOPICS_ENABLE=false" in command


def test_docker_that_runs_is_not_started_again() -> None:
    docker = engine(UP)
    DockerBroker(9092, run=docker, answers=lambda _: True).start()
    assert {command[1] for command in docker.asked} == {"inspect"}


def test_a_stopped_container_makes_place_for_a_new_one_and_its_volume_stays() -> None:
    docker = engine(DOWN)
    DockerBroker(9092, run=docker, answers=lambda _: True).start()
    assert ["docker", "rm", "--force", "ruvllm-kafka"] in docker.asked
    assert not any("volume" in command[1] for command in docker.asked)


def test_docker_stops_in_order_and_once() -> None:
    docker = engine(UP)
    broker = DockerBroker(9092, run=docker)
    broker.stop()
    broker.stop()
    assert [command for command in docker.asked if command[1] == "stop"] == [
        ["docker", "stop", "--time", "30", "ruvllm-kafka"]
    ]


def test_docker_pulls_an_image_that_is_not_here() -> None:
    docker = engine(ABSENT, **{"image inspect": (1, ""), "pull": (0, "")})
    DockerBroker(9092, run=docker).install()
    assert ["docker", "pull", "apache/kafka:4.1.0"] in docker.asked


def test_docker_that_cannot_pull_start_or_stop_says_why() -> None:
    with pytest.raises(MissingRequirement, match="no network"):
        DockerBroker(9092, run=engine(ABSENT, **{"image inspect": (1, ""), "pull": (1, "no network")})).install()
    with pytest.raises(BrokerUnavailable, match="port is already allocated"):
        DockerBroker(9092, run=engine(ABSENT, run=(125, "port is already allocated"))).start()
    with pytest.raises(BrokerUnavailable, match="permission denied"):
        DockerBroker(9092, run=engine(UP, stop=(1, "permission denied"))).stop()


def test_a_container_that_ends_at_once_shows_its_log() -> None:
    docker = Commands(
        {f"docker {verb}": (0, "") for verb in ("image inspect", "run", "rm")}
        | DOWN
        | {"docker logs": (0, "starting\nlog.dirs is not writable\n")}
    )
    with pytest.raises(BrokerUnavailable, match=r"log\.dirs is not writable"):
        DockerBroker(9092, run=docker, answers=lambda _: False).start()
    assert ["docker", "logs", "--tail", "15", "ruvllm-kafka"] in docker.asked


# --- compose ---------------------------------------------------------------------------------------


def test_compose_runs_the_same_kafka_with_the_same_settings() -> None:
    kafka = yaml.safe_load((REPOSITORY / "compose" / "kafka.yaml").read_text())["services"]["kafka"]
    assert kafka["image"] == IMAGE
    assert as_environment(shared_settings()).items() <= kafka["environment"].items()
    assert kafka["environment"]["KAFKA_LOG_DIRS"] == DATA


def test_compose_keeps_the_log_in_a_volume_and_knows_when_it_is_healthy() -> None:
    compose = yaml.safe_load((REPOSITORY / "compose" / "kafka.yaml").read_text())
    kafka = compose["services"]["kafka"]
    (volume,) = kafka["volumes"]
    assert volume.split(":") == [next(iter(compose["volumes"])), DATA]
    assert kafka["healthcheck"]["test"][0] == "CMD"


def test_compose_reads_the_file() -> None:
    if shutil.which("docker") is None or run(["docker", "compose", "version"]).returncode != 0:
        pytest.skip("the compose plugin of Docker is not here")
    checked = run(["docker", "compose", "--file", str(REPOSITORY / "compose" / "kafka.yaml"), "config", "--quiet"])
    assert checked.returncode == 0, checked.stderr
