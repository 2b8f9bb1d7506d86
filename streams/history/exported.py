"""A log in a folder: one Parquet file a topic, and a manifest that says what they hold.

Invariant: the folder appears whole, by one rename, its manifest written last; what is damaged is refused before any
of it is used. Records are as they were read: key, value, headers, partition, offset and time, tombstones as well.
Offsets have gaps where the log has them, so places in the export are places in the log that it was made from.

What stages hand on to each other (`Keeping.PASSING`) is not exported: let a service come to rest before its log is
carried elsewhere, or what is between two stages stays behind.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from ruvllm.errors import InvalidConfiguration, InvalidRequest
from ruvllm.streams.history.ranges import Range
from ruvllm.streams.history.source import Place, Source, Spans, in_one_order
from ruvllm.streams.records import Record
from ruvllm.streams.topology import TOPICS, Keeping, Names

FORMAT = 1
MANIFEST = "manifest.json"
ROWS_AT_ONCE = 2_000
COLUMNS = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("time_ms", pa.int64()),
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("headers", pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))),
    ]
)

CARRIED = tuple(t.name for t in TOPICS if t.keeping is not Keeping.PASSING and t.name != "memory.folded")
"""Topics that a service needed to go on elsewhere: the log, and its owners' state. `memory.folded` speaks of views
that are not there."""

Committed = Mapping[str, Mapping[str, Place]]
"""Stage -> topic -> how far it had come."""
Advance = Callable[[int], None]
"""Told how many records more are done."""


@dataclass(frozen=True)
class TopicFile:
    """One exported topic. `spans`: partition -> first and next offset; times in milliseconds, -1: none are known."""

    log: str
    file: str
    sha256: str
    bytes: int
    records: int
    spans: Spans
    first_ms: int
    last_ms: int


@dataclass(frozen=True)
class Manifest:
    """What an export holds. `committed`: how far each stage had come in it."""

    prefix: str
    tiers: tuple[str, ...]
    partitions: int
    in_one_order: bool
    topics: Mapping[str, TopicFile]
    committed: Committed = field(default_factory=dict)

    @property
    def names(self) -> Names:
        return Names(self.prefix, self.tiers, self.partitions)


# --- writing --------------------------------------------------------------------------------------------


async def export(
    source: Source,
    folder: Path,
    topics: Collection[str] = CARRIED,
    stretch: Range | None = None,
    *,
    committed: Committed | None = None,
    advance: Advance = lambda _: None,
) -> Manifest:
    """Write a stretch of these topics into a new folder; all ends are looked up before the first record is read.

    Raises InvalidRequest if the folder is there already, or if the range names offsets and there are several topics.
    """
    stretch = stretch or Range()
    if stretch.of_one_topic and len(topics) != 1:
        raise InvalidRequest(
            f"places are of one topic, and {len(topics)} are to be exported",
            hint="Name it with --topic, or give times.",
        )
    places = {name: await stretch.places(source, name) for name in topics}
    with _appearing(folder) as writing:
        files = {}
        for name, (start, end) in places.items():
            files[name] = await _write(source, name, start, end, writing, advance)
        names = source.names
        manifest = Manifest(names.prefix, names.tiers, names.partitions, source.in_one_order, files, committed or {})
        (writing / MANIFEST).write_bytes(orjson.dumps(_sealed(manifest), option=orjson.OPT_INDENT_2))
    return manifest


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder to write in, that becomes `folder` when all is done, and is gone if that fails."""
    if folder.exists():
        raise InvalidRequest(f"{folder} is there already", hint="Name a folder that is not.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    writing = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(writing, ignore_errors=True)  # of a process that died
    writing.mkdir()
    try:
        yield writing
        writing.replace(folder)
    finally:
        shutil.rmtree(writing, ignore_errors=True)


async def _write(source: Source, name: str, start: Place, end: Place, writing: Path, advance: Advance) -> TopicFile:
    file = writing / f"{name}.parquet"
    records, times = 0, []
    with pq.ParquetWriter(file, COLUMNS, compression="zstd") as writer:
        async for batch in source.read(name, start, end):
            if not batch:
                continue
            writer.write_table(pa.Table.from_pylist([_row(record) for record in batch], COLUMNS))
            times += [min(record.time_ms for record in batch), max(record.time_ms for record in batch)]
            records += len(batch)
            advance(len(batch))
    return TopicFile(
        log=await source.log_id(name),
        file=file.name,
        sha256=_sha256(file),
        bytes=file.stat().st_size,
        records=records,
        spans={p: (start[p], end[p]) for p in start},
        first_ms=min(times, default=-1),
        last_ms=max(times, default=-1),
    )


def _row(record: Record) -> dict[str, Any]:
    return {
        "partition": record.partition or 0,
        "offset": record.offset,
        "time_ms": record.time_ms,
        "key": record.key,
        "value": record.value,
        "headers": [{"name": name, "value": value} for name, value in record.headers.items()],
    }


def _sealed(manifest: Manifest) -> dict[str, Any]:
    """As it is written: with its format and its own hash. Numbers that name partitions are text in JSON."""
    found = {
        "format": FORMAT,
        "prefix": manifest.prefix,
        "tiers": list(manifest.tiers),
        "partitions": manifest.partitions,
        "in_one_order": manifest.in_one_order,
        "topics": {
            name: {**vars(file), "spans": {str(p): list(span) for p, span in sorted(file.spans.items())}}
            for name, file in manifest.topics.items()
        },
        "committed": {
            stage: {name: {str(p): at for p, at in sorted(place.items())} for name, place in topics.items()}
            for stage, topics in manifest.committed.items()
        },
    }
    return {**found, "sha256": _own_hash(found)}


def _own_hash(manifest: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


# --- reading --------------------------------------------------------------------------------------------


def manifest_of(folder: Path) -> Manifest:
    """What an export says that it holds. Raises InvalidConfiguration if there is none, or it was changed."""
    file = folder / MANIFEST
    if not file.is_file():
        raise InvalidConfiguration(
            f"{folder} holds no exported log: {MANIFEST} is missing", hint="`ruvllm log export FOLDER` makes one."
        )
    try:
        given = orjson.loads(file.read_bytes())
        if given["sha256"] != _own_hash(given):
            raise InvalidConfiguration(f"{file} is not what was written", hint="Export the log again.")
        if given["format"] != FORMAT:
            raise InvalidConfiguration(
                f"{file} is of format {given['format']}, this version reads {FORMAT}", hint="Export the log again."
            )
        return Manifest(
            prefix=given["prefix"],
            tiers=tuple(given["tiers"]),
            partitions=given["partitions"],
            in_one_order=given["in_one_order"],
            topics={
                name: TopicFile(**{**row, "spans": {int(p): (a, b) for p, (a, b) in row["spans"].items()}})
                for name, row in given["topics"].items()
            },
            committed={
                stage: {name: {int(p): at for p, at in place.items()} for name, place in topics.items()}
                for stage, topics in given["committed"].items()
            },
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidConfiguration(f"{file} cannot be read: {error!r}", hint="Export the log again.") from error


class ExportedSource:
    """An exported log. A topic that was not exported is an error, not an empty one."""

    def __init__(self, folder: Path) -> None:
        """Raises InvalidConfiguration as `manifest_of`, and if a file is missing or not what was written."""
        self.manifest = manifest_of(folder)
        self.names = self.manifest.names
        self.in_one_order = self.manifest.in_one_order
        self._folder = folder
        for row in self.manifest.topics.values():
            file = folder / row.file
            if not file.is_file():
                raise InvalidConfiguration(f"{file} is missing", hint="Export the log again.")
            if _sha256(file) != row.sha256:
                raise InvalidConfiguration(f"{file} is not what was written", hint="Export the log again.")

    async def log_id(self, name: str) -> str:
        return self._topic(name).log

    async def spans(self, name: str) -> Spans:
        return dict(self._topic(name).spans)

    async def place_at(self, name: str, time: datetime) -> dict[int, int]:
        row = self._topic(name)
        if row.records and row.last_ms < 0:
            raise InvalidRequest("the records of a serial log have no times", hint="Give an offset, such as 0:120.")
        since, found = time.timestamp() * 1000, {p: end for p, (_, end) in row.spans.items()}
        for rows in self._parquet(name).iter_batches(ROWS_AT_ONCE, columns=["partition", "offset", "time_ms"]):
            for partition, offset, at in zip(*(column.to_pylist() for column in rows.columns), strict=True):
                if at >= since:
                    found[partition] = min(found[partition], offset)
        return found

    async def read(
        self, name: str, start: Place | None = None, end: Place | None = None, only: Collection[int] | None = None
    ) -> AsyncIterator[list[Record]]:
        row, topic = self._topic(name), self.names.topic(name)
        one_first, one_end = (
            in_one_order(start, 0),
            in_one_order(end, max((e for _, e in row.spans.values()), default=0)),
        )
        for rows in self._parquet(name).iter_batches(ROWS_AT_ONCE):
            batch = []
            for cells in rows.to_pylist():
                partition, offset = cells["partition"], cells["offset"]
                first = one_first if self.in_one_order else (start or {}).get(partition, 0)
                until = one_end if self.in_one_order else (end or {}).get(partition, offset + 1)
                if first <= offset < until and (only is None or partition in only):
                    headers = {pair["name"]: pair["value"] for pair in cells["headers"]}
                    batch.append(
                        Record(topic, partition, cells["key"], cells["value"], headers, offset, cells["time_ms"])
                    )
            yield batch

    def _topic(self, name: str) -> TopicFile:
        if name not in self.manifest.topics:
            raise InvalidRequest(
                f"{name} is not in the export {self._folder}", hint=f"It holds {', '.join(self.manifest.topics)}."
            )
        return self.manifest.topics[name]

    def _parquet(self, name: str) -> pq.ParquetFile:
        return pq.ParquetFile(self._folder / self._topic(name).file)
