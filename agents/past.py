"""What became of past questions, by tenant: the fold of judged outcomes that routes are estimated from.

Invariant: nothing crosses tenants; of several verdicts on one answer the last counts; only the newest are kept.
An estimate is made anew when enough has come since the last one, by whoever calls `refresh`: it takes a second or
so, and is a function of the outcomes kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import numpy as np

from ruvllm.models.router.features import LONGEST_SQUARED, QUERY_DIMENSIONS, form_of
from ruvllm.models.router.past_outcomes import Fit, Float32s, Outlook, PastOutcome, fit
from ruvllm.schemas.event import Event
from ruvllm.schemas.outcome import Judged

LEAST = 30
"""Fewer judged answers say nothing."""


class _Kept(NamedTuple):
    revision: int
    time: datetime
    outcome: PastOutcome


@dataclass
class _Tenant:
    outcomes: dict[str, _Kept] = field(default_factory=dict)  # by interaction, the first told first
    fit: Fit | None = None
    new: int = 0
    stale: bool = False  # something that was learnt from is taken back


class Past:
    """Folds outcomes; `outlook` says what they mean for a question."""

    def __init__(self, tiers: Sequence[str], *, kept: int) -> None:
        self._tiers = tuple(tiers)
        self._kept = kept
        self._tenants: dict[str, _Tenant] = {}

    def apply(self, event: Event) -> None:
        """Fold one event. Other events, and answers of tiers that are no more, change nothing."""
        if not isinstance(event, Judged) or event.tier not in self._tiers:
            return
        vector = event.query_vector
        if vector.shape != (QUERY_DIMENSIONS,) or not float(vector @ vector) <= LONGEST_SQUARED:  # true for nan as well
            return
        known = self._tenants.setdefault(event.tenant, _Tenant())
        before = known.outcomes.get(event.interaction_id)
        if before is not None and before.revision >= event.revision:
            return
        if event.retraction is not None:
            known.stale |= known.outcomes.pop(event.interaction_id, None) is not None
            return
        full = before is None and len(known.outcomes) >= self._kept
        if full and event.time < next(iter(known.outcomes.values())).time:
            return  # it was pushed out already, or would be at once
        outcome = PastOutcome(event.query_vector, form_of(event.question), self._tiers.index(event.tier), event.quality)
        known.outcomes[event.interaction_id] = _Kept(event.revision, event.time, outcome)
        known.new += 1
        while len(known.outcomes) > self._kept:
            del known.outcomes[next(iter(known.outcomes))]

    def outlook(self, tenant: str, vector: Float32s, form: Float32s) -> Outlook | None:
        """What a tenant's past says of a question; None where there is too little of it."""
        known = self._tenants.get(tenant)
        return known.fit.outlook(vector, form) if known is not None and known.fit is not None else None

    def due(self) -> Iterator[str]:
        """The tenants whose estimate is out of date."""
        for tenant, known in self._tenants.items():
            count = len(known.outcomes)
            if known.stale or (count >= LEAST and known.new >= (max(LEAST, count // 16) if known.fit else LEAST)):
                yield tenant

    def refresh(self, tenant: str) -> None:
        """Estimate anew from what is kept now. It may run in a thread: what is replaced is replaced whole."""
        known = self._tenants[tenant]
        outcomes = [kept.outcome for kept in list(known.outcomes.values())]
        known.new, known.stale = 0, False
        known.fit = fit(outcomes, len(self._tiers))[0] if len(outcomes) >= LEAST else None

    def counts(self, tenant: str) -> list[int]:
        """Judged answers kept, by tier."""
        known = self._tenants.get(tenant, _Tenant())
        found = np.bincount([kept.outcome.tier for kept in known.outcomes.values()], minlength=len(self._tiers))
        return [int(n) for n in found]
