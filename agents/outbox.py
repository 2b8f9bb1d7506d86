"""What a stage wants done, as data: the events to send, and where if not to their own topic.

Agents decide and streams act: an agent that holds state returns the records that change it, and is
changed only by having them applied. So what a new owner reads from the log is what the old one knew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ruvllm.schemas.event import Event


@dataclass(frozen=True)
class Emit:
    """Send this event; to `topic` if one is named; as a tombstone of its key if it is to be forgotten."""

    event: Event
    topic: str | None = None
    tombstone: bool = False


@dataclass
class Outbox:
    """All effects of one event. They happen together or not at all."""

    emits: list[Emit] = field(default_factory=list)
    receipt: Callable[[Mapping[str, int]], Event] | None = None
    """Made last, from the next offsets (partition -> offset) of the memory changes that were sent."""

    def add(self, event: Event, *, topic: str | None = None, tombstone: bool = False) -> None:
        self.emits.append(Emit(event, topic, tombstone))

    def __bool__(self) -> bool:
        return bool(self.emits) or self.receipt is not None
