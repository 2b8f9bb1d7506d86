"""Apache Kafka as a Java process of this machine: KRaft, one node, on the loopback address.

It runs detached and outlives who started it; any later process finds it by its pid file (`streams/pid_file.py`).
Its log stays in the home folder, so a broker that starts again goes on where it was.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from ruvllm.errors import BrokerUnavailable, MissingRequirement
from ruvllm.streams.broker.contract import BrokerStatus
from ruvllm.streams.broker.files import KafkaFiles
from ruvllm.streams.broker.properties import (
    KAFKA_VERSION,
    as_properties,
    local_settings,
    packaged,
)
from ruvllm.streams.broker.readiness import port_open, wait_until_answers
from ruvllm.streams.pid_file import PidFile, end
from ruvllm.streams.preflight import JAVA_MIN

_START_TIMEOUT_S = 90.0  # 2 to 3 s on a quiet machine, up to 20 on a busy one
_STOP_TIMEOUT_S = 30.0
_LOG_BYTES_MAX = 10 * 2**20

# Small and quick to start: this broker serves one machine, and its work is copying bytes.
_JAVA_FLAGS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")


class LocalBroker:
    """Kafka with its data in `home`/broker and its jars in `home`/kafka-<version>, or where `files` says.

    Several of them run side by side when their homes and ports differ.
    """

    kind = "local"

    def __init__(
        self,
        home: Path,
        port: int,
        controller_port: int,
        *,
        files: KafkaFiles | None = None,
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        """`overrides`: settings of the broker in place of the packaged ones."""
        self.bootstrap = f"127.0.0.1:{port}"
        self._files = files or KafkaFiles(home / f"kafka-{KAFKA_VERSION}")
        self.folder = home / "broker"
        self._overrides = dict(overrides or {})
        self._port = port
        self._controller_port = controller_port
        self._pid_file = PidFile(self.folder / "broker.pid")
        self._process: subprocess.Popen[bytes] | None = None

    # --- the contract ---

    def install(self) -> None:
        """Fetch the jars, then run Kafka once for its class archive; this also proves that it runs here."""
        self._files.install()
        if self._files.class_archive.exists():
            return
        with tempfile.TemporaryDirectory(prefix="ruvllm-broker-") as home:
            trial = LocalBroker(Path(home), *free_ports(2), files=self._files)
            archive = Path(home) / "classes.jsa"
            trial._start(f"-XX:ArchiveClassesAtExit={archive}")
            trial.stop()
            if archive.exists():  # a Java that makes none costs the second, nothing else
                archive.replace(self._files.class_archive)

    def start(self) -> BrokerStatus:
        self._files.install()
        return self._start(f"-XX:SharedArchiveFile={self._files.class_archive}")

    def stop(self) -> None:
        end([self._pid_file], _STOP_TIMEOUT_S)
        self._reap()

    def status(self) -> BrokerStatus:
        running = self._pid_file.read()
        data = sum(_bytes_on_disk(file) for file in self._data.rglob("*")) if self._data.exists() else 0
        if running is None:
            return BrokerStatus(self.kind, self.bootstrap, running=False, data_bytes=data)
        return BrokerStatus(
            self.kind,
            f"127.0.0.1:{running.port}",
            running=True,
            pid=running.pid,
            uptime_s=time.time() - running.started_at,
            data_bytes=data,
        )

    def logs(self, lines: int) -> list[str]:
        if not self._log.exists():
            return []
        return self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]

    def installed(self) -> bool:
        return self._files.installed()

    def has_log(self) -> bool:
        """Whether a log of this broker lies on the disk, from now or from earlier."""
        return self._formatted.exists()

    # --- how ---

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _formatted(self) -> Path:
        return self._data / "meta.properties"

    @property
    def _log(self) -> Path:
        return self.folder / "broker.log"

    def _start(self, archive_flag: str) -> BrokerStatus:
        with self._pid_file.starting() as running:
            if running is None:
                self._reap()
                for port in (self._port, self._controller_port):
                    _require_free(port)
                _require_java()
                self._configure()
                java = self._java(archive_flag, "kafka.Kafka", str(self.folder / "server.properties"))
                self._process = self._pid_file.launch(java, self._fresh_log(), folder=self.folder, port=self._port)
        if running is not None and running.port != self._port:
            raise BrokerUnavailable(
                f"the broker of {self.folder} runs on port {running.port}, not {self._port}",
                hint="`ruvllm broker stop` first, or set the port back.",
            )
        self._await_answer()
        return self.status()

    def _await_answer(self) -> None:
        def alive() -> bool:
            return self._pid_file.read() is not None

        if wait_until_answers(self.bootstrap, _START_TIMEOUT_S, alive=alive):
            return
        what = f"did not answer within {_START_TIMEOUT_S:.0f} s" if alive() else "ended while it started"
        self.stop()
        tail = "\n".join(self.logs(15))
        raise BrokerUnavailable(
            f"Kafka on port {self._port} {what}; the end of {self._log}:\n{tail}",
            hint="`ruvllm broker logs` shows more; `ruvllm doctor` checks memory and disk.",
        )

    def _configure(self) -> None:
        """Write the settings; format the storage if this is the first start."""
        settings = {**local_settings(self._port, self._controller_port, self._data), **self._overrides}
        properties = self.folder / "server.properties"
        properties.write_text(as_properties(settings), encoding="utf-8")
        (self.folder / "log4j2.properties").write_text(packaged("log4j2.properties"), encoding="utf-8")
        if self._formatted.exists():
            return
        cluster_id = "R" + secrets.token_urlsafe(16)[1:]  # 22 characters; Kafka refuses a leading dash
        format_storage = ["format", f"--config={properties}", f"--cluster-id={cluster_id}"]
        done = self._files.run(
            self._java(
                f"-XX:SharedArchiveFile={self._files.class_archive}",
                "kafka.tools.StorageTool",
                *format_storage,
                "--ignore-formatted",
            )
        )
        if done.returncode != 0:
            raise BrokerUnavailable(
                f"Kafka could not format {self._data}: {(done.stderr or done.stdout).strip()}",
                hint=f"Kafka 4 needs Java {JAVA_MIN} or later, and the folder must be writable.",
            )

    def _java(self, archive_flag: str, main_class: str, *arguments: str) -> list[str]:
        log4j = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        class_path = ["-cp", self._files.class_path()]
        return ["java", *_JAVA_FLAGS, archive_flag, log4j, *class_path, main_class, *arguments]

    def _fresh_log(self) -> Path:
        """Where it logs; what is too long is set aside."""
        if self._log.exists() and self._log.stat().st_size > _LOG_BYTES_MAX:
            self._log.replace(self._log.with_suffix(".log.1"))
        return self._log

    def _reap(self) -> None:
        """A child of ours that has ended is collected; one that an earlier process started is not ours."""
        if self._process is not None:
            self._process.wait()
            self._process = None


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody uses now; held together, so that all differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [int(held.getsockname()[1]) for held in sockets]
    finally:
        for held in sockets:
            held.close()


def _require_free(port: int) -> None:
    if port_open("127.0.0.1", port):
        raise BrokerUnavailable(
            f"port {port} is taken by another program",
            hint=f"If that is the Kafka you want, set KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:{port}; "
            "or give the local broker another port.",
        )


def _require_java() -> None:
    if shutil.which("java") is None:
        raise MissingRequirement(
            "Kafka needs Java, and `java` is not on the PATH",
            hint=f"Install Java {JAVA_MIN} or later, or use Docker, or set KAFKA_BOOTSTRAP_SERVERS.",
        )


def _bytes_on_disk(file: Path) -> int:
    """What a file takes, not how long it is: Kafka's index files are sparse."""
    try:
        return file.stat().st_blocks * 512
    except FileNotFoundError:  # Kafka deletes segments while we count
        return 0
