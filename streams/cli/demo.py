"""`ruvllm demo`: the main job, once, on real Kafka with real models and documents, in front of your eyes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ruvllm.streams.cli.answering import show
from ruvllm.streams.cli.context import Context, of, run
from ruvllm.streams.cli.documents import bar, summarise
from ruvllm.streams.cli.service import broker_of
from ruvllm.streams.settings import Settings

if TYPE_CHECKING:
    from ruvllm.streams.lineage import Learnt


@dataclass(frozen=True)
class News:
    """Something that happened since the documents were written."""

    question: str
    correction: str
    in_other_words: str


NEWS = News(
    "Who keeps the night watch at the market stone of Ommerlisk this week?",
    "This week Sela Marr keeps the night watch at the market stone of Ommerlisk.",
    "At the market stone of Ommerlisk, who has the night watch this week?",
)
QUESTIONS = ("q01", "q09", "q17", "q29", "q33")
"""Three that one passage answers and two that need two, of the packaged forty."""

HOW_TO_GO_ON = """\
Ask from your own program:

    from ruvllm import Client
    async with Client("{bootstrap}") as client:
        answer = await client.ask("{question}", session="tour")
        print(answer.text, answer.sources)

Any Kafka client will do: produce JSON to {requests}
and consume {responses}; `ruvllm topology --format jsonschema` has the schemas.
"""


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    context: typer.Context,
    keep: Annotated[bool, typer.Option(help="leave everything running afterwards")] = False,
) -> None:
    """Start everything, ingest the packaged corpus, ask, and show what then lies in the log."""
    from ruvllm.streams.processes import PROCESSES, Processes

    here = of(context)
    console = here.console
    broker = broker_of(here.settings)
    was_running = broker.kind == "external" or broker.status().running
    bootstrap = str(broker.bootstrap)
    shown = {"router.exploration": "0", **here.flags}  # the router's best, not its experiments
    processes = Processes(here.settings, {**shown, "kafka.bootstrap_servers": bootstrap}, file=here.file)
    were_up = {s.process for s in processes.states() if s.running}
    try:
        if not was_running:
            with step(console, f"Kafka starts at {bootstrap}"):
                broker.start()
        with step(console, f"answer, pool and learn start (profile {here.settings.profile})"):
            processes.start()
        _ingest(here, bootstrap)
        run(_ask(here.settings, console, bootstrap))
        run(_teach(here.settings, console, bootstrap))
        run(_show_topics(here.settings, console, bootstrap))
        _farewell(here, console, bootstrap)
    except BaseException:
        keep = False
        raise
    finally:
        if keep:
            console.print("Everything is left running: `ruvllm status`, `ruvllm down`.")
        else:
            with step(console, "stopping what the demo started"):
                processes.stop([p for p in PROCESSES if p not in were_up])
                if not was_running:
                    broker.stop()


@contextmanager
def step(console: Console, what: str) -> Iterator[None]:
    """Say what happens, and how long it took."""
    started = time.monotonic()
    with console.status(Text(what)):
        yield
    console.print(Text.assemble(("✓", "green"), f" {what} ", (f"{time.monotonic() - started:.1f} s", "dim")))


def _ingest(here: Context, bootstrap: str) -> None:
    from ruvllm.streams.ingest import documents_in, ingest
    from ruvllm.streams.proof.corpus import demo_folder

    commands = documents_in([demo_folder() / "corpus"])
    with bar(here.console) as progress:
        task = progress.add_task("ingesting the corpus", total=len(commands))
        done = run(ingest(here.settings, bootstrap, commands, progress=lambda _: progress.advance(task)))
    summarise(here.console, done)


async def _ask(settings: Settings, console: Console, bootstrap: str) -> None:
    from ruvllm.schemas.ids import new_id
    from ruvllm.streams.client import Client
    from ruvllm.streams.proof.corpus import demo_folder, is_right, load_questions, load_unanswerable

    questions = {q.id: q for q in load_questions(demo_folder())}
    unanswerable = load_unanswerable(demo_folder())
    visit = new_id()
    async with Client(bootstrap, settings=settings) as client:
        first = questions[QUESTIONS[0]].question
        console.rule("without memory, as a control")
        console.print(f"? {first}", style="cyan")
        show(console, await client.ask(first, session=f"control-{visit}", grounding="none", max_tokens=48))
        console.rule("with memory")
        right = 0
        for name in QUESTIONS:
            question = questions[name]
            console.print(f"? {question.question}", style="cyan")
            answer = await client.ask(question.question, session=f"{name}-{visit}", max_tokens=64)
            show(console, answer)
            right += is_right(answer.text, question.answers)
        console.print(f"? {unanswerable[-1]}", style="cyan")
        show(console, await client.ask(unanswerable[-1], session=f"u-{visit}", max_tokens=64))
        console.print(f"\n{right} of {len(QUESTIONS)} hold the expected answer; all forty: `ruvllm eval answers`")


async def _teach(settings: Settings, console: Console, bootstrap: str) -> None:
    """Correct an answer, show what memory makes of that, and ask again in other words."""
    from ruvllm.schemas.ids import new_id
    from ruvllm.streams.client import Client
    from ruvllm.streams.ingest import until_folded
    from ruvllm.streams.lineage import learnt_from
    from ruvllm.streams.wiring import names_of

    names = names_of(settings)
    visit = new_id()
    console.rule("learning")
    async with Client(bootstrap, settings=settings) as client:
        console.print(f"? {NEWS.question}", style="cyan")
        answer = await client.ask(NEWS.question, session=f"news-{visit}", max_tokens=48)
        show(console, answer)
        console.print(Text.assemble(("! ", "bold"), NEWS.correction, (" (a correction, as feedback)", "dim")))
        await client.feedback(answer, session=f"news-{visit}", correction=NEWS.correction)
        learnt = await learnt_from(bootstrap, names, answer.interaction_id, by="task")
        for line in told(learnt):
            console.print(Text(f"  {line}", style="dim"))
        await until_folded(bootstrap, names, learnt.offsets)
        console.print(f"? {NEWS.in_other_words}", style="cyan")
        show(console, await client.ask(NEWS.in_other_words, session=f"again-{visit}", max_tokens=48))


def told(learnt: Learnt) -> Iterator[str]:
    """What an interaction has changed in memory, a line for each change."""
    from ruvllm.schemas.memory import EdgeContributed, NodeAdded, NodeRetracted

    outcome = learnt.outcome
    yield f"judged {outcome.quality:.2f} by the {outcome.by} judge: {' '.join(outcome.reasons)}"
    for change in learnt.changes:
        if isinstance(change, NodeAdded):
            yield f"+ {change.node_kind} {change.node_id[:10]}: {change.text}"
        elif isinstance(change, NodeRetracted):
            yield f"- node {change.node_id[:10]}: {change.reason}"
        elif isinstance(change, EdgeContributed):
            ends = f"{change.source[:10]} {change.relation} {change.target[:10]}"
            yield f"  edge {ends}: strength {change.amount:+.2f}"


async def _show_topics(settings: Settings, console: Console, bootstrap: str) -> None:
    from ruvllm.streams.log_reader import read_to_end
    from ruvllm.streams.topology import TOPICS
    from ruvllm.streams.wiring import names_of

    names = names_of(settings)
    table = Table("topic", "records", "meaning", box=None, title="the log")
    for topic in TOPICS:
        for name in names.topics(topic.name):
            count = 0
            async for _ in read_to_end(bootstrap, name):
                count += 1
            table.add_row(name, str(count), topic.meaning)
    console.print(table)


def _farewell(here: Context, console: Console, bootstrap: str) -> None:
    from ruvllm.streams.proof.corpus import demo_folder, load_questions
    from ruvllm.streams.topology import client_names

    names = client_names(here.settings.kafka.prefix, here.settings.kafka.partitions)
    console.print(
        HOW_TO_GO_ON.format(
            bootstrap=bootstrap,
            question=load_questions(demo_folder())[0].question,
            requests=names.topic("request.submitted"),
            responses=names.topic("response.completed"),
        )
    )
    console.print("`ruvllm up` starts it to stay, `ruvllm ingest FOLDER` adds your documents, `ruvllm down` stops it.")
