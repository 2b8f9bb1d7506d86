"""The topology in the forms that others read: a table, a Mermaid diagram, AsyncAPI 3, JSON Schema.

All are made from `topology.py` and the event classes; the committed copies under docs/reference are
compared with these by a test.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from ruvllm.schemas.event import Event
from ruvllm.schemas.wire import EVENTS
from ruvllm.streams.topology import FAILURES, STAGES, TOPICS, Names, Stage


def table() -> str:
    """Stages in flow order, as Markdown."""
    lines = ["| stage | process | consumes | does | produces |", "|---|---|---|---|---|"]
    lines += [
        f"| **{s.name}** | {s.process} | {', '.join(s.consumes)} | {s.does} | {', '.join(s.produces)} |" for s in STAGES
    ]
    lines += ["", "| topic | events | records are | meaning |", "|---|---|---|---|"]
    for t in TOPICS:
        name = t.name.replace(".", "-<tier>.", 1) if t.by_tier else t.name
        lines.append(f"| {name} | {', '.join(e.__name__ for e in t.events)} | {t.keeping.value} | {t.meaning} |")
    return "\n".join(lines)


def mermaid() -> str:
    """The flow as a Mermaid flowchart: users and stages are boxes, topics are the arrows."""
    lines = ["flowchart LR", "  users([users])"]
    for process in dict.fromkeys(s.process for s in STAGES):
        lines.append(f"  subgraph {process}")
        lines += [f"    {s.name}[{s.name}]" for s in STAGES if s.process == process]
        lines.append("  end")
    consumers = {t.name: [s for s in STAGES if t.name in s.consumes] for t in TOPICS}
    producers = {t.name: [s for s in STAGES if t.name in s.produces] for t in TOPICS}
    for t in TOPICS:
        if not producers[t.name] and t.name != FAILURES:
            lines += [f"  users -->|{t.name}| {s.name}" for s in consumers[t.name]]
        for source in producers[t.name]:
            lines += [f"  {source.name} -->|{t.name}| {s.name}" for s in consumers[t.name]]
    lines.append("  desk -->|response.completed| users")
    lines.append("  desk -->|interaction.recorded| log[(the log)]")
    lines.append("  documents -->|memory.changed| log")
    lines.append("  log -.->|fold| retrieve")
    return "\n".join(lines)


def jsonschema() -> dict[str, Any]:
    """One JSON Schema (2020-12) with every event under `$defs`, by class name."""
    _, schema = models_json_schema([(e, "serialization") for e in EVENTS], ref_template="#/$defs/{model}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "RuvLLM events",
        "description": "Unknown fields are ignored by readers; a body also carries its `kind`.",
        "$defs": dict(sorted(schema["$defs"].items())),
        "kinds": {e.kind: f"#/$defs/{e.__name__}" for e in EVENTS},
    }


def asyncapi(names: Names) -> dict[str, Any]:
    """AsyncAPI 3.0: channels are topics, operations are what stages send and receive."""
    channels: dict[str, Any] = {}
    for row in TOPICS:
        for name in names.topics(row.name):
            channels[name] = {
                "address": name,
                "description": f"{row.meaning} ({row.keeping.value})",
                "messages": {e.kind: {"$ref": f"#/components/messages/{e.kind}"} for e in row.events},
                "bindings": {"kafka": {"partitions": names.partitions}},
            }
    operations: dict[str, Any] = {}
    for stage in STAGES:
        for name in names.consumed(stage):
            operations[f"{stage.name}.receive.{name}"] = _operation("receive", stage, name)
        for produced in stage.produces:
            for name in names.topics(produced):
                operations[f"{stage.name}.send.{name}"] = _operation("send", stage, name)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "RuvLLM",
            "version": "1",
            "description": "Requests in, answers out; all learned state is a fold of the log.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {e.kind: _message(e) for e in EVENTS},
            "schemas": jsonschema()["$defs"],
        },
    }


def _operation(action: str, stage: Stage, channel: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": stage.does}


def _message(event: type[Event]) -> dict[str, Any]:
    return {
        "name": event.kind,
        "title": event.__name__,
        "summary": " ".join((event.__doc__ or "").split()),
        "headers": {
            "type": "object",
            "properties": {
                name: {"type": "string"}
                for name in (
                    "ce_id",
                    "ce_type",
                    "ce_source",
                    "ce_time",
                    "ce_subject",
                    "tenant",
                    "session",
                    "request-id",
                )
            },
        },
        "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
    }
