"""Identifiers: sortable ones for what is new, hashes for what its content names."""

from __future__ import annotations

import hashlib

from ulid import ULID


def new_id() -> str:
    """A ULID: 26 characters that sort by time of creation."""
    return str(ULID())


def content_id(kind: str, *parts: str) -> str:
    """A name that follows from content: the same parts give the same id on every machine.

    Parts are length-prefixed before hashing, so that ("ab", "c") and ("a", "bc") differ.
    Returns `<kind>-` and 24 hexadecimal digits (96 bits of BLAKE2b).
    """
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return f"{kind}-{digest.hexdigest()}"
