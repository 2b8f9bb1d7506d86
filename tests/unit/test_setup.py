"""How the project is set up: what a machine must have, what `make` does, what the lock holds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ruvllm.streams import preflight
from ruvllm.streams.preflight import GIB, Exit, Machine, java_version, problems, run

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
LOCK = (REPOSITORY / "requirements.lock").read_text()

# --- what a machine must have ----------------------------------------------------------------------


def commands(**results: tuple[int, str]) -> preflight.Run:
    """A machine's commands by their first word; what is not named is not installed."""

    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        code, text = results.get(command[0], (preflight.COMMAND_NOT_FOUND, ""))
        return subprocess.CompletedProcess(list(command), code, "", text)

    return run


JAVA = (0, 'openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime Environment')
EVERYTHING = ("uv", "cc", "c++", "mvn")


def machine(
    python: tuple[int, int] = (3, 11),
    has: Sequence[str] = EVERYTHING,
    run: preflight.Run | None = None,
    free: int = 100 * GIB,
    environment: dict[str, str] | None = None,
    headers: bool = True,
    ensurepip: bool = True,
) -> Machine:
    """A machine that has all it needs, but for what is said."""
    return Machine(
        python=python,
        environment=environment or {},
        which=lambda name: f"/usr/bin/{name}" if name in has else None,
        run=run or commands(java=JAVA),
        free_bytes=lambda _: free,
        python_headers=lambda: headers,
        can_make_environments=lambda: ensurepip,
    )


def exits(machine: Machine, folder: Path) -> list[Exit]:
    return [problem.exit for problem in problems(machine, folder, folder / "home")]


def test_a_machine_with_everything_has_no_problem(tmp_path: Path) -> None:
    assert exits(machine(), tmp_path) == []


@pytest.mark.parametrize(
    ("lacking", "exit_code", "named"),
    [
        (machine(python=(3, 10)), 10, "Python 3.10 is too old"),
        (machine(has=["uv", "mvn"]), 11, "a C compiler, a C++ compiler"),
        (machine(has=["uv", "mvn", "gcc"]), 11, "Missing: a C++ compiler"),
        (machine(headers=False), 11, "Python's headers"),
        (machine(run=commands()), 12, "no Java"),
        (machine(run=commands(docker=(1, "no daemon"))), 12, "no Docker engine that answers"),
        (machine(run=commands(java=(0, 'openjdk version "11.0.2"'))), 12, "Java 11, which is too old"),
        (machine(has=["uv", "cc", "c++"]), 13, "Maven"),
        (machine(free=4 * GIB), 14, "4.0 GiB free, 8 are needed"),
        (machine(has=["cc", "c++", "mvn"], ensurepip=False), 15, "Neither uv nor"),
    ],
)
def test_each_missing_thing_has_its_message_remedy_and_exit_code(
    lacking: Machine, exit_code: int, named: str, tmp_path: Path
) -> None:
    (problem,) = problems(lacking, tmp_path, tmp_path / "home")
    assert problem.exit == exit_code
    assert named in problem.message
    assert problem.remedy


@pytest.mark.parametrize(
    "enough",
    [
        machine(run=commands(docker=(0, "")), has=["uv", "cc", "c++"]),
        machine(run=commands(), has=["uv", "cc", "c++"], environment={"KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"}),
        machine(has=["cc", "c++", "mvn"]),
        machine(has=["uv", "mvn", "my-cc", "my-cxx"], environment={"CC": "my-cc", "CXX": "my-cxx"}),
    ],
    ids=["docker", "a named broker", "venv in place of uv", "named compilers"],
)
def test_there_is_more_than_one_way(enough: Machine, tmp_path: Path) -> None:
    assert exits(enough, tmp_path) == []


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    bare = machine(python=(3, 9), has=[], run=commands(), free=0, ensurepip=False)
    assert exits(bare, tmp_path)[:4] == [Exit.PYTHON, Exit.INSTALLER, Exit.COMPILER, Exit.BROKER]
    assert set(exits(bare, tmp_path)[4:]) == {Exit.DISK}


def test_once_all_is_built_neither_compiler_nor_8_gib_are_asked_for(tmp_path: Path) -> None:
    packages = tmp_path / ".venv" / "lib" / "python3.11" / "site-packages"
    for name in ("llama_cpp", "hnswlib.cpython-311.so"):
        (packages / name).mkdir(parents=True)
    assert exits(machine(has=["uv", "mvn"], free=2 * GIB), tmp_path) == []


def test_once_kafka_is_here_maven_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "home" / "kafka-4.1.0" / "libs").mkdir(parents=True)
    assert exits(machine(has=["uv", "cc", "c++"]), tmp_path) == []


def test_javas_version_is_read_from_what_it_says() -> None:
    assert java_version(commands(java=(0, 'java version "1.8.0_392"'))) == 1  # old numbering: too old anyway
    assert java_version(commands(java=(0, 'openjdk version "21" 2023-09-19'))) == 21
    assert java_version(commands(java=(1, "No Java runtime present"))) is None
    assert java_version(commands()) is None


def test_the_check_runs_before_anything_is_installed(tmp_path: Path) -> None:
    """With the standard library alone, in a machine where no command is found."""
    script = REPOSITORY / "streams" / "preflight.py"
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(script), "--repository", str(tmp_path), "--home", str(tmp_path)],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == Exit.COMPILER
    assert "setup: Missing: a C compiler" in done.stderr
    assert "exit code 12" in done.stderr


# --- make ------------------------------------------------------------------------------------------

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="GNU make is not here")


def dry_run(*arguments: str, folder: Path = REPOSITORY) -> str:
    """What make would do."""
    environment = {key: value for key, value in os.environ.items() if key not in {"MAKEFLAGS", "MAKELEVEL", "PROFILE"}}
    done = subprocess.run(
        ["make", "--dry-run", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


@needs_make
@pytest.mark.parametrize(
    ("arguments", "profile"),
    [
        (["setup"], "small"),
        (["demo"], "small"),
        (["demo", "PROFILE=tiny"], "tiny"),
        (["test"], "tiny"),
        (["test", "PROFILE=small"], "small"),
        ([], "small"),
    ],
)
def test_each_target_pulls_the_models_of_its_profile(arguments: list[str], profile: str) -> None:
    assert f"ruvllm --profile {profile} models pull" in dry_run(*arguments)


@needs_make
def test_demo_sets_up_first() -> None:
    steps = dry_run("demo")
    order = ["preflight.py", "models pull", "broker install", "ruvllm --profile small demo"]
    assert sorted(order, key=steps.index) == order


@needs_make
def test_test_looks_at_all_and_ends_with_the_test_runner() -> None:
    steps = dry_run("test").strip().splitlines()
    for tool in ("ruff check", "ruff format --check", "mypy", "lint-imports"):
        assert any(tool in step for step in steps)
    assert "pytest --cov" in steps[-1]
    assert "|" not in steps[-1]  # a pipe would hold the output back and swallow the exit code
    assert "tests/" not in steps[-1]  # all layers


def test_ci_is_make_test() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text()
    steps = [line for line in script.splitlines() if line and not line.startswith("#")]
    assert steps == ["set -eu", 'cd "$(dirname "$0")/.."', "exec make test"]


@needs_make
def test_nothing_is_installed_again_until_lock_or_project_changes(tmp_path: Path) -> None:
    # given a folder whose environment is made
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    stamp = re.search(r"touch (\S+)", dry_run("environment", folder=tmp_path))
    assert stamp
    (tmp_path / ".venv").mkdir()
    (tmp_path / stamp.group(1)).touch()
    # then nothing is installed, even when the files are newer than the environment
    (tmp_path / "requirements.lock").touch()
    assert "pip sync" not in dry_run("environment", folder=tmp_path)
    # and when one of them says something else, then it is
    with (tmp_path / "pyproject.toml").open("a") as project:
        project.write("\n# changed\n")
    assert "pip sync" in dry_run("environment", folder=tmp_path)


def test_only_hashed_packages_are_installed() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    assert "pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock" in makefile
    assert "--no-deps --no-build-isolation --editable ." in makefile


# --- the lock --------------------------------------------------------------------------------------

PINS = {
    canonicalize_name(name): version for name, version in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", LOCK, re.MULTILINE)
}


def test_the_lock_names_no_package_source() -> None:
    for word in ("://", "--index", "--extra-index", "--find-links", "--trusted-host", " @ ", "file:"):
        assert word not in LOCK


def test_every_package_in_the_lock_has_hashes() -> None:
    entries = re.split(r"\n(?=[A-Za-z0-9])", LOCK[LOCK.index("\n", LOCK.index("make lock")) + 1 :])
    assert len(entries) >= len(PINS) > 50
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+==\S+", entry)
        assert "--hash=sha256:" in entry


def test_the_lock_covers_every_dependency_with_a_version_that_it_allows() -> None:
    wanted = list(PROJECT["project"]["dependencies"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        wanted += extra
    for requirement in map(Requirement, wanted):
        versions = re.findall(rf"^{re.escape(canonicalize_name(requirement.name))}==([^\s;]+)", LOCK, re.MULTILINE)
        assert versions, f"{requirement.name} is not in the lock: make lock"
        assert all(version in requirement.specifier for version in versions), requirement


def test_the_lock_can_build_the_project_itself() -> None:
    (requirement,) = map(Requirement, PROJECT["build-system"]["requires"])
    assert PINS[requirement.name] in requirement.specifier


def test_a_command_that_is_not_there_is_an_exit_code_not_an_exception() -> None:
    assert run(["no-such-command-of-any-machine"]).returncode == preflight.COMMAND_NOT_FOUND
