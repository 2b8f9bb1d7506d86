"""Records of `memory.changed` into memory, as every reader of the log does it.

Invariant: what cannot be folded (a newer writer's event, a foreign embedder's vector) is left out and named, and
the rest goes on: two readers of the same records leave out the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from ruvllm.agents.memory_fold import CHANGES, fold
from ruvllm.errors import RuvllmError
from ruvllm.models.memory.store import Memory
from ruvllm.streams.guard import read
from ruvllm.streams.records import Record


def fold_records(memory: Memory, records: Iterable[Record]) -> list[str]:
    """Fold records in their order; for each that was left out its place and why."""
    left_out = []
    for record in records:
        try:
            fold(memory, read(record, CHANGES), record.offset)  # type: ignore[arg-type]
        except RuvllmError as error:
            left_out.append(f"partition {record.partition}, offset {record.offset}: {error}")
    return left_out
