"""What interactions have taught memory, read from its changes: what is to be taken back where no owner remembers it.

Invariant: of an edge it is the sum of what the interaction added to it, of a node that it was made and not
retracted. So it is what the interaction's state says, if there is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ruvllm.schemas.memory import EdgeContributed, MemoryChange, NodeAdded, NodeRetracted
from ruvllm.schemas.outcome import Contribution


@dataclass
class Taught:
    """What one interaction has taught. `contributions` by edge id, `nodes` in the order in which they were made."""

    contributions: dict[str, Contribution] = field(default_factory=dict)
    nodes: dict[str, None] = field(default_factory=dict)
    _outcomes: Counter[str] = field(default_factory=Counter)

    def take(self, change: MemoryChange) -> None:
        """Fold a change that the interaction has made; each key's own changes come in order."""
        if isinstance(change, NodeAdded):
            self.nodes[change.node_id] = None
        elif isinstance(change, NodeRetracted):
            self.nodes.pop(change.node_id, None)
        elif isinstance(change, EdgeContributed):
            known = self.contributions.pop(change.edge_id, None)
            self._outcomes[change.edge_id] += change.outcomes
            if self._outcomes[change.edge_id] > 0:
                self.contributions[change.edge_id] = Contribution(
                    source=change.source,
                    target=change.target,
                    relation=change.relation,
                    amount=change.amount + (known.amount if known else 0.0),
                )


def taught_by(changes: Iterable[MemoryChange]) -> dict[str, Taught]:
    """Interaction id -> what it has taught, as these changes say."""
    found: dict[str, Taught] = {}
    for change in changes:
        if isinstance(change, NodeAdded | NodeRetracted | EdgeContributed) and change.made_by:
            found.setdefault(change.made_by, Taught()).take(change)
    return found
