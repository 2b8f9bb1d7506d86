"""Records of `memory.changed` into memory, as every reader of the log does it.

Invariant: what cannot be folded (a newer writer's event, a foreign embedder's vector) is left out and named, and
the rest goes on: two readers of the same records leave out the same, whatever batches they read them in.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ruvllm.agents.memory_fold import CHANGES, fold
from ruvllm.errors import RuvllmError
from ruvllm.models.memory.store import Memory
from ruvllm.streams.guard import read_all
from ruvllm.streams.records import Record

READ_AT_ONCE = 64
"""Few enough to stay in the processor's cache from decoding to folding: 500 take half as long again."""


def fold_records(memory: Memory, records: Iterable[Record]) -> list[str]:
    """Fold records in their order; for each that was left out its place and why."""
    left_out: list[str] = []
    rest = iter(records)
    while batch := list(islice(rest, READ_AT_ONCE)):
        for record, change in zip(batch, read_all(batch, CHANGES), strict=True):
            try:
                if isinstance(change, RuvllmError):
                    raise change
                fold(memory, change, record.offset)
            except RuvllmError as error:
                left_out.append(f"partition {record.partition}, offset {record.offset}: {error}")
    return left_out
