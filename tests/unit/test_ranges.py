"""What --from and --to say, and where that is in a log."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ruvllm.errors import InvalidRequest
from ruvllm.streams.history.ranges import Range, point_of, range_of


class Log:
    """Two partitions, the second without its first records."""

    async def spans(self, _: str) -> dict[int, tuple[int, int]]:
        return {0: (0, 10), 1: (5, 9)}

    async def place_at(self, _: str, time: datetime) -> dict[int, int]:
        return {0: time.hour}


async def places(start: str, end: str) -> tuple[dict[int, int], dict[int, int]]:
    return await range_of(start, end).places(Log(), "memory.changed")  # type: ignore[arg-type]


def test_a_point_is_an_end_a_time_or_places() -> None:
    # given what a user may write; when read; then it is what was meant
    assert point_of("beginning", "--from") == "beginning"
    assert point_of("end", "--to") == "end"
    assert point_of("0:12,3:4", "--from") == {0: 12, 3: 4}
    assert point_of("2026-11-21T10:00:00+02:00", "--to") == datetime(2026, 11, 21, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("yesterday", "neither a time nor places"),
        ("2026-11-21T10:00:00", "no offset from UTC"),
        ("0:1,0:2", "a partition twice"),
        ("0:-1", "neither a time nor places"),
        ("", "neither a time nor places"),
    ],
)
def test_what_is_no_point_is_refused_with_its_option(text: str, said: str) -> None:
    # given a word that means no place; when read; then the error names option and word
    with pytest.raises(InvalidRequest, match=said) as refused:
        point_of(text, "--from")
    assert "--from" in refused.value.message


async def test_a_range_has_a_place_in_every_partition() -> None:
    # given a log; when ranges are resolved; then what they leave out is at its beginning or end
    assert await places("beginning", "end") == ({0: 0, 1: 5}, {0: 10, 1: 9})
    assert await places("0:3", "1:6") == ({0: 3, 1: 5}, {0: 10, 1: 6})
    assert await places("2026-11-21T04:00:00Z", "end") == ({0: 4, 1: 9}, {0: 10, 1: 9})
    assert not Range().of_one_topic
    assert range_of("0:3", "end").of_one_topic


@pytest.mark.parametrize(("start", "end", "said"), [("0:11", "end", "has no place 0:11"), ("0:5", "0:3", "before it")])
async def test_a_range_that_the_log_does_not_have_is_refused(start: str, end: str, said: str) -> None:
    # given places outside of the log, or the wrong way round; when resolved; then that is said
    with pytest.raises(InvalidRequest, match=said):
        await places(start, end)
