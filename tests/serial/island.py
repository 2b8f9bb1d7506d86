"""A few facts of a small island, and how programs of any language put records into a serial log."""

import orjson

from ruvllm.schemas.memory import DocumentProcessed, PutDocument, RemoveDocument
from ruvllm.streams.records import Record

LAMPS = """# Lamps

## The keeper

Osk Arrin keeps the great lamp of Vellen and lights it at dusk.

## The oil

The lamp oil of Vellen is pressed from rapeseed in the mill of Dorr.
"""
GOATS = """# Goats

The goat Brim belongs to the harbour master Ida Tolm.
"""


async def ingest(system, **documents):
    """Put documents (`lamps="..."` is document lamps.md), run, and return what became of them, in order."""
    before = len(system.events("document.processed"))
    await system.send(*(put(name, content) for name, content in documents.items()))
    await system.run()
    return outcomes(system)[before:]


def put(name, content, **fields):
    return PutDocument(document_id=f"{name}.md", content=content, **fields)


async def forget(system, name):
    await system.send(RemoveDocument(document_id=f"{name}.md"))
    await system.run()


def outcomes(system):
    return [e.outcome for e in system.events("document.processed") if isinstance(e, DocumentProcessed)]


def produce(system, body, topic="request.submitted", **headers):
    """Append a record as any program may write it: a body (bytes, or what JSON can say) and some headers."""
    value = body if isinstance(body, bytes) else orjson.dumps(body)
    raw = {name.replace("_", "-"): text.encode() for name, text in headers.items()}
    return system.log.append(Record(system.names.topic(topic), 0, None, value, raw))


def dead_letters(system, stage="intake", topic="request.submitted"):
    return system.log.topics.get(system.names.dead_letters(system.names.topic(topic), stage), [])


def told(system):
    """Session, request id and text or error code of every response, in order; with `again` for repeated ones."""
    return [
        (r.session, r.request_id, r.error.code if r.error else r.text, *(["again"] if r.repeated else []))
        for r in system.responses()
    ]
