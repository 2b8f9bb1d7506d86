"""The flow on a real broker: what a user's program sees, and what becomes of everything that is wrong."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from ruvllm.schemas.flow import Interaction
from ruvllm.schemas.ids import new_id
from ruvllm.schemas.memory import PutDocument, RemoveDocument
from ruvllm.schemas.request import Response
from ruvllm.streams.client import Client
from ruvllm.streams.guard import read
from ruvllm.streams.ingest import documents_in, documents_known, ingest
from ruvllm.streams.log_reader import read_to_end
from ruvllm.streams.proof.cluster import Cluster
from ruvllm.streams.sync_client import SyncClient
from ruvllm.streams.wiring import names_of

pytestmark = pytest.mark.kafka

LIMIT_S = 30.0


def client_of(cluster: Cluster) -> Client:
    return Client(cluster.bootstrap, settings=cluster.settings)


async def produce(cluster: Cluster, value: bytes, headers: dict[str, str] | None = None) -> tuple[int, int]:
    """A record as any program may write it; returns its partition and offset."""
    producer = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap)
    await producer.start()
    try:
        topic = names_of(cluster.settings).topic("request.submitted")
        pairs = [(k, v.encode()) for k, v in (headers or {}).items()]
        written = await producer.send_and_wait(topic, value, headers=pairs)
        return written.partition, written.offset
    finally:
        await producer.stop()


async def responses_to(cluster: Cluster, request_id: str, *, count: int = 1) -> list[Response]:
    """The responses to one request id, once there are so many."""
    topic = names_of(cluster.settings).topic("response.completed")
    give_up_at = asyncio.get_running_loop().time() + LIMIT_S
    while True:
        found = [read(r, (Response,)) async for r in read_to_end(cluster.bootstrap, topic)]
        mine = [r for r in found if isinstance(r, Response) and r.request_id == request_id]
        if len(mine) >= count:
            return mine
        assert asyncio.get_running_loop().time() < give_up_at, f"{len(mine)} of {count} responses to {request_id}"
        await asyncio.sleep(0.1)


async def dead_letter_at(cluster: Cluster, place: tuple[int, int]) -> dict[str, bytes]:
    """The headers and value of the dead letter of one request record."""
    names = names_of(cluster.settings)
    topic = names.dead_letters(names.topic("request.submitted"), "intake")
    give_up_at = asyncio.get_running_loop().time() + LIMIT_S
    while asyncio.get_running_loop().time() < give_up_at:
        async for record in read_to_end(cluster.bootstrap, topic):
            came_from = (int(record.headers["dlq-partition"]), int(record.headers["dlq-offset"]))
            if came_from == place:
                return {**record.headers, "value": record.value or b""}
        await asyncio.sleep(0.1)
    raise AssertionError(f"no dead letter of {place}")


async def test_an_answer_comes_with_sources_route_and_memory_offsets(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "lamp.md").write_text("# Lamps\n\n## The keeper\n\nThe keeper of the brass lamp is Orla Fenn.\n")
    done = await ingest(cluster.settings, cluster.bootstrap, documents_in([tmp_path]))
    assert [e.outcome for e in done] == ["added"]

    async with client_of(cluster) as client:
        answer = (await client.ask("Who is the keeper of the brass lamp?", session="tour")).raise_for_error()

    assert "Orla Fenn" in answer.text
    assert answer.sources[0].title == "Lamps > The keeper"
    assert answer.tier == "1500m"
    assert answer.memory_offsets
    assert {"retrieve", "route", "generate", "total"} <= answer.latency_ms.keys()


async def test_ingesting_twice_changes_nothing_and_removal_takes_effect(cluster: Cluster) -> None:
    def put(text: str) -> PutDocument:
        return PutDocument(time=datetime.now(UTC), document_id="twice.md", content=f"# Twice\n\n## One\n\n{text}\n")

    outcomes = []
    for text in ("The gate is green.", "The gate is green.", "The gate is violet."):
        (event,) = await ingest(cluster.settings, cluster.bootstrap, [put(text)])
        outcomes.append((event.outcome, event.added, event.removed))
    assert outcomes == [("added", 1, 0), ("unchanged", 0, 0), ("replaced", 1, 1)]
    assert "twice.md" in {d.document_id for d in await documents_known(cluster.settings, cluster.bootstrap)}

    gone = RemoveDocument(time=datetime.now(UTC), document_id="twice.md")
    (event,) = await ingest(cluster.settings, cluster.bootstrap, [gone])
    assert (event.outcome, event.removed) == ("removed", 1)
    assert "twice.md" not in {d.document_id for d in await documents_known(cluster.settings, cluster.bootstrap)}


async def test_turns_of_a_session_are_answered_in_order(cluster: Cluster) -> None:
    session = new_id()
    async with client_of(cluster) as client:
        ids = [await client.submit(f"turn {n}", session=session, grounding="open") for n in range(12)]
        answered = [r.request_id async for r in client.responses()]
    assert answered == ids


async def test_a_repeated_id_is_answered_once_in_flight_and_from_the_store_afterwards(cluster: Cluster) -> None:
    request_id, session = new_id(), new_id()
    body = orjson.dumps(
        {"request_id": request_id, "session": session, "prompt": "again", "constraints": {"grounding": "open"}}
    )
    await asyncio.gather(produce(cluster, body), produce(cluster, body))
    first = await responses_to(cluster, request_id)

    await produce(cluster, body)
    again = (await responses_to(cluster, request_id, count=len(first) + 1))[-1]
    assert again.repeated
    assert (again.text, again.interaction_id) == (first[0].text, first[0].interaction_id)
    assert sum(not r.repeated for r in first) == 1

    elsewhere = new_id()
    await produce(cluster, body.replace(session.encode(), elsewhere.encode()))
    other = (await responses_to(cluster, request_id, count=len(first) + 2))[-1]
    assert other.session == elsewhere or any(
        r.session == elsewhere for r in await responses_to(cluster, request_id, count=len(first) + 2)
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"prompt": "   "}, "empty_prompt"),
        ({"prompt": "x" * 2001}, "prompt_too_long"),
        ({}, "empty_prompt"),
        ({"prompt": 7}, "invalid_request"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "invalid_request"),
        ({"prompt": "a", "constraints": {"allowed_tiers": ["70b"]}}, "unknown_tier"),
        ({"prompt": "a", "constraints": {"deadline": "2001-01-01T00:00:00Z"}}, "deadline_passed"),
        ({"prompt": "a", "constraints": {"max_tokens": 0}}, "invalid_request"),
        ({"prompt": "a", "reply_to": "somebody.elses"}, "reply_to_not_allowed"),
        ({"prompt": "a", "tenant": "stranger"}, "tenant_not_allowed"),
        ({"prompt": "a", "version": 99}, "unsupported_version"),
    ],
)
async def test_a_bad_request_gets_its_terminal_error_and_its_bytes_are_kept(
    cluster: Cluster, body: dict[str, object], code: str
) -> None:
    request_id = new_id()
    value = orjson.dumps({"request_id": request_id, **body})
    place = await produce(cluster, value)

    (response,) = await responses_to(cluster, request_id)
    assert response.error is not None
    assert response.error.code == code
    assert response.error.hint
    kept = await dead_letter_at(cluster, place)
    assert kept["value"] == value
    assert kept["dlq-code"].decode() == code


async def test_undecodable_bytes_are_kept_and_answered_if_their_headers_name_the_request(cluster: Cluster) -> None:
    nameless = await produce(cluster, b"\xff\xfe not json")
    assert (await dead_letter_at(cluster, nameless))["value"] == b"\xff\xfe not json"

    request_id = new_id()
    named = await produce(cluster, b"{broken", headers={"request-id": request_id, "session": "s"})
    (response,) = await responses_to(cluster, request_id)
    assert response.error is not None
    assert (response.error.code, response.session) == ("undecodable", "s")
    assert (await dead_letter_at(cluster, named))["value"] == b"{broken"


async def test_a_document_that_cannot_be_parsed_says_why_and_changes_nothing(cluster: Cluster) -> None:
    bad = PutDocument(
        time=datetime.now(UTC), document_id="bad.jsonl", media_type="application/jsonl", content='{"text": 1}\n'
    )
    (event,) = await ingest(cluster.settings, cluster.bootstrap, [bad])
    assert event.outcome == "failed"
    assert event.fault is not None
    assert "line 1" in event.fault.message
    assert "bad.jsonl" not in {d.document_id for d in await documents_known(cluster.settings, cluster.bootstrap)}


async def test_every_interaction_is_recorded_with_its_decision(cluster: Cluster) -> None:
    async with client_of(cluster) as client:
        answer = await client.ask("anything", grounding="open", allowed_tiers=("135m",), temperature=0.5)
    topic = names_of(cluster.settings).topic("interaction.recorded")
    recorded = [read(r, (Interaction,)) async for r in read_to_end(cluster.bootstrap, topic)]
    (mine,) = [i for i in recorded if isinstance(i, Interaction) and i.interaction_id == answer.interaction_id]
    assert mine.route is not None
    assert mine.generation is not None
    assert (mine.route.tier, mine.route.temperature) == ("135m", 0.5)
    assert mine.route.features.shape == (128,)
    assert mine.route.hidden.shape == (64,)
    assert 0 < mine.route.probability <= 1


async def test_feedback_is_accepted_into_the_log(cluster: Cluster) -> None:
    async with client_of(cluster) as client:
        answer = await client.ask("rate me", grounding="open")
        feedback_id = await client.feedback(answer, rating=5, comment="good")
    topic = names_of(cluster.settings).topic("rating.accepted")
    give_up_at = asyncio.get_running_loop().time() + LIMIT_S
    bodies: list[dict[str, object]] = []
    while feedback_id not in {b.get("feedback_id") for b in bodies}:
        assert asyncio.get_running_loop().time() < give_up_at
        bodies = [orjson.loads(r.value or b"{}") async for r in read_to_end(cluster.bootstrap, topic)]


def test_the_synchronous_client_asks_too(cluster: Cluster) -> None:
    with SyncClient(cluster.bootstrap, settings=cluster.settings) as client:
        assert client.ask("hello", grounding="open").ok


async def test_a_tier_that_nobody_serves_is_answered_at_the_deadline(kafka: str) -> None:
    flags = {"profile": "tiny", "generation.backend": "echo", "retrieval.embedder": "hashing", "kafka.partitions": "2"}
    with Cluster(kafka, flags) as lonely:
        lonely.spawn("answer", "answer")
        await lonely.until_ready()
        async with client_of(lonely) as client:
            answer = await client.ask("is anybody there?", deadline_s=1.5, grounding="open")
        assert answer.error is not None
        assert answer.error.code == "deadline_exceeded"
        assert answer.time < datetime.now(UTC) + timedelta(seconds=1)
