"""What a process that recalls says of its memory over HTTP, so that a replay can be compared with it.

Invariant: digest, items and offsets of one answer are of one moment: memory is the fold of exactly the records below
those offsets. Hashes are made in a thread; the stages of the process go on meanwhile.

`/memory`: {"log", "offsets", "digest", "nodes", "edges", "training_offsets", "attention", "router"}, the last two the
checkpoints in force. `/memory/items`: a line of JSON of the same form, then one for each member of a node and each
edge, in canonical order: [kind, tenant, id, made_by, SHA-256 of its record].
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import orjson
from aiohttp import web

from ruvllm.models.memory.node import Contents
from ruvllm.streams.learned_view import LearnedView
from ruvllm.streams.memory_view import MemoryView, Moment

ITEMS_AT_ONCE = 1_000


class Item(NamedTuple):
    """A member of a node, or an edge, by its name and its content; places in the log are no part of it."""

    kind: str
    tenant: str
    id: str
    made_by: str
    sha256: str


def items_of(contents: Contents) -> Iterator[Item]:
    """All that counts in a digest: blank edges do not."""
    for node in contents.nodes:
        raw = orjson.dumps(node.record(), option=orjson.OPT_SORT_KEYS)
        sha = hashlib.sha256(raw + node.vector.astype("<f4", copy=False).tobytes())
        yield Item("node", node.tenant, node.node_id, node.made_by, sha.hexdigest())
    for edge in contents.edges:
        if not edge.is_blank:
            record = {name: value for name, value in edge.record().items() if name != "applied"}
            sha = hashlib.sha256(orjson.dumps(record, option=orjson.OPT_SORT_KEYS))
            yield Item("edge", edge.tenant, edge.edge_id, "", sha.hexdigest())


def memory_routes(view: MemoryView, learned: LearnedView) -> Sequence[web.RouteDef]:
    """The pages of a process that folds memory."""

    async def state() -> tuple[Moment, dict[str, Any]]:
        ranker, training = learned.rankers.current(), learned.offsets()
        router = learned.routers.current().checkpoint.id
        moment = await view.moment()
        said = {
            "log": moment.log_id,
            "offsets": moment.offsets,
            "digest": await asyncio.to_thread(moment.contents.digest),
            "nodes": len(moment.contents.nodes),
            "edges": len(moment.contents.edges),
            "training_offsets": training,
            "attention": ranker.checkpoint if ranker else None,
            "router": router,
        }
        return moment, said

    async def get_memory(_: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps((await state())[1]), content_type="application/json")

    async def get_items(request: web.Request) -> web.StreamResponse:
        moment, said = await state()
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await response.write(orjson.dumps(said) + b"\n")
        items = items_of(moment.contents)
        while lines := await asyncio.to_thread(_lines, items):
            await response.write(lines)
        return response

    return web.get("/memory", get_memory), web.get("/memory/items", get_items)


def _lines(items: Iterator[Item]) -> bytes:
    return b"".join(orjson.dumps(list(item)) + b"\n" for item in islice(items, ITEMS_AT_ONCE))
