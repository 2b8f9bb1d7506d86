"""The interaction of a request, found in the log by the id that its asker knows.

Invariant: one interaction or an error that says how to name it: nothing is guessed.
"""

from __future__ import annotations

import difflib
from collections import deque

from ruvllm.errors import InvalidRequest
from ruvllm.schemas.flow import Interaction
from ruvllm.streams.history.picking import Placed, picked
from ruvllm.streams.history.source import Source
from ruvllm.streams.records import Record

NEAR = 3
LOOKED_AT = 20_000
"""Request ids, the newest, among which one that is like an unknown one is looked for."""


async def find_asked(
    source: Source, request: str, *, session: str | None = None, tenant: str | None = None
) -> tuple[Placed, Interaction]:
    """The interaction of a request id (or of that interaction id), and its place.

    Raises InvalidRequest if there is none, or if several sessions or tenants have asked under this id.
    """
    known: deque[str] = deque(maxlen=LOOKED_AT)
    looked_for = request.encode("utf-8", "surrogatepass")

    def wanted(record: Record) -> bool:
        name = record.headers.get("request-id")
        if name is not None:
            known.append(name.decode("utf-8", "replace"))
        return looked_for in (record.value or b"")

    found: dict[tuple[str, str, str], tuple[Placed, Interaction]] = {}
    async for place, event in picked(source, "interaction.recorded", wanted):
        if not isinstance(event, Interaction) or request not in (event.request_id, event.interaction_id):
            continue
        if session in (None, event.session) and tenant in (None, event.tenant):
            found[event.tenant, event.session, event.interaction_id] = place, event
    if len(found) > 1:
        others = "; ".join(f"--tenant {t} --session {s}" for t, s, _ in sorted(found)[:10])
        raise InvalidRequest(f"{len(found)} sessions have asked under the id {request}: {others}", hint="Name one.")
    if not found:
        raise _unknown(request, session, tenant, known)
    return next(iter(found.values()))


def _unknown(request: str, session: str | None, tenant: str | None, known: deque[str]) -> InvalidRequest:
    where = "".join(f" of {name} {value}" for name, value in (("session", session), ("tenant", tenant)) if value)
    near = difflib.get_close_matches(request, dict.fromkeys(known), NEAR, 0.75)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`ruvllm ask` prints the id of each request that it sends."
    return InvalidRequest(f"the log has no interaction of a request {request}{where}", hint=hint)
