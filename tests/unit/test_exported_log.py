"""A log in a folder: it comes back as it was, gaps and tombstones included, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from ruvllm.errors import InvalidConfiguration, InvalidRequest
from ruvllm.streams.history.exported import ExportedSource, export
from ruvllm.streams.history.ranges import range_of
from ruvllm.streams.history.source import SerialSource
from ruvllm.streams.records import Record
from ruvllm.streams.serial import SerialLog
from ruvllm.streams.topology import Names

NAMES = Names("mine", ("small",), 3)
HEADERS = {"ce_type": b"ruvllm.memory.node_added.v1", "empty": b""}
MEMORY, STATE = "memory.changed", "document.state"


def row(name: str, partition: int, offset: int, value: bytes | None, at: int = 1000) -> Record:
    return Record(NAMES.topic(name), partition, b"key", value, HEADERS, offset, at + offset)


ROWS = [row(MEMORY, 0, 0, b"a"), row(MEMORY, 2, 1, b"b"), row(MEMORY, 0, 4, b"\xff\x00"), row(MEMORY, 0, 7, b"d")]


class Log:
    """Records by partition with gaps, as transactions leave them: the last offsets are markers."""

    names = NAMES
    in_one_order = False

    async def log_id(self, name: str) -> str:
        return f"cluster/{name}"

    async def spans(self, _: str) -> dict[int, tuple[int, int]]:
        return {0: (0, 9), 1: (0, 0), 2: (0, 3)}

    async def place_at(self, _: str, time: datetime) -> dict[int, int]:
        return {0: time.second}

    async def read(self, name: str, start: object = None, end: object = None) -> AsyncIterator[list[Record]]:
        if name == MEMORY:
            assert (start, end) == ({0: 0, 1: 0, 2: 0}, {0: 9, 1: 0, 2: 3})
            yield ROWS[:1]
            yield []
            yield ROWS[1:]
        else:
            yield [row(STATE, 1, 5, None)]


async def all_of(source: ExportedSource, name: str, *places: object, **only: object) -> list[Record]:
    return [record async for batch in source.read(name, *places, **only) for record in batch]  # type: ignore[arg-type]


async def made(folder: Path) -> ExportedSource:
    await export(Log(), folder, (MEMORY, STATE), committed={"reinforce": {"outcome.judged": {0: 3}}})  # type: ignore[arg-type]
    return ExportedSource(folder)


async def test_an_export_holds_what_was_read_with_its_real_places(tmp_path: Path) -> None:
    # given a log with gaps, bytes that are no text, and a tombstone; when exported; then it reads the same
    source = await made(tmp_path / "log")
    assert await all_of(source, MEMORY) == ROWS
    assert await all_of(source, STATE) == [row(STATE, 1, 5, None)]
    assert await source.spans(MEMORY) == {0: (0, 9), 1: (0, 0), 2: (0, 3)}
    assert await source.log_id(MEMORY) == "cluster/memory.changed"
    # and its places, times and partitions mean what they meant
    assert await all_of(source, MEMORY, {0: 4}, {0: 7, 2: 1}) == [ROWS[2]]
    assert await all_of(source, MEMORY, only={2}) == [ROWS[1]]
    assert await source.place_at(MEMORY, datetime.fromtimestamp(1.002, UTC)) == {0: 4, 1: 0, 2: 3}
    assert source.manifest.committed == {"reinforce": {"outcome.judged": {0: 3}}}
    assert source.names == NAMES


async def test_a_broken_off_export_leaves_nothing(tmp_path: Path) -> None:
    # given a log that fails on the way; when exported; then no folder is there
    class Failing(Log):
        async def read(self, name: str, start: object = None, end: object = None) -> AsyncIterator[list[Record]]:
            yield ROWS
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await export(Failing(), tmp_path / "log", (MEMORY,))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


async def test_what_is_damaged_or_missing_is_refused(tmp_path: Path) -> None:
    # given an export; when a file is changed, gone, or the manifest edited; then it is refused with the file's name
    folder = tmp_path / "log"
    await made(folder)
    file = folder / f"{STATE}.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"?")
    with pytest.raises(InvalidConfiguration, match=f"{STATE}.parquet is not what was written"):
        ExportedSource(folder)
    file.unlink()
    with pytest.raises(InvalidConfiguration, match=f"{STATE}.parquet is missing"):
        ExportedSource(folder)
    file.write_bytes(whole)
    manifest = folder / "manifest.json"
    given = orjson.loads(manifest.read_bytes())
    manifest.write_bytes(orjson.dumps({**given, "partitions": 4}))
    with pytest.raises(InvalidConfiguration, match="is not what was written"):
        ExportedSource(folder)
    manifest.unlink()
    with pytest.raises(InvalidConfiguration, match="holds no exported log"):
        ExportedSource(folder)


async def test_a_folder_that_is_there_and_a_topic_that_is_not_are_refused(tmp_path: Path) -> None:
    # given an export of two topics; when made again, or asked for a third; then that is said
    source = await made(tmp_path / "log")
    with pytest.raises(InvalidRequest, match="is there already"):
        await made(tmp_path / "log")
    with pytest.raises(InvalidRequest, match=r"training.recorded is not in the export"):
        await source.spans("training.recorded")
    # and places of several topics mean nothing
    with pytest.raises(InvalidRequest, match="places are of one topic"):
        await export(Log(), tmp_path / "other", (MEMORY, STATE), range_of("0:1", "end"))  # type: ignore[arg-type]


async def test_a_serial_logs_export_stays_in_one_order(tmp_path: Path) -> None:
    # given a serial log whose records name several partitions, so that each has gaps
    file = tmp_path / "log.jsonl"
    log = SerialLog(file)
    for n in range(6):
        log.append(row(MEMORY, n % 3, -1, str(n).encode()))
    log.close()
    serial = SerialSource(file, NAMES)
    # when exported; then a stretch of it holds what it held there, however its end is told
    await export(serial, tmp_path / "log", (MEMORY,))
    source = ExportedSource(tmp_path / "log")
    wanted = [replace(r, time_ms=-1) for batch in [b async for b in serial.read(MEMORY)] for r in batch]
    assert await all_of(source, MEMORY) == wanted
    assert await all_of(source, MEMORY, {0: 2}, {0: 5}) == wanted[2:5]
    assert await all_of(source, MEMORY, None, {0: 4, 1: 5}) == wanted[:5]
    assert await all_of(source, MEMORY, only=[1]) == [wanted[1], wanted[4]]
