"""Whom a record names, read from its bytes as `schemas.wire.encode` writes them: most need not be decoded.

Invariant: it says what decoding would say. Ids stand before anything that users wrote, and within such text quotes
are escaped.
"""

from __future__ import annotations

import re

from ruvllm.streams.records import Record

_INTERACTION = re.compile(rb'"interaction_id":"([^"]*)"')
_MAKER = re.compile(rb'"made_by":"([^"]*)"')


def interaction_in(record: Record) -> str:
    """The interaction that an event is of; empty for none."""
    return _first(_INTERACTION, record)


def maker_in(record: Record) -> str:
    """The interaction that has made a change of memory; empty for none."""
    return _first(_MAKER, record)


def _first(pattern: re.Pattern[bytes], record: Record) -> str:
    found = pattern.search(record.value or b"")
    return found[1].decode() if found else ""
