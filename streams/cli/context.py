"""What every command starts from: the settings, the flags they came from, and a console."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import structlog
import typer
from rich.console import Console

from ruvllm.errors import InvalidConfiguration
from ruvllm.streams.settings import Settings, resolve

T = TypeVar("T")


@dataclass
class Context:
    """The global flags, and what follows from them."""

    profile: str | None
    pairs: tuple[str, ...]
    file: Path | None

    @cached_property
    def flags(self) -> dict[str, str]:
        found = {}
        for pair in self.pairs:
            name, equals, value = pair.partition("=")
            if not equals:
                raise InvalidConfiguration(f"--set {pair!r} has no `=`", hint="Write it as --set kafka.prefix=test.")
            found[name.strip()] = value
        if self.profile is not None:
            found["profile"] = self.profile
        return found

    @cached_property
    def settings(self) -> Settings:
        return resolve(self.flags, file=self.file)[0]

    @cached_property
    def console(self) -> Console:
        """It prints text as it is: what users write is no markup, and `:lock:` no picture."""
        return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def of(context: typer.Context) -> Context:
    """The command's own context."""
    found = context.find_object(Context)
    assert found is not None
    return found


def warnings_apart() -> None:
    """Warnings go to standard error: what is printed may be JSON."""
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end."""
    return asyncio.run(work)
