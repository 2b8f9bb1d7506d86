"""Which interactions are meant: by id, by request, by client, by time. Read from the log, and what each stood on.

Invariant: every record is looked at, few are decoded: what an event says first (whose it is, when, its ids) is read
from its bytes, as `schemas.wire.encode` writes them, and only what fits is taken apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

import orjson

from ruvllm.errors import InvalidRequest
from ruvllm.schemas.event import session_key
from ruvllm.schemas.flow import interaction_id
from ruvllm.streams.history.source import Source
from ruvllm.streams.records import Record

_TEXT = rb'"((?:[^"\\]|\\.)*)"'
_HEAD = re.compile(
    rb'\{"kind":"[^"]*","version":\d+,"tenant":%b,"time":"([^"]*)","session":%b,"request_id":%b' % (_TEXT, _TEXT, _TEXT)
)
_SHOWN = b'"context_nodes":['


@dataclass(frozen=True)
class Wanted:
    """What interactions must be to be meant; all that is given must hold. `since` and `until` are event times."""

    tenant: str = "default"
    interactions: frozenset[str] = frozenset()
    request: str | None = None
    session: str | None = None
    client: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        """Raises InvalidRequest if everything would be meant, or a time range is empty."""
        if not (self.interactions or self.request or self.client or self.since or self.until):
            raise InvalidRequest(
                "nothing is selected", hint="Name an interaction, a request, a client, or a time range."
            )
        if self.since and self.until and self.since >= self.until:
            raise InvalidRequest(f"the range from {self.since} to {self.until} is empty", hint="Exchange the two.")

    def fits(self, asked: Asked, value: bytes) -> bool:
        """Whether an interaction, whose record has this value, is meant."""
        return (
            asked.tenant == self.tenant
            and (not self.interactions or asked.interaction_id in self.interactions)
            and self.request in (None, asked.request_id)
            and self.session in (None, asked.session)
            and (self.since is None or asked.time >= self.since)
            and (self.until is None or asked.time < self.until)
            and (self.client is None or self._is_of_client(value))
        )

    def _is_of_client(self, value: bytes) -> bool:
        if orjson.dumps({"client": self.client})[1:-1] not in value:
            return False
        return bool(orjson.loads(value)["request"].get("client") == self.client)


@dataclass(frozen=True, slots=True)
class Asked:
    """An interaction as far as undo must know it. `context_nodes`: what stood in its prompt.

    `answered`: whether a model said anything; `recorded`: whether the desk is done with it.
    """

    interaction_id: str
    tenant: str
    session: str
    request_id: str
    time: datetime
    context_nodes: tuple[str, ...] = ()
    answered: bool = False
    recorded: bool = True

    @property
    def request_key(self) -> str:
        return f"{session_key(self.tenant, self.session)}\x1f{self.request_id}"


@dataclass(frozen=True)
class Asking:
    """All interactions of the log by id, and which of them are meant."""

    all: dict[str, Asked]
    meant: frozenset[str]


async def read_asked(source: Source, wanted: Wanted | None) -> Asking:
    """The interactions of a log, those included that are still under way. `wanted`: none, if none is meant."""
    found: dict[str, Asked] = {}
    meant: set[str] = set()
    for name in ("interaction.recorded", "turn.accepted"):  # what is done before what is under way
        async for records in source.read(name):
            for record in records:
                asked = _asked(record, recorded=name == "interaction.recorded")
                if asked is None or asked.interaction_id in found:
                    continue
                found[asked.interaction_id] = asked
                if wanted is not None and wanted.fits(asked, record.value or b""):
                    meant.add(asked.interaction_id)
    return Asking(found, frozenset(meant))


def _asked(record: Record, *, recorded: bool) -> Asked | None:
    """What a record says of its interaction; None if it is not one that this service wrote."""
    value = record.value or b""
    head = _HEAD.match(value)
    if head is None:
        return None
    tenant, time, session, request_id = (_plain(part) for part in head.groups())
    at = value.find(_SHOWN, head.end())
    nodes = orjson.loads(value[at + len(_SHOWN) - 1 : value.index(b"]", at) + 1]) if at >= 0 else ()
    return Asked(
        interaction_id(tenant, session, request_id),
        tenant,
        session,
        request_id,
        datetime.fromisoformat(time),
        tuple(nodes),
        answered=at >= 0,
        recorded=recorded,
    )


def _plain(text: bytes) -> str:
    return str(orjson.loads(b'"' + text + b'"')) if b"\\" in text else text.decode("utf-8", "surrogatepass")
