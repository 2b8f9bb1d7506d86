"""An export carries memory whole: what another log's fold makes of it is the same, and what was changed is not read."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.agents.memory_fold import CHANGES, fold
from ruvllm.errors import InvalidConfiguration, InvalidDocument
from ruvllm.models.embedding import HashingEmbedder
from ruvllm.models.memory.node import Contents
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.memory import EdgeAdded, EdgeContributed, EdgePruned, NodeAdded, NodeRetracted, name_edge
from ruvllm.schemas.wire import decode, encode
from ruvllm.streams.memory_tools.export import changes, missing_from, read_export, write_export

EMBEDDER = HashingEmbedder(dimension=16)
START = datetime(2031, 5, 17, 9, 0, tzinfo=UTC)
NOW = (START + timedelta(days=50)).timestamp()


def empty(**options):
    return Memory(**{"embedder": EMBEDDER.name, "dimension": EMBEDDER.dimension, **options})


def node(node_id, text="a lamp", made_by="", tenant="default", at=START, **fields):
    (vector,) = EMBEDDER.embed([text])
    return NodeAdded(
        tenant=tenant,
        time=at,
        change_id="ch",
        node_id=node_id,
        made_by=made_by,
        node_kind="question" if made_by else "document",
        title="Title",
        text=text,
        embedder=EMBEDDER.name,
        vector=vector,
        **fields,
    )


def edge_of(source, target, relation="co_retrieved", tenant="default", at=START):
    edge_id = name_edge(tenant, relation, source, target)
    ends = {"source": source, "target": target, "relation": relation}
    return {"tenant": tenant, "time": at, "change_id": "ch", "edge_id": edge_id, **ends}


def lesson(amount, client="", outcomes=1, **edge):
    given = edge_of(**{"source": "n-a", "target": "n-b", **edge})
    return EdgeContributed(**given, made_by="ix", client=client, amount=amount, outcomes=outcomes)


def pruned(**edge):
    given = edge_of(**{"source": "n-a", "target": "n-b", **edge})
    return EdgePruned(**{k: given[k] for k in ("tenant", "time", "change_id", "edge_id")}, reason="worn out")


def memory_of(*events):
    """As a view folds them: from their bytes, numbered."""
    memory = empty()
    for offset, event in enumerate(events):
        fold(memory, decode(CHANGES, encode(event)), offset)
    return memory


def carried(memory, folder, tenant=None):
    """An export of a memory, and the memory that the fold of its changes is in another log."""
    write_export(memory, folder / "memory.jsonl", log_id="the log", offsets={"0": 9}, tenant=tenant)
    export = read_export(folder / "memory.jsonl")
    return export, memory_of(*as_events(export.contents, export))


def as_events(contents, export):
    return [event for group in changes(contents, export.head.digest) for event in group]


NODES = st.sampled_from(["n-a", "n-b", "n-c", "n-d"])
TENANTS = st.sampled_from(["default", "other"])
MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2045, 1, 1), timezones=st.just(UTC))
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ENDS = {"source": NODES, "target": NODES, "tenant": TENANTS, "at": MOMENTS}
LEARNT = st.sampled_from(["co_retrieved", "answered_by"])
EVENTS = st.one_of(
    st.builds(
        node,
        NODES,
        WORDS,
        st.sampled_from(["", "ix-1", "ix-2"]),
        TENANTS,
        MOMENTS,
        document_id=st.none() | st.just("lamps.md"),
        position=st.integers(0, 9),
        metadata=st.dictionaries(WORDS, WORDS, max_size=2),
    ),
    st.builds(
        lambda weight, **edge: EdgeAdded(**edge_of(**edge), weight=weight),
        st.floats(0, 0.999),
        relation=LEARNT | st.just("follows"),
        **ENDS,
    ),
    st.builds(
        lesson,
        st.floats(-3, 3),
        st.sampled_from(["", "ann", "bob"]),
        st.sampled_from([-1, 0, 1]),
        relation=LEARNT,
        **ENDS,
    ),
    st.builds(pruned, relation=LEARNT, **ENDS),
    st.builds(
        lambda node_id, maker: NodeRetracted(time=START, change_id="ch", node_id=node_id, made_by=maker, reason="bad"),
        NODES,
        st.sampled_from(["ix-1", "ix-2"]),
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENTS, max_size=25))
def test_any_memory_comes_back_as_it_was(tmp_path_factory, events):
    # given whatever a log made of memory; when exported and folded anew from the export's changes
    memory = memory_of(*events)
    export, again = carried(memory, tmp_path_factory.mktemp("export"))
    # then nodes, members and edges are the same, and so is each weight
    assert again.digest() == memory.digest() == export.head.digest
    for edge in export.contents.edges:
        other = again.edge(edge.tenant, edge.edge_id)
        assert again.weight_of(other, NOW) == pytest.approx(memory.weight_of(edge, NOW), abs=1e-9)
        assert again.leads(other, NOW) == memory.leads(edge, NOW)
    assert not any(missing_from(again, export).nodes + missing_from(again, export).edges)


def test_members_clients_and_outcomes_are_kept_apart(tmp_path):
    # given a node that two interactions made, and an edge that two clients taught in three outcomes
    memory = memory_of(
        node("n-a", "who?", "ix-2", at=START + timedelta(hours=1)),
        node("n-a", "who is it?", "ix-1"),
        node("n-b"),
        lesson(0.3, "ann"),
        lesson(0.2, "ann", at=START + timedelta(days=30)),
        lesson(-0.1, "bob"),
    )
    # when carried to another log
    _, again = carried(memory, tmp_path)
    # then the earlier member shows, and taken back leaves the other
    assert [member.made_by for member in again.members("default", "n-a")] == ["ix-1", "ix-2"]
    fold(again, NodeRetracted(time=START, change_id="ch", node_id="n-a", made_by="ix-1", reason="bad"))
    assert again.node("default", "n-a").text == "who?"
    # and each client's part and the number of outcomes are as they were
    (edge,) = again.contents().edges
    assert edge.outcomes == 3
    assert edge.learnt == pytest.approx({"ann": 0.3 / 2 + 0.2, "bob": -0.1 / 2})


def test_a_pruned_edge_stays_pruned_until_a_good_outcome(tmp_path):
    # given a pruned edge that a client had weakened; when carried; then it is hidden there too
    memory = memory_of(node("n-a"), node("n-b"), lesson(-0.4, "ann"), pruned())
    _, again = carried(memory, tmp_path)
    (edge,) = again.contents().edges
    assert again.pruned(edge) and not again.leads(edge, NOW)
    # and a good outcome brings it back
    fold(again, lesson(0.6, "bob"))
    assert again.leads(again.contents().edges[0], NOW)


def test_one_tenant_can_be_exported_alone(tmp_path):
    # given two tenants; when one is exported; then nothing of the other is in the file
    memory = memory_of(node("n-a", "secret", tenant="other"), node("n-b", "bread"))
    export, again = carried(memory, tmp_path, tenant="default")
    assert (export.head.tenant, export.head.nodes, again.holds("other")) == ("default", 1, False)
    assert "secret" not in (tmp_path / "memory.jsonl").read_text()


def test_an_export_is_the_same_bytes_each_time(tmp_path):
    memory = memory_of(node("n-a"), node("n-b"), lesson(0.4, "ann"))
    for name in ("one", "two"):
        write_export(memory, tmp_path / name, log_id="the log", offsets={"0": 3})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    head = orjson.loads((tmp_path / "one").read_bytes().splitlines()[0])
    assert (head["embedder"], head["dimension"], head["log"], head["offsets"]) == (
        EMBEDDER.name,
        16,
        "the log",
        {"0": 3},
    )


def test_what_is_missing_is_all_that_a_merge_writes(tmp_path):
    # given an import that broke off: a member, a node and an edge are there, and the edge has learnt since
    memory = memory_of(
        node("n-a", "who?", "ix-1"), node("n-a", "who is it?", "ix-2"), node("n-b"), lesson(0.4, "ann"),
        EdgeAdded(**edge_of("n-a", "n-b", "follows")),
    )  # fmt: skip
    export, _ = carried(memory, tmp_path)
    there = memory_of(node("n-a", "who?", "ix-1"), node("n-b"), lesson(0.4, "ann"), lesson(0.1, "bob"))
    # when the rest is written
    missing = missing_from(there, export)
    assert [(n.node_id, n.made_by) for n in missing.nodes] == [("n-a", "ix-2")]
    assert [e.relation for e in missing.edges] == ["follows"]
    for event in as_events(missing, export):
        fold(there, event)
    # then memory lacks nothing of the export, and what the edge has learnt counts once
    assert missing_from(there, export) == Contents((), ())
    assert there.edge("default", name_edge("default", "co_retrieved", "n-a", "n-b")).learnt == {"ann": 0.4, "bob": 0.1}


@pytest.mark.parametrize("other", [{"embedder": "another"}, {"dimension": 8}, {"half_life_s": 60.0}])
def test_an_export_of_another_embedder_is_no_part_of_this_memory(tmp_path, other):
    export, _ = carried(memory_of(node("n-a")), tmp_path)
    ((name, value),) = other.items()
    with pytest.raises(InvalidConfiguration, match=f"{name}.*{value}"):
        missing_from(empty(**other), export)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda lines: lines[:-1], "has 2 nodes and 0 edges, its head says 2 and 1"),
        (lambda lines: [*lines[:-1], lines[-1][:-9]], "line 4"),
        (lambda lines: [line.replace(b"0.4", b"0.5") for line in lines], "has digest"),
        (lambda lines: [line.replace(b"a lamp", b"a tramp") for line in lines], "has digest"),
        (
            lambda lines: [lines[0], lines[1].replace(b'"title"', b'"name"'), *lines[2:]],
            "line 2: a node has",
        ),
        (lambda lines: [lines[0], b'{"leaf": {}}', *lines[1:]], "line 2: neither a node nor an edge: 'leaf'"),
        (lambda lines: [lines[0], b"[1]", *lines[1:]], "line 2"),
        (lambda lines: lines[1:], "line 1 is not the head"),
        (lambda lines: [lines[0].replace(b'"memory":3', b'"memory":1'), *lines[1:]], "line 1 is not the head"),
        (lambda lines: [b"\xff"], "line 1 is not the head"),
        (lambda lines: [], "line 1 is not the head"),
    ],
)
def test_a_file_that_was_changed_is_not_read(tmp_path, change, complaint):
    # given an export; when a line is cut, changed or left out; then it is refused, and where is said
    carried(memory_of(node("n-a"), node("n-b"), lesson(0.4, "ann")), tmp_path)
    file = tmp_path / "memory.jsonl"
    file.write_bytes(b"\n".join(change(file.read_bytes().splitlines())))
    with pytest.raises(InvalidDocument, match=complaint):
        read_export(file)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidDocument, match=r"nowhere\.jsonl cannot be read"):
        read_export(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("wrong", [{"created_at": 1e20}, {"kind": "rumour"}, {"tenant": ""}])
def test_what_can_be_no_change_is_named(tmp_path, wrong):
    # given an export whose digest is right but which holds what no event can; when made changes of; then it is named
    export, _ = carried(memory_of(node("n-a")), tmp_path)
    contents = Contents(tuple(replace(n, **wrong) for n in export.contents.nodes), ())
    with pytest.raises(InvalidDocument, match="n-a cannot be a change of memory"):
        as_events(contents, export)
