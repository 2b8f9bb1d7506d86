"""The words of one tenant's passages: who says what (lexicon) and who says it most (keywords).

Taking a passage apart costs a hundred times more than putting it into memory, so passages wait and are
taken in as searches come or time allows: a memory that has just been read is searchable at once, by its
vectors, and by its words a little later.

Invariant: once nothing waits, both indexes hold exactly the passages that were put and not removed.
"""

from __future__ import annotations

from ruvllm.models.memory.keywords import KeywordIndex
from ruvllm.models.memory.lexicon import Lexicon
from ruvllm.models.memory.node import Node


class Words:
    """Lexicon and keyword index, kept up to date in small steps."""

    def __init__(self) -> None:
        self.lexicon = Lexicon()
        self.keywords = KeywordIndex()
        self._waiting: dict[str, Node | None] = {}  # node id -> what it says now, None: it is gone

    def put(self, node: Node) -> None:
        self._waiting[node.node_id] = node

    def remove(self, node_id: str) -> None:
        self._waiting[node_id] = None

    def catch_up(self, most: int) -> bool:
        """Take in at most so many changes; whether any are left."""
        for node_id in list(self._waiting)[:most]:
            node = self._waiting.pop(node_id)
            for index in (self.lexicon, self.keywords):
                if node is None:
                    index.remove(node_id)
                else:
                    index.add(node_id, node.title, node.text)
        return bool(self._waiting)
