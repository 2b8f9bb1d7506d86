"""The service in the forms that others read: tables, a Mermaid diagram, AsyncAPI 3, JSON Schema.

All are made from the code: the topology's rows, the event classes, settings, metrics and features.
The committed copies under docs/reference are compared with these by a test; write them anew with

    python -m ruvllm.streams.describe docs/reference
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import orjson
from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

from ruvllm.models.router.features import features_markdown
from ruvllm.schemas.event import Event
from ruvllm.schemas.wire import EVENTS
from ruvllm.streams.metrics import Metrics
from ruvllm.streams.model_files import packaged_catalogue
from ruvllm.streams.settings import ENV_PREFIX, Section, Settings
from ruvllm.streams.topology import FAILURES, STAGES, TOPICS, Keeping, Names, Stage


def table() -> str:
    """Stages in flow order, as Markdown."""
    lines = ["| stage | process | consumes | does | produces |", "|---|---|---|---|---|"]
    lines += [
        f"| **{s.name}** | {s.process} | {', '.join(s.consumes)} | {s.does} | {', '.join(s.produces)} |" for s in STAGES
    ]
    lines += ["", "| topic | events | records are | meaning |", "|---|---|---|---|"]
    for t in TOPICS:
        name = f"`{t.name.replace('.', '-<tier>.', 1)}`" if t.by_tier else t.name
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
        to = [s.name for s in consumers[t.name]]
        if t.keeping is Keeping.LOG and producers[t.name]:
            to.append("log[(the log)]")
        elif not to and t.keeping is not Keeping.STATE:
            to.append("users")
        lines += [f"  {source.name} -->|{t.name}| {target}" for source in producers[t.name] for target in to]
    lines += [f"  log -.->|fold| {s.name}" for s in STAGES if s.recalls]
    return "\n".join(lines)


def jsonschema() -> dict[str, Any]:
    """One JSON Schema (2020-12) with every event under `$defs`, by class name."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "RuvLLM events",
        "description": "Unknown fields are ignored by readers; a body also carries its `kind`.",
        "$defs": _definitions("#/$defs/{model}"),
        "kinds": {e.kind: f"#/$defs/{e.__name__}" for e in EVENTS},
    }


def _definitions(reference: str) -> dict[str, Any]:
    """Class name -> schema of every event and part; they refer to each other as `reference` says."""
    _, schema = models_json_schema([(e, "serialization") for e in EVENTS], ref_template=reference)
    return dict(sorted(schema["$defs"].items()))


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
        for produced in (*stage.produces, FAILURES):  # any stage may give up
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
            "schemas": _definitions("#/components/schemas/{model}"),
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


# --- the other reference pages ------------------------------------------------------------------------


def settings_table() -> str:
    """Every setting with type, default and meaning, as Markdown."""
    lines = [
        "Settings come from `ruvllm.toml`, then the environment, then flags; the later wins.",
        f"`kafka.prefix` is `[kafka] prefix = ...` in the file, `{ENV_PREFIX}KAFKA__PREFIX` in the environment",
        "and `--set kafka.prefix=...` as a flag. Seconds end in `_s`. `ruvllm config` prints those in force.",
        "",
        "| setting | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            lines += [_setting(f"{name}.{leaf}", inner) for leaf, inner in kind.model_fields.items()]
        else:
            lines.append(_setting(name, field))
    return "\n".join(lines)


def _setting(name: str, field: FieldInfo) -> str:
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    shown = "" if default is None or default == "" else f"`{default}`"
    return f"| `{name}` | {_type(field)} | {shown} | {(field.description or '').replace('<', '&lt;')} |"


def _type(field: FieldInfo) -> str:
    kind = field.annotation
    if get_origin(kind) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return f"list of {get_args(kind)[0].__name__}"
    named = next((part for part in get_args(kind) if part is not type(None)), kind)
    words = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}
    bounds = [
        text.format(bound)
        for limit, text in words.items()
        for found in field.metadata
        if (bound := getattr(found, limit, None)) is not None
    ]
    return " ".join([getattr(named, "__name__", str(named)).lower(), *bounds])


def metrics_table() -> str:
    """Every metric with type, labels and meaning, as Markdown."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in vars(Metrics()).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            name = f"{family.name}_total" if isinstance(metric, Counter) else family.name
            labels = ", ".join(metric._labelnames)
            lines.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(lines)


def reference() -> Mapping[str, str]:
    """File name -> content of every generated reference page, for the default profile and settings."""
    catalogue, settings = packaged_catalogue(), Settings()
    tiers = tuple(t.tier for t in catalogue.profile(settings.profile).tiers)
    names = Names(settings.kafka.prefix, tiers, settings.kafka.partitions)
    pages = {
        "topology.md": table(),
        "topology.mmd": mermaid(),
        "asyncapi.json": _json(asyncapi(names)),
        "schemas.json": _json(jsonschema()),
        "settings.md": settings_table(),
        "metrics.md": metrics_table(),
        "features.md": features_markdown(),
    }
    return {name: text.rstrip("\n") + "\n" for name, text in pages.items()}


def _json(document: dict[str, Any]) -> str:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def write_reference(folder: Path) -> None:
    """Write every reference page into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in reference().items():
        (folder / name).write_text(text, "utf-8")


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
