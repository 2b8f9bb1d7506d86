"""What this machine must have before `make setup` can work: looked at first, said in full, with exit codes.

Runs before anything is installed (`python3 -I streams/preflight.py`), so it imports the standard library
only and nothing of ours. `ruvllm doctor` and the broker ask the same questions through it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Callable, Mapping, NamedTuple, Sequence  # noqa: UP035  old Pythons must get as far as our message

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]

PYTHON_MIN = (3, 11)
JAVA_MIN = 17  # Kafka 4's brokers
GIB = 2**30
INSTALL_BYTES = 8 * GIB  # the environment with torch, and wheels while they are built
HOME_BYTES = 3 * GIB  # models and Kafka
WORK_BYTES = 1 * GIB  # once all is here: logs, caches, a topic's growth
COMMAND_NOT_FOUND = 127


class Exit(IntEnum):
    """Exit codes, one for each thing that can be missing."""

    PYTHON = 10
    COMPILER = 11
    BROKER = 12
    MAVEN = 13
    DISK = 14
    INSTALLER = 15


class Problem(NamedTuple):
    exit: Exit
    message: str
    remedy: str


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, output captured; exit code 127 when there is no such command."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, COMMAND_NOT_FOUND, "", str(error))


def docker_answers(run: Run) -> bool:
    """Whether a Docker engine answers; the client alone is not enough."""
    return run(["docker", "info"]).returncode == 0


def java_version(run: Run) -> int | None:
    """The major version of `java` on the PATH; None when there is none that runs."""
    done = run(["java", "-version"])
    found = re.search(r'version "(\d+)', done.stderr + done.stdout)
    return int(found.group(1)) if done.returncode == 0 and found else None


@dataclass(frozen=True)
class Machine:
    """What is looked at. Tests hand in another machine."""

    python: Sequence[int] = tuple(sys.version_info[:2])
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    which: Callable[[str], str | None] = shutil.which
    run: Run = run
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
    python_headers: Callable[[], bool] = lambda: Path(sysconfig.get_paths()["include"], "Python.h").is_file()
    can_make_environments: Callable[[], bool] = lambda: importlib.util.find_spec("ensurepip") is not None


def problems(machine: Machine, repository: Path, home: Path) -> list[Problem]:
    """Everything that is missing, the most basic first.

    `repository` is where `.venv` is made, `home` where models and Kafka go.
    """
    built = _built(repository / ".venv")
    found = [*_python(machine), *_installer(machine)]
    if not built:
        found += _compiler(machine)
    found += _broker(machine, kafka_installed=any(home.glob("kafka-*/libs")))
    found += _disk(machine, repository, WORK_BYTES if built else INSTALL_BYTES)
    found += _disk(machine, home, WORK_BYTES if built else HOME_BYTES)
    return found


def _built(environment: Path) -> bool:
    """Whether the packages that need a compiler are there already."""
    return all(any(environment.glob(f"lib/*/site-packages/{name}")) for name in ("llama_cpp", "hnswlib*"))


def _python(machine: Machine) -> list[Problem]:
    if tuple(machine.python) >= PYTHON_MIN:
        return []
    have, want = (".".join(str(part) for part in version) for version in (machine.python, PYTHON_MIN))
    return [Problem(Exit.PYTHON, f"Python {have} is too old: {want} or later is needed.",
                    f"Install it and name it: make setup PYTHON=python{want}")]  # fmt: skip


def _installer(machine: Machine) -> list[Problem]:
    if machine.which("uv") or machine.can_make_environments():
        return []
    return [Problem(Exit.INSTALLER, "Neither uv nor Python's venv module is here.",
                    "Install uv, or the package python3-venv.")]  # fmt: skip


def _compiler(machine: Machine) -> list[Problem]:
    """llama-cpp-python and hnswlib are compiled at install; cmake comes with their build requirements."""
    kinds = {"C": ("CC", ("cc", "gcc", "clang")), "C++": ("CXX", ("c++", "g++", "clang++"))}
    missing = [
        f"a {language} compiler"
        for language, (variable, names) in kinds.items()
        if not any(machine.which(name) for name in (machine.environment.get(variable) or "", *names) if name)
    ]
    if not machine.python_headers():
        missing.append("Python's headers")
    if not missing:
        return []
    return [Problem(Exit.COMPILER, f"Missing: {', '.join(missing)}; two packages are built from source.",
                    "Debian: apt-get install build-essential python3-dev. macOS: xcode-select --install")]  # fmt: skip


def _broker(machine: Machine, *, kafka_installed: bool) -> list[Problem]:
    if machine.environment.get("KAFKA_BOOTSTRAP_SERVERS") or docker_answers(machine.run):
        return []
    java = java_version(machine.run)
    if java is None or java < JAVA_MIN:
        have = "no Java" if java is None else f"Java {java}, which is too old"
        return [Problem(Exit.BROKER, f"No way to a Kafka broker: {have}, no Docker engine that answers, "
                        "and KAFKA_BOOTSTRAP_SERVERS is not set.",
                        f"Install Java {JAVA_MIN} or later and Maven, or start Docker, or set "
                        "KAFKA_BOOTSTRAP_SERVERS=host:port.")]  # fmt: skip
    if kafka_installed or machine.which("mvn"):
        return []
    return [Problem(Exit.MAVEN, "Java is here but Maven (mvn), which fetches Kafka's jars, is not.",
                    "Install Maven, or start Docker, or set KAFKA_BOOTSTRAP_SERVERS=host:port.")]  # fmt: skip


def _disk(machine: Machine, folder: Path, needed_bytes: int) -> list[Problem]:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = machine.free_bytes(existing)
    if free >= needed_bytes:
        return []
    return [Problem(Exit.DISK, f"{folder} has {free / GIB:.1f} GiB free, {needed_bytes / GIB:.0f} are needed.",
                    "Make room, or put the models elsewhere with RUVLLM_HOME.")]  # fmt: skip


def main() -> int:
    """Print each problem with its remedy; the exit code is the first one's, or 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repository", type=Path, default=Path(__file__).resolve().parents[1])
    home = os.environ.get("RUVLLM_HOME") or "~/.ruvllm"
    parser.add_argument("--home", type=Path, default=Path(home).expanduser())
    arguments = parser.parse_args()
    found = problems(Machine(), arguments.repository, arguments.home)
    for problem in found:
        sys.stderr.write(f"setup: {problem.message}\n       {problem.remedy} (exit code {problem.exit:d})\n")
    return found[0].exit if found else 0


if __name__ == "__main__":
    sys.exit(main())
