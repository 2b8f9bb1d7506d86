"""States by record key, the longest untouched first: what a keeper knows, bounded.

Invariant: it changes by `apply` and `forget` only, so reading the keeper's records again gives the same
states in the same order. Beyond the bound the longest untouched is forgotten by a tombstone.
"""

from __future__ import annotations

from collections.abc import ItemsView, ValuesView
from typing import Generic, TypeVar

from ruvllm.agents.outbox import Outbox
from ruvllm.schemas.event import Event

S = TypeVar("S", bound=Event)


class Kept(Generic[S]):
    """States of one kind of event."""

    def __init__(self) -> None:
        self._states: dict[str, S] = {}

    def __len__(self) -> int:
        return len(self._states)

    def get(self, record_key: str) -> S | None:
        return self._states.get(record_key)

    def values(self) -> ValuesView[S]:
        return self._states.values()

    def items(self) -> ItemsView[str, S]:
        return self._states.items()

    def apply(self, state: S) -> None:
        """Put or replace a state; it is the newest now."""
        self._states.pop(state.record_key, None)
        self._states[state.record_key] = state

    def forget(self, record_key: str) -> None:
        """Fold a tombstone."""
        self._states.pop(record_key, None)

    def remember(self, out: Outbox, state: S, most: int) -> None:
        """Make the record of a state, and tombstones of what it pushes out."""
        out.add(state)
        self.apply(state)
        while len(self._states) > most:
            oldest = next(iter(self._states.values()))
            out.add(oldest, tombstone=True)
            self.forget(oldest.record_key)
