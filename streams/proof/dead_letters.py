"""Whether the dead letters are complete: every poison record's original bytes are in one, and nothing else's are."""

from __future__ import annotations

from dataclasses import dataclass

from ruvllm.streams.log_reader import read_to_end
from ruvllm.streams.proof.load import POISON_HEADER
from ruvllm.streams.records import Record
from ruvllm.streams.topology import Names

Place = tuple[str, int, int]
"""Topic, partition, offset."""
FED = ("request.submitted", "feedback.submitted")


@dataclass(frozen=True)
class DeadLetters:
    """`poison`: records that nobody could handle. `repeated`: letters beyond the first of a record, after a kill."""

    poison: int
    repeated: int
    findings: tuple[str, ...]


async def check_dead_letters(bootstrap: str, names: Names) -> DeadLetters:
    """Read the fed topics and every dead-letter topic of an installation."""
    poison: dict[Place, Record] = {}
    for name in FED:
        topic = names.topic(name)
        async for record in read_to_end(bootstrap, topic):
            if POISON_HEADER in record.headers:
                poison[topic, record.partition or 0, record.offset] = record
    letters: dict[Place, Record] = {}
    repeated = 0
    for topic in names.every_dead_letter():
        async for letter in read_to_end(bootstrap, topic):
            place = source_of(letter)
            repeated += place in letters
            letters[place] = letter
    found = [f"poison {_name(r)} at {p} has no dead letter" for p, r in poison.items() if p not in letters]
    found += [
        f"a dead letter of {p} was no poison: {r.headers['dlq-error'].decode()}"
        for p, r in letters.items()
        if p not in poison
    ]
    found += [
        f"the dead letter of poison {_name(poison[p])} has other bytes"
        for p, r in letters.items()
        if p in poison and not same_bytes(poison[p], r)
    ]
    return DeadLetters(len(poison), repeated, tuple(found))


def source_of(letter: Record) -> Place:
    """Where the record of a dead letter lies."""
    topic, partition, offset = (letter.headers[f"dlq-{n}"].decode() for n in ("topic", "partition", "offset"))
    return topic, int(partition), int(offset)


def same_bytes(record: Record, letter: Record) -> bool:
    """Whether a letter has its record's value, or says how much it had and has its beginning."""
    if "dlq-cut-from" not in letter.headers:
        return letter.value == record.value
    whole, kept = record.value or b"", letter.value or b""
    return int(letter.headers["dlq-cut-from"]) == len(whole) and bool(kept) and whole.startswith(kept)


def _name(record: Record) -> str:
    return record.headers[POISON_HEADER].decode()
