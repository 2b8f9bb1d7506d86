"""What this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from ruvllm.errors import RuvllmError
from ruvllm.streams.model_files import ModelStore, packaged_catalogue
from ruvllm.streams.settings import Settings
from ruvllm.streams.topics import admin, topic_states
from ruvllm.streams.wiring import names_of

DISK_GB = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `advice` says what to do if it is not `good`."""

    subject: str
    good: bool
    fact: str
    advice: str = ""


def examine(settings: Settings, bootstrap: Callable[[], str]) -> list[Finding]:
    """Everything that the service needs, in the order in which it needs it."""
    return [*_machine(settings), *_models(settings), *_broker(settings, bootstrap)]


def _machine(settings: Settings) -> list[Finding]:
    home = settings.home
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free / 1e9
    packages = ", ".join(f"{p} {version(p)}" for p in ("faust-streaming", "aiokafka", "llama-cpp-python", "hnswlib"))
    return [
        Finding("python", sys.version_info >= (3, 11), platform.python_version(), "Use Python 3.11 or later."),
        Finding("machine", True, f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"),
        Finding("packages", True, packages),
        Finding("disk", free > DISK_GB, f"{free:.0f} GB free in {home}", f"Free {DISK_GB:.0f} GB, or set `home`."),
    ]


def _models(settings: Settings) -> list[Finding]:
    catalogue = packaged_catalogue()
    store = ModelStore(settings.models_folder, catalogue)
    found = []
    for model in catalogue.profile(settings.profile).models:
        status = store.status(model)
        pullable = catalogue.model(model).pullable
        advice = f"`ruvllm models pull {model}`" if pullable else f"`ruvllm models add {model} FILE`"
        found.append(Finding(f"model {model}", status == "verified", status, advice))
    return found


def _broker(settings: Settings, bootstrap: Callable[[], str]) -> list[Finding]:
    try:
        servers = bootstrap()
    except RuvllmError as error:
        return [Finding("kafka", False, error.message, error.hint)]
    names = names_of(settings)

    async def look() -> list[Finding]:
        try:
            async with admin(servers) as client:
                states = await topic_states(client, names)
        except RuvllmError as error:
            return [Finding("kafka", False, error.message, error.hint)]
        wrong = [s for s in states if s.present and not s.fits]
        missing = sum(not s.present for s in states)
        fact = f"{len(states) - missing} of {len(states)} topics" + (f", {wrong[0].name} does not fit" if wrong else "")
        return [
            Finding("kafka", True, f"answers at {servers}"),
            Finding("topics", not wrong, fact, "Set kafka.partitions to what is there, or another kafka.prefix."),
        ]

    return asyncio.run(look())
