"""The broker's settings: written down once in the packaged server.properties, rendered for each way to run."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

KAFKA_VERSION = "4.1.0"


def packaged(name: str) -> str:
    """The text of a file of `ruvllm/data/broker/`."""
    return (files("ruvllm") / "data" / "broker" / name).read_text(encoding="utf-8")


def shared_settings() -> dict[str, str]:
    """What all brokers of ours have in common."""
    lines = (line.strip() for line in packaged("server.properties").splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}


def local_settings(port: int, controller_port: int, data: Path) -> dict[str, str]:
    """For a process of this machine: it listens on the loopback address only."""
    return {
        **shared_settings(),
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "log.dirs": str(data),
    }


def container_settings(port: int, data: str) -> dict[str, str]:
    """For a container whose `port` is published under the same number.

    The broker also calls itself by its advertised address (transaction markers go that way), so inside
    and outside must agree on the port.
    """
    return {
        **shared_settings(),
        "listeners": f"PLAINTEXT://:{port},CONTROLLER://:{port + 1}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.quorum.voters": f"1@localhost:{port + 1}",
        "log.dirs": data,
    }


def as_properties(settings: Mapping[str, str]) -> str:
    """The text of a properties file; a backslash is its escape character."""
    return "".join(f"{key}={value.replace(chr(92), chr(92) * 2)}\n" for key, value in settings.items())


def as_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """What the image apache/kafka reads: KAFKA_ and the key in capitals, its dots as underscores."""
    return {f"KAFKA_{key.upper().replace('.', '_')}": value for key, value in settings.items()}
