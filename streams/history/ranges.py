"""What `--from` and `--to` say: a moment or places of the log, and the stretch between two of them.

Invariant: a range is resolved against one topic of one source, by the broker's times of records or by offsets; it
holds the records from its start up to its end, the end itself left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ruvllm.errors import InvalidRequest
from ruvllm.streams.history.source import Source

Point = Literal["beginning", "end"] | datetime | dict[int, int]
"""A place in any topic (the first two), in any that has times, or partition -> offset in one topic."""

FORMS = "Write beginning, end, a time such as 2026-11-21T10:00:00+00:00, or places such as 0:120,1:98."
PLACES = re.compile(r"\d+:\d+(,\d+:\d+)*")


@dataclass(frozen=True)
class Range:
    """A stretch of the log."""

    start: Point = "beginning"
    end: Point = "end"

    @property
    def of_one_topic(self) -> bool:
        """Whether it names offsets: they mean something in one topic only."""
        return isinstance(self.start, dict) or isinstance(self.end, dict)

    @property
    def is_whole(self) -> bool:
        return (self.start, self.end) == ("beginning", "end")

    async def places(self, source: Source, name: str) -> tuple[dict[int, int], dict[int, int]]:
        """Where it starts and ends in a topic, each partition named.

        Raises InvalidRequest for a partition or an offset that the topic does not have, or if it ends before it starts.
        """
        start, end = await _place(source, name, self.start, 0), await _place(source, name, self.end, 1)
        for partition in start:
            if end[partition] < start[partition]:
                raise InvalidRequest(
                    f"the range ends at offset {end[partition]} of {name}, partition {partition}, before it starts "
                    f"at {start[partition]}",
                    hint="Exchange --from and --to.",
                )
        return start, end


def range_of(start: str, end: str) -> Range:
    """The range that two words of a command line mean. Raises InvalidRequest."""
    return Range(point_of(start, "--from"), point_of(end, "--to"))


def point_of(text: str, option: str) -> Point:
    """One end of a range. Raises InvalidRequest, naming the option."""
    word = text.strip()
    if word == "beginning":
        return "beginning"
    if word == "end":
        return "end"
    if PLACES.fullmatch(word):
        pairs = [(int(p), int(offset)) for p, offset in (pair.split(":") for pair in word.split(","))]
        if len(dict(pairs)) < len(pairs):
            raise InvalidRequest(f"{option} {text!r} names a partition twice", hint=FORMS)
        return dict(pairs)
    try:
        time = datetime.fromisoformat(word)
    except ValueError as error:
        raise InvalidRequest(f"{option} {text!r} is neither a time nor places of the log", hint=FORMS) from error
    if time.tzinfo is None:
        raise InvalidRequest(f"{option} {text!r} has no offset from UTC", hint=f"Write it as {time.isoformat()}+00:00.")
    return time


async def _place(source: Source, name: str, point: Point, side: Literal[0, 1]) -> dict[int, int]:
    """Every partition's offset; those that places leave out are at their beginning (side 0) or end (side 1)."""
    spans = await source.spans(name)
    if isinstance(point, datetime):
        return {**{p: span[1] for p, span in spans.items()}, **await source.place_at(name, point)}
    if isinstance(point, dict):
        for partition, offset in point.items():
            first, end = spans.get(partition, (0, -1))
            if not first <= offset <= end:
                held = f"it has {first} to {end} there" if partition in spans else f"it has partitions {sorted(spans)}"
                raise InvalidRequest(f"{name} has no place {partition}:{offset}: {held}", hint="`ruvllm log show`.")
        return {**{p: span[side] for p, span in spans.items()}, **point}
    return {p: span[0 if point == "beginning" else 1] for p, span in spans.items()}
