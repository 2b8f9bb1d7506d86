"""Apache Kafka's own jars: fetched by Maven, checked against packaged hashes, kept in one folder.

The folder appears whole or not at all: jars are fetched and checked beside it, then renamed. Several
brokers (each with its own data) share one such folder.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from ruvllm.errors import MissingRequirement
from ruvllm.streams.broker.properties import KAFKA_VERSION, packaged
from ruvllm.streams.preflight import COMMAND_NOT_FOUND, Run, run


def wanted_jars() -> dict[str, str]:
    """File name -> sha256 of each jar, in the order of the class path."""
    rows = (line.split() for line in packaged("jars.sha256").splitlines())
    return {name: digest for digest, name in rows}


@dataclass(frozen=True)
class KafkaFiles:
    """Where Kafka's jars lie: `folder`/libs."""

    folder: Path
    run: Run = run

    @property
    def libs(self) -> Path:
        return self.folder / "libs"

    @property
    def class_archive(self) -> Path:
        """Parsed classes of an earlier run, which Java maps in (AppCDS): about a second less to start."""
        return self.folder / "classes.jsa"

    def class_path(self) -> str:
        """Always in the same order, or Java refuses the class archive."""
        return os.pathsep.join(str(self.libs / name) for name in wanted_jars())

    def installed(self) -> bool:
        return self.libs.is_dir() and wanted_jars().keys() <= {jar.name for jar in self.libs.iterdir()}

    def install(self) -> None:
        """Fetch and check the jars if they are not here. Raises MissingRequirement."""
        if self.installed():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".fetching-") as fetched:
            self._fetch(Path(fetched) / "libs")
            check_jars(Path(fetched) / "libs")
            if self.libs.exists():  # of an older list of jars, or of an install that ran beside this one
                self.libs.rename(Path(fetched) / "old")
            (Path(fetched) / "libs").rename(self.libs)
        self.class_archive.unlink(missing_ok=True)

    def _fetch(self, libs: Path) -> None:
        with as_file(files("ruvllm") / "data" / "broker" / "pom.xml") as pom:
            done = self.run(
                [
                    "mvn",
                    "--quiet",
                    "--batch-mode",
                    "--strict-checksums",
                    f"--file={pom}",
                    "dependency:copy-dependencies",
                    "-DincludeScope=runtime",
                    f"-DoutputDirectory={libs}",
                ]
            )
        if done.returncode == COMMAND_NOT_FOUND:
            raise MissingRequirement(
                "Kafka's jars are not here and Maven (mvn), which fetches them, is not on the PATH",
                hint="Install Maven, or use Docker, or set KAFKA_BOOTSTRAP_SERVERS.",
            )
        if done.returncode != 0:
            raise MissingRequirement(
                f"Maven could not fetch Kafka {KAFKA_VERSION}: {_first_error(done.stdout + done.stderr)}",
                hint="Check the network and Maven's settings.xml, then run `ruvllm broker install` again.",
            )


def check_jars(libs: Path) -> None:
    """Raises MissingRequirement when a jar is missing or is not the one that the packaged hash names."""
    for name, digest in wanted_jars().items():
        jar = libs / name
        if not jar.is_file():
            raise MissingRequirement(f"Maven did not bring {name}, which Kafka {KAFKA_VERSION} needs")
        found = hashlib.sha256(jar.read_bytes()).hexdigest()
        if found != digest:
            raise MissingRequirement(
                f"{name} has sha256 {found}, expected {digest}: it is not used",
                hint="Delete it from Maven's local repository (~/.m2) and install again.",
            )


def _first_error(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line]
    return (errors or lines or ["no output"])[0].strip()
