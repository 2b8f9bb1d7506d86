"""A uniform sample of everything that went by, of bounded size, whatever the order it came in.

Each item has a priority that its key alone decides, a keyed hash; the `capacity` smallest are kept. That is a
uniform sample without replacement (bottom-k sampling: Cohen & Kaplan 2007) that, unlike algorithm R, two folds
of the same items in any order agree on. The same key again replaces its item.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Reservoir(Generic[T]):
    def __init__(self, capacity: int, *, seed: int = 0) -> None:
        self._capacity = capacity
        self._salt = seed.to_bytes(8, "little", signed=True)
        self._worst: list[tuple[int, str]] = []  # a heap of negated priorities: the first to go on top
        self._items: dict[str, T] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: str) -> bool:
        return key in self._items

    def add(self, key: str, item: T) -> None:
        """Offer an item; it is kept or not for its key alone."""
        if key in self._items:
            self._items[key] = item
            return
        entry = (-self._priority(key), key)
        if len(self._items) < self._capacity:
            heapq.heappush(self._worst, entry)
            self._items[key] = item
        elif self._capacity and entry > self._worst[0]:
            _, gone = heapq.heapreplace(self._worst, entry)
            del self._items[gone]
            self._items[key] = item

    def items(self) -> Iterator[tuple[str, T]]:
        """In the order of their keys: the order they came in leaves no trace."""
        return iter(sorted(self._items.items(), key=lambda pair: pair[0]))

    def _priority(self, key: str) -> int:
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, key=self._salt).digest(), "big")
