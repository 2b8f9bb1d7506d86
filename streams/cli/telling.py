"""What the log said, for people: lines that can be read from top to bottom. Every list shows its strongest first."""

from __future__ import annotations

from datetime import datetime

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ruvllm.models.router.what_if import Supposition
from ruvllm.streams.history.checkpoints import Run
from ruvllm.streams.history.difference import BeforeAfter, Difference, RouteSide
from ruvllm.streams.history.influence import EdgeStory, Influence, Maker, Withdrawn
from ruvllm.streams.history.story import RouteStory, SourceStory, Story
from ruvllm.streams.history.supposing import Stretch, refusal

SHOWN = 5
"""Interactions behind one edge that are listed, the strongest; `--json` has all."""
LINE_CHARS = 90


def print_story(console: Console, story: Story) -> None:
    asked, request = story.interaction, story.interaction.request
    say = console.print
    client = f", client {request.client}" if request.client else ""
    say(f"request {asked.request_id} of {asked.tenant}, session {asked.session}{client}, {when(asked.time)}")
    say(f"  interaction {asked.interaction_id}, {story.place}")
    say(f"question: {line(request.question)}")
    if asked.fault:
        say(f"failed in {asked.fault.stage}: {asked.fault.message} [{asked.fault.code}]")
    if asked.generation:
        say(f"answer: {line(asked.generation.text)}")
    if story.retraction:
        say(Text(_withdrawn("RETRACTED", story.retraction), style="bold"))
    for maker in story.stands_on_retracted:
        assert maker.retracted
        say(Text(f"stands on what was since retracted: {_maker(maker)}", style="bold"))
    _sources(console, story)
    if story.route:
        _route(console, story.route)
    _generation(console, story)
    _aftermath(console, story)


def _sources(console: Console, story: Story) -> None:
    retrieval = story.interaction.retrieval
    if retrieval is None:
        return
    places = ", ".join(f"{p}:{o}" for p, o in sorted(retrieval.memory_offsets.items())) or "nothing"
    ranker = story.ranker or "none: hybrid score and edges"
    console.print(f"\nsources, from memory below {places}; ranker {ranker}{_lineage(story.ranker_lineage)}")
    if not story.sources:
        console.print("  none")
    for source in story.sources:
        _source(console, source)


def _source(console: Console, source: SourceStory) -> None:
    origin = f" of {source.document_id}" if source.document_id else ""
    unused = "" if source.in_prompt else ", not in the prompt"
    past = f", past questions {source.past:.3f}" if source.past else ""
    console.print(
        f"  {source.rank}. {source.node_id}, {source.kind}{origin}: score {source.score:.3f}, "
        f"similarity {source.similarity:.3f}{past}{unused}"
    )
    console.print(f"     {line(source.text)}")
    if source.since:
        console.print(f"     gone since {source.since}")
    for maker in source.made_by:
        console.print(f"     made by {_maker(maker)}")
    for edge in source.edges:
        _edge(console, edge)


def _edge(console: Console, edge: EdgeStory) -> None:
    if edge.weight is None:
        console.print(f"     by {edge.edge_id}: it came while the question was answered, after the place recorded")
        return
    alike = f", from a question {edge.alike:.3f} alike" if edge.alike is not None else ""
    console.print(
        f"     by {edge.edge_id}, {edge.relation} {edge.source} -> {edge.target}: weight {edge.weight:.3f}{alike}"
    )
    if edge.birth and edge.birth.by is None:
        document = edge.birth.document_id or "a document"
        console.print(f"        born with {document} at {when(edge.birth.at)}, weight {edge.birth.weight:.2f}")
    strongest = sorted(edge.contributions, key=lambda i: -abs(i.amount or 0.0))[:SHOWN]
    for one in (i for i in edge.contributions if i in strongest):
        console.print(f"        {moved(one)}")
    if len(edge.contributions) > SHOWN:
        console.print(f"        and {len(edge.contributions) - SHOWN} more (--json)")


def moved(one: Influence) -> str:
    """One change of an edge in a line."""
    what = f"{one.amount:+.3f}" if one.amount is not None else f"{one.kind} {one.reason}".strip()
    return f"{what} at {one.place}" + (f" by {_maker(one.by)}" if one.by else "")


def _maker(maker: Maker) -> str:
    client = f", client {maker.client}" if maker.client else ""
    asked = f": {line(maker.question)}" if maker.question else ""
    at = f", {when(maker.at)}" if maker.at else ""
    taken_back = f" ({_withdrawn('retracted', maker.retracted)})" if maker.retracted else ""
    return f"{maker.interaction_id}{client}{at}{asked}{taken_back}"


def _withdrawn(word: str, withdrawn: Withdrawn) -> str:
    at = f" {when(withdrawn.at)}" if withdrawn.at else ""
    return f"{word}{at}: {withdrawn.reason}" + ("" if withdrawn.carried_out else " (not carried out yet)")


def _route(console: Console, route: RouteStory) -> None:
    console.print(
        f"\nroute: {route.tier}, context {route.context_tokens}, temperature {route.temperature:g}, "
        f"top_p {route.top_p:g}; probability {route.probability:.4f}"
    )
    drawn = f"{', '.join(route.drawn)} drawn at random" if route.explored else "nothing drawn at random"
    fallback = "fallback: the default route, for want of confidence" if route.fallback else "no fallback"
    console.print(f"  {drawn}; {fallback}; confidence {route.confidence:.3f}, exploration {route.exploration:g}")
    if route.expected:
        said = ", ".join(f"{name} {value:.3f}" for name, value in route.expected.items())
        console.print(f"  expected: {said}")
    table = Table("head", "probability of each choice", box=None)
    for head, choices in route.arms.items():
        table.add_row(head, "  ".join(f"{choice} {share:.3f}" for choice, share in choices.items()))
    console.print(Padding(table, (0, 0, 0, 1)))
    console.print(f"  checkpoint {route.checkpoint}{_lineage(route.lineage) or ', untrained'}")


def _lineage(runs: tuple[Run, ...]) -> str:
    return "".join(
        f"\n    <- run {run.run_id} at {when(run.at)}, {run.examples} examples, "
        f"gain {run.gain:+.3f} ± {run.error or 0:.3f} on {run.questions} held out, parent {run.parent or 'none'}; "
        f"had read {_read(run)}"
        for run in runs
    )


def _read(run: Run) -> str:
    return ", ".join(f"{sum(ends.values())} places of {name}" for name, ends in run.offsets.items())


def _generation(console: Console, story: Story) -> None:
    made = story.interaction.generation
    if made is None:
        return
    sha = f" (sha256 {made.model_sha256[:12]})" if made.model_sha256 else ""
    usage = made.usage
    console.print(
        f"\ngeneration: {made.model or 'no model was asked'}{sha}, prompt {made.prompt_version}, {made.finish_reason}, "
        f"confidence {made.confidence:.3f}"
    )
    console.print(
        f"  tokens: {usage.prompt_tokens} of the prompt ({usage.cached_tokens} cached), {usage.completion_tokens} made"
    )
    took = ", ".join(f"{stage} {ms:.0f}" for stage, ms in story.interaction.latency_ms.items())
    console.print(f"  milliseconds: {took or 'not noted'}")


def _aftermath(console: Console, story: Story) -> None:
    say = console.print
    say("\njudged:" if story.verdicts else "\nnot judged")
    for verdict in story.verdicts:
        said = f"retracted: {verdict.retraction}" if verdict.retraction else "; ".join(verdict.reasons)
        say(f"  {verdict.revision}. quality {verdict.quality:.2f} by {verdict.by}, {verdict.place}: {said}")
    for rating in story.feedback:
        words = rating.model_dump(
            exclude_none=True, include={"rating", "score", "passed", "expected", "correction", "comment"}
        )
        say(f"  feedback {when(rating.time)}: " + ", ".join(f"{k} {v}" for k, v in words.items()))
    say(f"learnt from it: {len(story.lessons)} changes of memory, credit to {len(story.credit)} candidates")
    for lesson in story.lessons:
        amount = f" {lesson.amount:+.3f}" if lesson.amount is not None else ""
        relation = f" ({lesson.relation})" if lesson.relation else ""
        say(f"  {lesson.kind} {lesson.subject}{relation}{amount}, {lesson.place}")
    for reading in story.runs:
        run = reading.run
        outcome = f"checkpoint {run.checkpoint}" if run.checkpoint else "held back"
        verb = "has read it" if reading.read else "has not read it"
        say(f"  {run.learner} run {run.run_id} at {when(run.at)} {verb}: {outcome}")


def print_difference(console: Console, found: Difference) -> None:
    say = console.print
    say(f"question: {line(found.question)}")
    for word, side in (("before", found.before), ("after", found.after)):
        places = ", ".join(f"{p}:{o}" for p, o in sorted(side.place.items()) if o) or "nothing"
        again = {None: "", True: "; found again as recorded", False: "; NOT found again as recorded"}[side.as_recorded]
        say(f"  {word}: {side.name}, {when(side.at)}, memory below {places}, ranker {side.ranker or 'none'}{again}")
    say("\nbecause: " + ("; ".join(found.because) or "nothing moved"))
    edges = {edge.edge_id: edge for edge in found.edges}
    for one in found.candidates:
        served = {(True, False): ", served no longer", (False, True): ", served now"}.get(
            (one.served.before, one.served.after), ""
        )
        say(f"  {one.node_id}: rank {_change(one.rank)}, score {_change(one.score)}{served}")
        say(f"     {line(one.text)}")
        for event in one.events:
            say(f"     {moved(event)}")
        for edge in (edges[name] for name in one.edges):
            say(
                f"     by {edge.edge_id}, {edge.relation} {edge.source} -> {edge.target}: weight {_change(edge.weight)}"
            )
            for event in edge.events:
                say(f"        {moved(event)}")
    before, after = found.before.route, found.after.route
    if before and after:
        _routes(console, before, after, found.route_because)


def _routes(console: Console, before: RouteSide, after: RouteSide, because: tuple[str, ...]) -> None:
    quality = BeforeAfter(*((side.expected or {}).get("quality") for side in (before, after)))
    console.print(
        f"\nroute: {_change(BeforeAfter(before.tier, after.tier))}, expected quality {_change(quality)}, "
        f"confidence {_change(BeforeAfter(before.confidence, after.confidence))}"
    )
    for why in because or ("nothing changed for it",):
        console.print(f"  {why}")


def _change(value: BeforeAfter) -> str:
    one, other = (
        "none" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in (value.before, value.after)
    )
    return one if one == other else f"{one} -> {other}"


def print_supposition(console: Console, stretch: Stretch, found: Supposition) -> None:
    left_out = ", ".join(f"{count} {why}" for why, count in stretch.left_out.items() if count)
    console.print(f"{found.answers} answers of {found.sessions} sessions; left out: {left_out or 'none'}")
    console.print(f"effective sample size {found.ess:.1f}")
    if not found.supported:
        error = refusal(found)
        console.print(f"not supported: {error.message}")
        console.print(f"  {error.hint}")
        return
    table = Table("", "logged", "estimated", "95 % interval", box=None)
    for name in ("quality", "cost", "reward"):
        figure = getattr(found, name)
        low, high = figure.ci95
        table.add_row(name, f"{figure.logged:.4f}", f"{figure.estimated:.4f}", f"{low:.4f} to {high:.4f}")
    console.print(table)
    if found.difference:
        low, high = found.difference.ci95
        console.print(
            f"reward against the log's policy: {found.difference.reward:+.4f}, 95 % {low:+.4f} to {high:+.4f}"
        )


def when(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"


def line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= LINE_CHARS else f"{words[: LINE_CHARS - 1]}…"
