"""What the router learns from: answers in the order of their sessions, as arrays.

Invariant: a row holds only what was known when its request was routed, and what came of it afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Experience:
    """n answers. Of the tiers that were not asked quality, latency and cost are nan."""

    features: Float32s
    """(n, 128)"""
    quality: Float32s
    """(n, tiers), 0 to 1"""
    latency_s: Float32s
    """(n, tiers)"""
    cost: Float32s
    """(n, tiers), in the unit of the tier's price"""
    settings: NDArray[np.int64]
    """(n, 3): places of context size, temperature and top_p among the arms; -1: a value that is no arm"""
    session: NDArray[np.int64]
    """(n,): rows of one session follow each other in order"""

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Experience:
        return Experience(*(getattr(self, f.name)[index] for f in fields(self)))

    @property
    def tried(self) -> NDArray[np.bool_]:
        """(n, tiers): where a quality is known."""
        return ~np.isnan(self.quality)

    @classmethod
    def joined(cls, parts: Sequence[Experience]) -> Experience:
        """One after the other; sessions of different parts stay apart."""
        moved = []
        next_session = 0
        for part in parts:
            _, session = np.unique(part.session, return_inverse=True)
            moved.append(session + next_session)
            next_session += int(session.max()) + 1 if len(part) else 0
        others = [f.name for f in fields(cls) if f.name != "session"]
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in others}
        return cls(**arrays, session=np.concatenate(moved))
