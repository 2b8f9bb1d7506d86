"""`ruvllm memory`: look at what is known, and draw it; `memory_keeping` has the commands that carry and keep it.

Each command folds the log by itself, in its own process: no worker notices.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ruvllm.errors import InvalidRequest, MissingRequirement
from ruvllm.streams.cli import memory_keeping
from ruvllm.streams.cli.context import of, warnings_apart
from ruvllm.streams.cli.memory_source import SerialFile, folded

if TYPE_CHECKING:
    from ruvllm.streams.memory_tools.facts import EdgeFacts

memory_app = typer.Typer(help="What is known: nodes, edges and what they have learnt.", no_args_is_help=True)

Tenant = Annotated[str, typer.Option(help="whose memory")]
Json = Annotated[bool, typer.Option("--json", help="as JSON, for machines")]
NodeId = Annotated[str, typer.Argument(help="a node's id, or the first 6 characters of it or more")]
Relations = Annotated[list[str] | None, typer.Option("--relation", help="of this relation only; may be repeated")]
Hops = Annotated[int, typer.Option(min=1, max=5, help="how many edges away")]

PICTURES = (".svg", ".png")
LINE_CHARS = 70


class Order(StrEnum):
    """What edges are ordered by."""

    weight = "weight"
    use = "use"


def register(app: typer.Typer) -> None:
    memory_keeping.register(memory_app)
    app.add_typer(memory_app, name="memory")


memory_app.callback()(warnings_apart)


# --- looking --------------------------------------------------------------------------------------------


@memory_app.command()
def stats(
    context: typer.Context, tenant: Tenant = "default", json: Json = False, serial_log: SerialFile = None
) -> None:
    """How much is known, by kind and relation, and which log it was folded from."""
    from ruvllm.streams.memory_tools.facts import of_tenant

    found = folded(context, serial_log)
    facts = of_tenant(found.memory, tenant, _now())
    everything = found.memory.stats()
    source = {
        "embedder": found.memory.embedder,
        "dimension": found.memory.dimension,
        "tenants": everything.tenants,
        "nodes_of_all": everything.nodes,
        "edges_of_all": everything.edges,
        "digest": found.memory.digest(),
        "log": found.log_id,
        "offsets": found.offsets,
        "snapshot": str(found.snapshot) if found.snapshot else None,
        "folded": found.folded,
        "left_out": found.left_out,
    }
    if json:
        _print_json({"memory": source, "tenant": facts})
        return
    console = of(context).console
    kinds = ", ".join(f"{count} {kind}" for kind, count in facts.nodes_by_kind.items())
    console.print(f"{tenant}: {facts.nodes} nodes ({kinds or 'none'}) of {facts.documents} documents", end="")
    console.print(f" and {facts.interactions} interactions")
    table = Table("relation", "edges", "learnt", "outcomes", "mean weight", box=None)
    for relation, row in facts.edges_by_relation.items():
        table.add_row(relation, str(row.edges), str(row.learnt), str(row.use), f"{row.mean_weight:.3f}")
    console.print(table)
    console.print(
        f"{facts.edges} edges: {facts.waiting} wait for a node, {facts.idle} lead nowhere, {facts.pruned} of them "
        f"pruned; {facts.clients} clients taught them"
    )
    start = f"the snapshot in {found.snapshot}" if found.snapshot else "the log's beginning"
    console.print(f"all {everything.tenants} tenants: {everything.nodes} nodes, {everything.edges} edges")
    console.print(f"embedder {found.memory.embedder}, {found.memory.dimension} dimensions; digest {source['digest']}")
    console.print(f"log {found.log_id}: {found.folded} changes from {start}, {found.left_out} left out")


@memory_app.command()
def show(
    context: typer.Context,
    node: NodeId,
    tenant: Tenant = "default",
    json: Json = False,
    serial_log: SerialFile = None,
) -> None:
    """One node: its text, the interactions that made it, its edges and what they have learnt."""
    from ruvllm.streams.memory_tools.facts import named, of_node

    memory = folded(context, serial_log).memory
    facts = of_node(memory, named(memory, tenant, node), _now())
    if json:
        _print_json(facts)
        return
    console = of(context).console
    origin = f", {facts.document_id} at {facts.position}" if facts.document_id else ""
    console.print(f"{facts.node_id}: {facts.kind} of {tenant}{origin}, {facts.at}, {facts.embedder}")
    for name, value in sorted(facts.metadata.items()):
        console.print(f"  {name}: {value}")
    console.print(Text.assemble((facts.title, "bold"), "\n" if facts.title else "", facts.text))
    for member in facts.members:
        console.print(f"made by {member.made_by} at {member.at}: {_line(member.text)}")
    console.print(f"{len(facts.edges)} edges, used in {facts.use} outcomes")
    console.print(_edge_table(facts.edges, facts.node_id))


@memory_app.command()
def neighbours(
    context: typer.Context,
    node: NodeId,
    hops: Hops = 2,
    limit: Annotated[int, typer.Option(min=1, help="at most so many")] = 20,
    relation: Relations = None,
    tenant: Tenant = "default",
    json: Json = False,
    serial_log: SerialFile = None,
) -> None:
    """What a node leads to, the heaviest path first, as retrieval walks its edges."""
    from ruvllm.streams.memory_tools import facts

    memory = folded(context, serial_log).memory
    centre = facts.named(memory, tenant, node)
    found = facts.neighbours(memory, centre, _now(), hops=hops, most=limit, relations=relation)
    if json:
        _print_json({"node_id": centre.node_id, "neighbours": found})
        return
    table = Table("weight", "hops", "kind", "node", "says", box=None)
    for row in found:
        table.add_row(f"{row.weight:.3f}", str(row.hops), row.kind, Text(row.node_id), Text(_line(row.text)))
    of(context).console.print(table)


@memory_app.command()
def edges(
    context: typer.Context,
    by: Annotated[Order, typer.Option(help="the heaviest, or those that most outcomes used")] = Order.weight,
    limit: Annotated[int, typer.Option(min=1, help="at most so many")] = 20,
    relation: Relations = None,
    tenant: Tenant = "default",
    json: Json = False,
    serial_log: SerialFile = None,
) -> None:
    """The edges that count most."""
    from ruvllm.streams.memory_tools.facts import top_edges

    memory = folded(context, serial_log).memory
    found = top_edges(memory, tenant, _now(), by=by.value, most=limit, relations=relation)
    if json:
        _print_json({"edges": found})
        return
    of(context).console.print(_edge_table(found))


@memory_app.command()
def picture(
    context: typer.Context,
    node: NodeId,
    out: Annotated[Path | None, typer.Option(help=".dot, .svg or .png file; without it: DOT to the screen")] = None,
    hops: Hops = 2,
    limit: Annotated[int, typer.Option(min=1, help="at most so many other nodes")] = 30,
    tenant: Tenant = "default",
    serial_log: SerialFile = None,
) -> None:
    """Draw what is around a node: text for Graphviz always, SVG and PNG with Matplotlib."""
    from ruvllm.streams.memory_tools.facts import named
    from ruvllm.streams.memory_tools.picture import around, dot

    if out is not None and out.suffix not in (".dot", *PICTURES):
        raise InvalidRequest(f"{out.name} ends in none of .dot, .svg, .png", hint="Name the file as one of them.")
    memory = folded(context, serial_log).memory
    found = around(memory, named(memory, tenant, node), _now(), hops=hops, most=limit)
    if out is None:
        print(dot(found), end="")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix in PICTURES:
        try:
            from ruvllm.streams.memory_tools.drawing import draw
        except ImportError as error:
            raise MissingRequirement(
                f"a {out.suffix} picture needs Matplotlib, which is not here: {error}",
                hint="pip install 'ruvllm[train]', or name a .dot file and draw it with Graphviz.",
            ) from error
        draw(found, out)
    else:
        out.write_text(dot(found), "utf-8")
    of(context).console.print(f"{out}: {len(found.nodes)} nodes, {len(found.edges)} edges")


# --- what they share ------------------------------------------------------------------------------------


def _now() -> float:
    from ruvllm.streams.clock import SystemClock

    return SystemClock().now().timestamp()


def _edge_table(found: Sequence[EdgeFacts], centre: str | None = None) -> Table:
    """Edges as rows; of those of one node the other end is shown."""
    ends = ("node",) if centre else ("source", "target")
    table = Table("weight", "relation", *ends, "born", "learnt, by client", "outcomes", "", box=None)
    for edge in found:
        if centre is None:
            nodes = [Text(edge.source), Text(edge.target)]
        elif edge.source == centre:
            nodes = [Text(f"-> {edge.target}")]
        else:
            nodes = [Text(f"<- {edge.source}")]
        born = "" if edge.birth_weight is None else f"{edge.birth_weight:.2f}"
        learnt = ", ".join(f"{client or '(nobody)'} {strength:+.3f}" for client, strength in edge.learnt.items())
        state = "pruned" if edge.pruned else "" if edge.leads else "leads nowhere"
        table.add_row(f"{edge.weight:.3f}", edge.relation, *nodes, born, Text(learnt), str(edge.use), state)
    return table


def _line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= LINE_CHARS else f"{words[: LINE_CHARS - 1]}…"


def _print_json(given: Any) -> None:
    import orjson

    sys.stdout.write(orjson.dumps(given, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode() + "\n")
