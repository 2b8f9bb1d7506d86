"""What there is of a log: by topic its spans, its records and their times."""

from __future__ import annotations

from dataclasses import dataclass

from ruvllm.streams.history.exported import CARRIED, Committed, ExportedSource
from ruvllm.streams.history.source import SerialSource, Source, Spans


@dataclass(frozen=True)
class Topic:
    """`spans`: partition -> first and next offset. Times are the broker's, in milliseconds, -1: none are known."""

    name: str
    spans: Spans
    records: int
    first_ms: int
    last_ms: int


async def survey(source: Source) -> list[Topic]:
    """Every topic that is kept. Records are counted by reading them: offsets have gaps."""
    if isinstance(source, ExportedSource):  # it was counted when it was made
        rows = source.manifest.topics.items()
        return [Topic(name, row.spans, row.records, row.first_ms, row.last_ms) for name, row in rows]
    return [await _topic(source, name) for name in CARRIED]


async def _topic(source: Source, name: str) -> Topic:
    spans, records, times = await source.spans(name), 0, []
    async for batch in source.read(name, end={p: end for p, (_, end) in spans.items()}):
        records += len(batch)
        times += [bound(record.time_ms for record in batch) for bound in (min, max) if batch]
    return Topic(name, spans, records, min(times, default=-1), max(times, default=-1))


def committed_in(source: SerialSource) -> Committed:
    """How far each stage has come in a serial log."""
    found: dict[str, dict[str, dict[int, int]]] = {}
    kafka = {source.names.topic(name): name for name in CARRIED}
    for words, at in source.positions.items():
        stage, _, topic = words.partition(" ")
        if topic in kafka:
            found.setdefault(stage, {})[kafka[topic]] = {0: at}
    return found
