"""The facts that every report begins with: what was run, where, when, with which seed and sizes."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson


def report(command: str, *, seed: int, sizes: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """One report: `results` at the top level, beside what they were measured on."""
    return {
        "command": command,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": version("ruvllm"),
        "machine": machine(),
        "seed": seed,
        "sizes": sizes,
        **results,
    }


def machine() -> dict[str, Any]:
    """Processor, cores, memory in GiB, system and Python."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.processor()
    return platform.machine()


def write_report(file: Path | None, content: dict[str, Any]) -> None:
    """Write a report as indented JSON, if a file was named."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n")


def quantiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile in milliseconds (nearest rank)."""
    ordered = sorted(seconds)

    def rank(share: float) -> float:
        return round(ordered[math.ceil(share * len(ordered)) - 1] * 1000, 2)

    return {"p50": round(statistics.median(ordered) * 1000, 2), "p95": rank(0.95), "p99": rank(0.99)}
