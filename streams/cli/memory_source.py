"""Where the commands of `ruvllm memory` get memory from: the broker's log, or a serial log's file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ruvllm.streams.cli.context import of, run
from ruvllm.streams.cli.service import bootstrap_of
from ruvllm.streams.settings import Settings

if TYPE_CHECKING:
    from ruvllm.streams.memory_tools.reading import Folded, NewMemory

SerialFile = Annotated[Path | None, typer.Option("--serial-log", help="without Kafka: this log's file")]


def folded(context: typer.Context, serial_log: Path | None) -> Folded:
    """Memory at the log's end. Raises BrokerUnavailable, InvalidConfiguration."""
    from ruvllm.streams.memory_tools.reading import fold_file, fold_to_end
    from ruvllm.streams.wiring import names_of

    settings = of(context).settings
    names, new_memory = names_of(settings), new_memory_of(settings)
    if serial_log is not None:
        return fold_file(serial_log, names, new_memory)
    return run(fold_to_end(bootstrap_of(settings), names, new_memory, state_folder_of(settings)))


def new_memory_of(settings: Settings) -> NewMemory:
    """How a worker of these settings makes an empty memory."""
    from ruvllm.streams.clock import SystemClock
    from ruvllm.streams.wiring import Wiring

    return Wiring(settings, SystemClock()).new_memory


def state_folder_of(settings: Settings) -> Path:
    """Where each worker of this installation has a folder of its own."""
    return settings.snapshots_folder("any").parent
