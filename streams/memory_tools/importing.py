"""Write an export into a log, as changes of memory like any other: state stays a fold of the log.

Invariant: a node's member is put by its id and an edge's changes travel in one transaction, so what was
broken off can be done again with `merge`: only what memory lacks is written, and no strength counts twice.
That is why this does not go through the sender: it may write a record again, and a contribution is not the
same twice. The producer's name is taken before memory is folded, so of two imports at once one fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aiokafka.errors import KafkaError

from ruvllm.agents.outbox import Emit, Outbox
from ruvllm.errors import InvalidRequest, RuvllmError, TopicMismatch
from ruvllm.models.memory.node import Contents
from ruvllm.schemas.memory import MemoryChange
from ruvllm.streams.connection import connected
from ruvllm.streams.fenced_producer import FencedProducer
from ruvllm.streams.memory_tools.export import Export, changes, missing_from
from ruvllm.streams.memory_tools.reading import Folded, NewMemory, fold_file, fold_to_end
from ruvllm.streams.serial import SerialLog, SerialSender
from ruvllm.streams.topology import Names

CHANGES_AT_ONCE = 500
"""In one transaction: with vectors some 2 MB."""


@dataclass(frozen=True)
class Imported:
    """What was written, and the memory that the log gives now."""

    written: Contents
    changes: int
    after: Folded


async def import_into_kafka(
    bootstrap: str, names: Names, export: Export, *, merge: bool, new_memory: NewMemory, state_folder: Path
) -> Imported:
    """Write an export into `memory.changed`, and fold the log to see that it is there.

    Raises InvalidRequest if memory holds some of it and `merge` is not given, InvalidConfiguration if the two
    cannot be one memory, InvalidDocument if some of it can be no change, RuvllmError if writing breaks off.
    """
    producer = FencedProducer(f"{names.prefix}.memory-import", bootstrap, names, source="import")
    async with connected(bootstrap, producer):
        before = await fold_to_end(bootstrap, names, new_memory, state_folder)
        if len(before.spans) != names.partitions:
            raise TopicMismatch(
                f"memory.changed has {len(before.spans)} partitions, kafka.partitions is {names.partitions}"
            )
        missing = _to_write(before, export, merge=merge)
        batches = _batches(missing, export)
        written = 0
        try:
            for batch in batches:
                await producer.write([(Outbox([Emit(change) for change in batch]), None)])
                written += len(batch)
        except (KafkaError, TimeoutError) as error:
            raise RuvllmError(
                f"the import broke off after {written} changes: {error!r}",
                hint="Run it again with --merge: what is written already is left as it is.",
            ) from error
    after = await fold_to_end(bootstrap, names, new_memory, state_folder)
    return _checked(Imported(missing, written, after), export)


async def import_into_file(file: Path, names: Names, export: Export, *, merge: bool, new_memory: NewMemory) -> Imported:
    """The same for a serial log's file. Raises as `import_into_kafka`."""
    missing = _to_write(fold_file(file, names, new_memory), export, merge=merge)
    batches = _batches(missing, export)
    log = SerialLog(file)
    try:
        for batch in batches:
            await SerialSender(log, names).send([Emit(change) for change in batch])
    finally:
        log.close()
    return _checked(Imported(missing, sum(map(len, batches)), fold_file(file, names, new_memory)), export)


def _to_write(before: Folded, export: Export, *, merge: bool) -> Contents:
    missing = missing_from(before.memory, export)
    nodes = len(export.contents.nodes) - len(missing.nodes)
    edges = len(export.contents.edges) - len(missing.edges)
    if (nodes or edges) and not merge:
        raise InvalidRequest(
            f"memory holds {nodes} of the {len(export.contents.nodes)} nodes and {edges} of the "
            f"{len(export.contents.edges)} edges of this export",
            hint="--merge writes the others and leaves these as they are.",
        )
    return missing


def _batches(missing: Contents, export: Export) -> list[list[MemoryChange]]:
    """All changes, cut so that those of one edge stay together."""
    found: list[list[MemoryChange]] = [[]]
    for group in changes(missing, export.head.digest):
        if found[-1] and len(found[-1]) + len(group) > CHANGES_AT_ONCE:
            found.append([])
        found[-1] += group
    return [batch for batch in found if batch]


def _checked(done: Imported, export: Export) -> Imported:
    """Raises RuvllmError if the log does not give what was written."""
    lacking = missing_from(done.after.memory, export)
    if lacking.nodes or lacking.edges:
        raise RuvllmError(
            f"memory lacks {len(lacking.nodes)} nodes and {len(lacking.edges)} edges of what was written",
            hint="Was something removed meanwhile? `ruvllm memory import --merge` writes it again.",
        )
    return done
