"""`ruvllm explain` and `ruvllm diff` against running workers: the log says who taught what, and what that moved."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest

from ruvllm.schemas.request import Response
from ruvllm.streams.cli import main
from ruvllm.streams.client import Client
from ruvllm.streams.ingest import until_folded
from ruvllm.streams.lineage import learnt_from
from ruvllm.streams.proof.cluster import Cluster
from ruvllm.streams.wiring import names_of

pytestmark = pytest.mark.kafka

QUESTION = "Who paints the weather vane of Orrel Sound?"
TRUTH = "Mirel Dunn paints the weather vane of Orrel Sound."

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ruvllm(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in the cluster's installation: its exit status, what it printed and complained of."""
    sets = [word for name, value in cluster.all_flags.items() for word in ("--set", f"{name}={value}")]

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ruvllm", *sets, *words])
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


async def asked_corrected_and_asked_again(cluster: Cluster) -> tuple[Response, Response]:
    names = names_of(cluster.settings)
    async with Client(cluster.bootstrap, settings=cluster.settings) as client:
        first = await client.ask(QUESTION, grounding="open")
        await client.feedback(first, correction=TRUTH)
        learnt = await learnt_from(cluster.bootstrap, names, first.interaction_id, by="task")
        await until_folded(cluster.bootstrap, names, learnt.offsets)
        return first, await client.ask(QUESTION, grounding="open")


def found(run: Run, *words: str) -> Mapping[str, Any]:
    status, out, err = run(*words, "--json")
    assert status == 0, err
    told: Mapping[str, Any] = orjson.loads(out)
    return told


def test_the_log_tells_why_an_answer_changed(cluster: Cluster, ruvllm: Run) -> None:
    # given a question that was asked, corrected and asked again; when its second answer is explained
    first, second = asyncio.run(asked_corrected_and_asked_again(cluster))
    told = found(ruvllm, "explain", second.request_id)
    # then its first source is the correction, made by the first interaction, by an edge that this one taught
    source = told["sources"][0]
    assert source["text"] == TRUTH
    assert [maker["interaction_id"] for maker in source["made_by"]] == [first.interaction_id]
    makers = {c["by"]["interaction_id"] for edge in source["edges"] for c in edge["contributions"]}
    assert makers == {first.interaction_id}
    # and the first answer's story has the feedback and what was learnt
    before = found(ruvllm, "explain", first.request_id)
    assert before["feedback"][0]["correction"] == TRUTH
    assert before["outcomes"][-1]["by"] == "task"
    assert len(before["learnt"]["changes"]) >= 3
    # when the two askings are compared; then the same edge and the same interaction moved it
    difference = found(ruvllm, "diff", first.request_id, second.request_id)
    assert (difference["before"]["as_recorded"], difference["after"]["as_recorded"]) == (True, True)
    come = next(c for c in difference["candidates"] if c["text"] == TRUTH)
    assert (come["rank"]["before"], come["rank"]["after"]) == (None, 1)
    edges = {edge["edge_id"]: edge for edge in difference["edges"]}
    assert {e["edge_id"] for e in source["edges"]} == set(come["edges"])
    events = [event for name in come["edges"] for event in edges[name]["events"]]
    assert {event["by"]["interaction_id"] for event in events} == {first.interaction_id}
    # and so at two moments: when it was first asked, and the place that the second answer was found at
    at, place = before["request"]["time"], ",".join(f"{p}:{offset}" for p, offset in second.memory_offsets.items())
    words = ("diff", "--question", QUESTION, "--from", at, "--to", place)
    assert any(c["text"] == TRUTH and c["rank"]["before"] is None for c in found(ruvllm, *words)["candidates"])
    status, out, err = ruvllm(*words)
    assert (status, "because: " in out) == (0, True), err
