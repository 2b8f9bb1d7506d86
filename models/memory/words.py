"""The words of one tenant's passages: who says what (lexicon) and who says it most (keywords).

Taking a passage apart costs a hundred times more than putting it into memory, so new passages wait and are
taken in as searches come or time allows: a memory that has just been read is searchable at once, by its
vectors, and by its words a little later.

Invariant: once nothing waits, both indexes hold exactly the passages that were put and not removed.
"""

from __future__ import annotations

from itertools import islice

from ruvllm.models.memory.keywords import KeywordIndex
from ruvllm.models.memory.lexicon import Lexicon
from ruvllm.models.memory.node import Node


class Words:
    """Lexicon and keyword index, kept up to date in small steps."""

    def __init__(self) -> None:
        self.lexicon = Lexicon()
        self.keywords = KeywordIndex()
        self._waiting: dict[str, Node] = {}

    @property
    def waiting(self) -> bool:
        """Whether passages are left to take in."""
        return bool(self._waiting)

    def put(self, node: Node) -> None:
        self._waiting[node.node_id] = node

    def remove(self, node_id: str) -> None:
        """At once: who finds a passage by its words must find it in memory."""
        self._waiting.pop(node_id, None)
        self.lexicon.remove(node_id)
        self.keywords.remove(node_id)

    def catch_up(self, most: int) -> None:
        """Take in at most so many passages."""
        for node_id in list(islice(self._waiting, most)):
            node = self._waiting.pop(node_id)
            self.lexicon.add(node_id, node.title, node.text)
            self.keywords.add(node_id, node.title, node.text)
