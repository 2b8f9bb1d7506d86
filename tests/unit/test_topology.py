"""The topology is whole: each topic has who writes it and who reads it, and all that is made from it is current."""

from pathlib import Path

import orjson
import pytest

from ruvllm.schemas.flow import Failed, Routed
from ruvllm.schemas.wire import EVENTS
from ruvllm.streams import describe
from ruvllm.streams.topology import (
    FAILURES,
    STAGES,
    TOPICS,
    Keeping,
    Names,
    client_names,
    partition_of,
    stage,
    stages_of,
    topic,
)
from tests.unit.sample_events import BY_KIND, SAMPLES

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
PAGES = describe.reference()
BY_USERS = {"request.submitted", "feedback.submitted", "document.submitted", "retraction.submitted"}
BY_EVERY_STAGE = {FAILURES}
BY_MEMORY_VIEWS = {"memory.folded"}
BY_TRAINERS = {"training.recorded"}
NAMES = Names("test", ("135m", "500m"), 16)


# --- the rows fit together ----------------------------------------------------------------------------


def test_what_is_consumed_is_produced_by_a_stage_or_by_users():
    # given all stages; when what they read is compared with what is written; then nothing is read in vain
    produced = {name for s in STAGES for name in s.produces} | BY_USERS | BY_EVERY_STAGE
    assert {name for s in STAGES for name in s.consumes} - produced == set()


def test_every_topic_has_a_writer_and_every_name_in_a_row_is_a_topic():
    # given all rows; when topics are compared with writers and readers; then none is unknown and none is orphaned
    known = {t.name for t in TOPICS}
    produced = {name for s in STAGES for name in s.produces}
    assert known == produced | BY_USERS | BY_EVERY_STAGE | BY_MEMORY_VIEWS | BY_TRAINERS
    assert {name for s in STAGES for name in (*s.consumes, s.state) if name} <= known


def test_every_event_travels_in_exactly_one_topic():
    # given all events; when looked for in the topics; then each is in the one that it names
    homes = {event: [t.name for t in TOPICS if event in t.events] for event in EVENTS}
    assert homes == {event: [event.topic] for event in EVENTS}


def test_names_are_unique_and_rows_can_be_found_by_them():
    # given stages and topics; when looked up by name; then each is found
    assert [stage(s.name) for s in STAGES] == list(STAGES)
    assert [topic(t.name) for t in TOPICS] == list(TOPICS)
    assert {s.name for p in ("answer", "pool", "learn") for s in stages_of(p)} == {s.name for s in STAGES}


def test_an_owners_state_is_compacted_and_written_by_nobody_else():
    # given the stages that keep state; when their state's topic is looked at; then it is theirs alone
    for owner in [s for s in STAGES if s.state]:
        assert topic(owner.state).keeping is Keeping.STATE
        assert [s.name for s in STAGES if owner.state in s.produces] == [owner.name]
    assert {s.name for s in STAGES if s.state} == {"desk", "judge", "reinforce", "documents"}


def test_the_log_is_kept():
    # given what learned state is folded from; when its keeping is looked at; then nothing of it expires
    log = {"request.submitted", "feedback.submitted", "interaction.recorded", "memory.changed", "document.submitted"}
    assert {t.name for t in TOPICS if t.keeping is Keeping.LOG} >= log


# --- names --------------------------------------------------------------------------------------------


def test_topics_are_named_by_prefix_entity_event_and_version():
    # given an installation's names; when topics, groups and dead letters are named; then so
    assert NAMES.topic("turn.accepted") == "test.turn.accepted.v1"
    assert NAMES.topic("request.routed", "135m") == "test.request-135m.routed.v1"
    assert NAMES.group("desk") == "test.desk"
    assert NAMES.dead_letters("test.turn.accepted.v1", "desk") == "test.turn.accepted.v1.desk.dlq"
    assert NAMES.consumed(stage("generate")) == ("test.request-135m.routed.v1", "test.request-500m.routed.v1")
    with pytest.raises(ValueError, match=r"request\.routed is one a tier"):
        NAMES.topic("request.routed")


def test_all_names_are_listed_once():
    # given an installation; when all its topics are listed; then each has one name, one a tier where there are tiers
    every = [name for name, _ in NAMES.every()]
    assert len(every) == len(set(every)) == len(TOPICS) + 1
    dead = list(NAMES.every_dead_letter())
    assert len(dead) == len(set(dead)) == sum(len(NAMES.consumed(s)) for s in STAGES)
    assert set(dead).isdisjoint(every)


@pytest.mark.parametrize("event", SAMPLES, ids=BY_KIND)
def test_every_event_has_a_destination(event):
    # given any event; when sent; then its destination is a topic of its own kind
    assert dict(NAMES.every())[NAMES.destination(event)].name == event.topic


def test_a_client_can_name_all_that_it_needs():
    # given names without tiers; when a client's topics are named; then they are the service's
    names = client_names("test", 16)
    for kind in ("request.submitted", "feedback.submitted", "document.submitted", "response.completed"):
        assert names.topic(kind) == NAMES.topic(kind)
        assert names.partition(BY_KIND[kind if kind != "document.submitted" else "document.put"]) >= 0


# --- partitions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "partitions", "place"),
    [
        ("123456789", 2**32, 0xCBF43926),  # the check value of CRC-32
        ("default\x1ftour", 16, 6),
        ("default\x1ftour", 1024, 550),
        ("harbour\x1f灯", 16, 4),
        ("harbour\x1f\udcff", 16, 7),
        ("", 16, 0),
        ("x", 1, 0),
    ],
)
def test_partitions_are_the_same_for_ever_and_in_every_language(key, partitions, place):
    # given keys and the places that CRC-32 of their UTF-8 bytes gives; when placed; then there
    assert partition_of(key, partitions) == place


def test_partitions_are_used_evenly():
    # given a thousand sessions; when placed; then each of 16 partitions has some
    used = [partition_of(f"default\x1fs{n}", 16) for n in range(1000)]
    assert min(used.count(p) for p in range(16)) > 30


def test_a_requests_steps_meet_on_one_partition():
    # given one session's turn, answer and failure; when placed; then the desk's owner sees all of them
    steps = [BY_KIND[kind] for kind in ("turn.accepted", "answer.generated", "request.failed", "session.state")]
    assert len({NAMES.partition(e) for e in steps}) == 1
    assert isinstance(steps[2], Failed)


# --- what is made of it -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_the_reference_pages_are_current(name):
    # given the committed pages; when made anew (python -m ruvllm.streams.describe docs/reference); then they are equal
    assert (REFERENCE / name).read_text("utf-8") == PAGES[name]


def test_the_readmes_diagram_is_current():
    # given the README; when its diagram is made anew (ruvllm topology --format mermaid); then it is there
    assert describe.mermaid().strip() in (REFERENCE.parents[1] / "README.md").read_text("utf-8")


def test_the_reference_pages_can_be_written_anew(tmp_path):
    # given a folder that is not there yet; when the pages are written into it; then they are what they are
    describe.write_reference(tmp_path / "new")
    assert {f.name: f.read_text("utf-8") for f in (tmp_path / "new").iterdir()} == PAGES


def test_the_table_and_the_diagram_name_every_stage_and_topic():
    # given table and diagram; when searched; then every stage and topic is in the one, every stage in the other
    table, diagram = describe.table(), describe.mermaid()
    assert [s.name for s in STAGES if f"**{s.name}**" not in table or f"{s.name}[" not in diagram] == []
    assert [t.name for t in TOPICS if t.name not in table and not t.by_tier] == []
    assert "desk -->|request.admitted| retrieve" in diagram
    assert "users -->|document.submitted| documents" in diagram


def test_asyncapi_refers_to_what_it_holds():
    # given the AsyncAPI document; when every reference in it is followed; then it leads somewhere
    document = orjson.loads(orjson.dumps(describe.asyncapi(NAMES)))
    references = list(_references(document))
    assert len(references) > 100
    for reference in references:
        place = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
    assert set(document["channels"]) == {name for name, _ in NAMES.every()}


def test_json_schema_has_every_event_with_its_kind():
    # given the JSON Schema; when every kind is looked up; then its fields are there
    schema = describe.jsonschema()
    for event in EVENTS:
        definition = schema["$defs"][schema["kinds"][event.kind].rpartition("/")[2]]
        assert set(definition["properties"]) == set(event.model_fields)
    assert schema["$defs"][Routed.__name__]["properties"]["route"]["$ref"] == "#/$defs/Route"


def _references(node):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
