"""The command line: `ruvllm`. The one place that prints.

Each module holds the commands of one subject. Commands import what they need when they run, so that
`ruvllm --help` is quick. An error of ours ends with its message and what to do, exit status 2; a
missing requirement of the machine with exit status 3.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ruvllm.errors import MissingRequirement, RuvllmError
from ruvllm.streams.cli import (
    answering,
    demo,
    documents,
    history,
    inspection,
    log,
    loops,
    memory,
    model_store,
    proof,
    replay,
    router,
    service,
    undo,
)
from ruvllm.streams.cli.context import Context

app = typer.Typer(
    help="A self-learning LLM service whose learning is a fold over a Kafka log.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def settings(
    context: typer.Context,
    profile: Annotated[str | None, typer.Option(help="which models: small, tiny or lfm2")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="any setting, as kafka.prefix=test")] = None,
    config: Annotated[Path | None, typer.Option(help="configuration file instead of ruvllm.toml")] = None,
) -> None:
    """Settings come from ruvllm.toml, then RUVLLM_* variables, then these flags."""
    context.obj = Context(profile=profile, pairs=tuple(set_ or ()), file=config)


for module in (
    demo,
    service,
    answering,
    documents,
    memory,
    history,
    undo,
    log,
    replay,
    model_store,
    inspection,
    loops,
    router,
    proof,
):
    module.register(app)


def main() -> None:
    """Run the command line; our own errors end in one readable line."""
    try:
        app()
    except RuvllmError as error:
        notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
        print(f"ruvllm: {error.message}{notes}\n  {error.hint} [{error.code}]", file=sys.stderr)
        sys.exit(3 if isinstance(error, MissingRequirement) else 2)
