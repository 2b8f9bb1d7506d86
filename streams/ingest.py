"""Documents from files into memory, and the wait until answers can use them.

Two waits: for the documents stage to say what became of each command, and for every living view of
memory to have folded the changes that it made.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiokafka import AIOKafkaConsumer
from pydantic import ValidationError

from ruvllm.errors import InvalidDocument, RuvllmError
from ruvllm.schemas.memory import DocumentProcessed, DocumentState, MediaType, MemoryFolded, PutDocument, RemoveDocument
from ruvllm.schemas.wire import decode
from ruvllm.streams.client import send_within, service_names
from ruvllm.streams.connection import connected
from ruvllm.streams.log_reader import listen_from_now, read_to_end
from ruvllm.streams.memory_view import REPORT_EVERY_S
from ruvllm.streams.sender import Sender
from ruvllm.streams.settings import Settings
from ruvllm.streams.topology import Names, client_names

MEDIA_TYPES: Mapping[str, MediaType] = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".txt": "text/plain",
    ".jsonl": "application/jsonl",
}
Progress = Callable[[DocumentProcessed], None]


def documents_in(paths: Iterable[Path], *, tenant: str = "default") -> list[PutDocument]:
    """One command a file, in order of name; a folder gives every document below it.

    The document's id is its path below the folder that was named. Raises InvalidDocument for a path
    that is missing, of another kind, or not UTF-8.
    """
    found: dict[str, PutDocument] = {}
    files_by_name: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise InvalidDocument(f"{path} does not exist", hint="Name a file or a folder of documents.")
        files = sorted(f for f in path.rglob("*") if _is_document(f)) if path.is_dir() else [path]
        if not files:
            raise InvalidDocument(f"{path} holds no document: {', '.join(MEDIA_TYPES)}")
        for file in files:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            if files_by_name.setdefault(name, file.resolve()) != file.resolve():
                raise InvalidDocument(
                    f"{files_by_name[name]} and {file} would both be document {name!r}",
                    hint="Name the folder that holds both: a document's id is its path below it.",
                )
            found[name] = _put(file, name, tenant)
    return list(found.values())


def _is_document(path: Path) -> bool:
    return path.suffix in MEDIA_TYPES and path.is_file()


def _put(file: Path, name: str, tenant: str) -> PutDocument:
    kind = MEDIA_TYPES.get(file.suffix)
    if kind is None:
        raise InvalidDocument(f"{file} is not one of {', '.join(MEDIA_TYPES)}")
    try:
        content = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidDocument(
            f"{file} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
        ) from error
    try:
        return PutDocument(tenant=tenant, time=datetime.now(UTC), document_id=name, media_type=kind, content=content)
    except ValidationError as error:
        raise InvalidDocument(
            f"{file} cannot be sent as document {name!r}: {error.errors()[0]['msg']}",
            hint="An id has 1 to 128 characters and no control characters: rename the file, or name a folder below.",
        ) from error


async def ingest(
    settings: Settings,
    bootstrap: str,
    commands: Sequence[PutDocument | RemoveDocument],
    *,
    progress: Progress | None = None,
    timeout_s: float = 600.0,
) -> list[DocumentProcessed]:
    """Send document commands and wait until answers can use what they made.

    Returns what became of each, in the order of processing. Raises RuvllmError when the wait is over
    before that (the commands stay in the log and are carried out when the service is up), and
    BrokerUnavailable when they could not even be written.
    """
    give_up_at = time.monotonic() + timeout_s
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None, isolation_level="read_committed")
    async with connected(bootstrap, consumer):
        names = await service_names(consumer, settings.kafka.prefix)
        await listen_from_now(consumer, names.topic("document.processed"))
        sender = Sender(bootstrap, names, source="ingest")
        async with connected(bootstrap, sender):
            await send_within(give_up_at - time.monotonic(), sender, commands)
        done: list[DocumentProcessed] = []
        try:
            async with asyncio.timeout(give_up_at - time.monotonic()):
                await _until_processed(consumer, commands, done, progress)
        except TimeoutError as error:
            raise RuvllmError(
                f"{len(commands) - len(done)} of {len(commands)} documents are not processed after {timeout_s:.0f} s",
                hint="They stay in the log. Is the learn process up? `ruvllm status`.",
            ) from error
    try:
        async with asyncio.timeout(give_up_at - time.monotonic()):
            await until_folded(bootstrap, names, _furthest(done))
    except TimeoutError as error:
        raise RuvllmError(
            "the documents are in the log, but no view of memory has folded them yet",
            hint="Is the answer process up? `ruvllm status`.",
        ) from error
    return done


async def _until_processed(
    consumer: AIOKafkaConsumer,
    commands: Sequence[PutDocument | RemoveDocument],
    done: list[DocumentProcessed],
    progress: Progress | None,
) -> None:
    """Until `done` holds what became of each command."""
    waiting = {command.command_id for command in commands}
    while waiting:
        message = await consumer.getone()
        event = decode((DocumentProcessed,), message.value)
        if event.command_id in waiting:
            waiting.discard(event.command_id)
            done.append(event)
            if progress is not None:
                progress(event)


async def until_folded(bootstrap: str, names: Names, offsets: Mapping[str, int]) -> None:
    """Until every living view of memory has folded up to `offsets`, and there is one at least."""
    while True:
        views: dict[str, MemoryFolded] = {}
        async for record in read_to_end(bootstrap, names.topic("memory.folded")):
            if record.value is not None:
                event = decode((MemoryFolded,), record.value)
                views[event.view_id] = event
        alive_since = datetime.now(UTC) - timedelta(seconds=3 * REPORT_EVERY_S)
        living = [v for v in views.values() if v.time >= alive_since]
        if living and all(v.offsets.get(p, 0) >= offset for v in living for p, offset in offsets.items()):
            return
        await asyncio.sleep(0.1)


def _furthest(events: Iterable[DocumentProcessed]) -> dict[str, int]:
    furthest: dict[str, int] = {}
    for event in events:
        for partition, offset in event.memory_offsets.items():
            furthest[partition] = max(offset, furthest.get(partition, 0))
    return furthest


async def documents_known(settings: Settings, bootstrap: str) -> list[DocumentState]:
    """What memory holds of which documents, by tenant and name."""
    names = client_names(settings.kafka.prefix, settings.kafka.partitions)
    states: dict[str, DocumentState] = {}
    async for record in read_to_end(bootstrap, names.topic("document.state")):
        if record.value is not None:
            state = decode((DocumentState,), record.value)
            states[state.record_key] = state
    return sorted((s for s in states.values() if not s.removed), key=lambda s: (s.tenant, s.document_id))
