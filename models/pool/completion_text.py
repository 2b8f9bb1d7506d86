"""The text of a completion as it grows: bytes join to characters, and stop strings end it.

A character may be spread over several tokens and a stop string over several pieces, so neither is
looked for in a piece alone. What never became a whole character is left out.
"""

from __future__ import annotations

import codecs


class CompletionText:
    """Collects token pieces; `value` is the text before the first stop string."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.value = ""
        self._stop = tuple(s for s in stop if s)
        self._reach = max((len(s) for s in self._stop), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, piece: bytes) -> bool:
        """Append the bytes of one token. True if a stop string is complete: the text ends before it."""
        new = self._decoder.decode(piece)
        look_from = max(0, len(self.value) - self._reach + 1)
        self.value += new
        found = [at for s in self._stop if (at := self.value.find(s, look_from)) >= 0]
        if found:
            self.value = self.value[: min(found)]
        return bool(found)
