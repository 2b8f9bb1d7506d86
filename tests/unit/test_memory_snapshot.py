"""Snapshots: complete or not there, the same memory afterwards, and the one before when one is damaged."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ruvllm.errors import InvalidConfiguration
from ruvllm.models.embedding import HashingEmbedder
from ruvllm.models.memory import snapshot as snapshots
from ruvllm.models.memory.node import Edge, Node
from ruvllm.models.memory.snapshot import load_latest
from ruvllm.models.memory.store import Memory

EMBEDDER = HashingEmbedder(dimension=64)
OFFSETS = {"0": 41, "1": 7}
SPANS = {"0": (0, 100), "1": (0, 100)}
save = partial(snapshots.save, log_id="the log")


def node(node_id, text, tenant="t", kind="document", **metadata):
    (vector,) = EMBEDDER.embed([text])
    return Node(node_id, tenant, kind, "Title", text, "doc", 3, metadata, EMBEDDER.name, vector, 12.5)


def memory_of(*texts, exact_below=2000):
    memory = Memory(EMBEDDER.name, EMBEDDER.dimension, exact_below=exact_below)
    memory.put_nodes([node(f"n{i}", text, lang="en") for i, text in enumerate(texts)])
    for i in range(len(texts)):
        memory.put_edge(Edge(f"e{i}", "t", f"n{i}", f"n{i + 1}", "follows", 0.5, 1.5))
    while memory.grow(50):
        pass
    return memory


def load(folder, **options):
    usual = {"log_id": "the log", "spans": SPANS, "embedder": EMBEDDER.name, "dimension": EMBEDDER.dimension}
    return load_latest(folder, **{**usual, **options})


def answers(memory, tenants="tu"):
    queries = EMBEDDER.embed(["fog net", "bread", "word 7 of many", "lamp 3"])
    return [
        [(hit.node.record(), hit.similarity) for hit in memory.search(tenant, query, 7)]
        for tenant in tenants
        for query in queries
    ] + [[(r.node.node_id, r.weight, r.via) for r in memory.expand("t", ["n0"], hops=2, now=9.0)]]


def many(n=80):
    return [f"word {i} of many, lamp {i % 7}" for i in range(n)]


def graphs_are_refused(monkeypatch):
    """From here on, an index that would be built from vectors fails: only a loaded graph may serve."""

    def refuse(self):
        raise AssertionError("the index was built again")

    monkeypatch.setattr("ruvllm.models.memory.vector_index.VectorIndex._begin_graph", refuse)


def test_what_was_saved_is_loaded(tmp_path):
    # given a memory with two tenants, a waiting edge, odd text and a node that cannot be found
    memory = memory_of("fog net", "bread\u2028 and \x00 salt 😀", "")
    memory.put_node(node("n0", "lamp", tenant="u", kind="question"))
    # when saved and loaded
    path = save(memory, OFFSETS, tmp_path / "new" / "folder", name="first")
    loaded, offsets = load(tmp_path / "new" / "folder")
    # then content, offsets and answers are the same
    assert offsets == OFFSETS
    assert loaded.digest() == memory.digest() == orjson.loads((path / "manifest.json").read_bytes())["digest"]
    assert answers(loaded) == answers(memory)
    assert loaded.stats() == memory.stats()


def test_an_empty_memory_and_an_empty_folder(tmp_path):
    assert load(tmp_path / "absent") is None
    assert load(tmp_path) is None
    save(memory_of(), {}, tmp_path, name="empty")
    loaded, offsets = load(tmp_path)
    assert (loaded.stats().nodes, offsets) == (0, {})


texts = st.lists(st.text(max_size=12) | st.sampled_from(["fog net", "bread"]), max_size=14)
removed = st.sets(st.integers(0, 13), max_size=5)


@given(texts, removed, st.sampled_from([3, 2000]))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_save_and_load_give_the_same_digest_and_answers(tmp_path_factory, texts, removed, exact_below):
    # given any memory, with and without graphs, some nodes removed and rows of theirs used again
    memory = memory_of(*texts, exact_below=exact_below)
    for i in removed:
        memory.remove_node("t", f"n{i}")
    memory.put_node(node("late", "fog lamp"))
    folder = tmp_path_factory.mktemp("snapshot")
    # when saved and loaded, and when the tail changes both
    save(memory, OFFSETS, folder, name="s")
    loaded, _ = load(folder, exact_below=exact_below)
    for changed in (memory, loaded):
        assert changed.digest() == memory.digest()
        assert answers(changed) == answers(memory)
    for changed in (memory, loaded):
        changed.put_node(node("tail", "bread lamp"))
        changed.put_node(node("late", "word"))
        changed.remove_node("t", "n1")
    # then they stay the same
    assert loaded.digest() == memory.digest()
    assert answers(loaded) == answers(memory)


def test_the_graph_is_loaded_rather_than_built(tmp_path, monkeypatch):
    # given a saved memory large enough for a graph, with a removed and a replaced node
    memory = memory_of(*many(), exact_below=20)
    memory.remove_node("t", "n5")
    memory.put_node(node("n6", "another text"))
    save(memory, OFFSETS, tmp_path, name="s")
    graphs_are_refused(monkeypatch)
    # when loaded where building is impossible; then it answers alike, and takes further changes
    loaded, _ = load(tmp_path, exact_below=20)
    assert answers(loaded) == answers(memory)
    loaded.put_node(node("m", "fog in the room of the removed one"))
    again = save(loaded, OFFSETS, tmp_path, name="again")
    assert len(orjson.loads((again / "graph-0.json").read_bytes())) == 80
    loaded.put_nodes([node(f"m{i}", f"fog {i}") for i in range(90)])
    assert loaded.stats().nodes == 170


@pytest.mark.parametrize("harm", ["missing", "bit", "unreadable"])
def test_without_its_graph_the_index_is_built_again(tmp_path, harm):
    # given a snapshot whose graph is gone, damaged in one bit, or whole but of no version that can be read
    memory = memory_of(*many(), exact_below=20)
    path = save(memory, OFFSETS, tmp_path, name="s")
    graph = path / "graph-0.hnsw"
    if harm == "missing":
        graph.unlink()
    elif harm == "bit":
        flip(graph)
    else:
        graph.write_bytes(b"no graph at all" * 10)
        manifest = orjson.loads((path / "manifest.json").read_bytes())
        manifest["files"][graph.name] = snapshots._sha256(graph)
        manifest["sha256"] = snapshots._own_hash(manifest)
        (path / "manifest.json").write_bytes(orjson.dumps(manifest))
    # when loaded; then it says so and finds what was there
    with capture_logs() as logs:
        loaded, offsets = load(tmp_path, exact_below=20)
    assert [entry["event"] for entry in logs] == ["index is built again"]
    assert offsets == OFFSETS
    assert loaded.digest() == memory.digest()
    hits = loaded.search("t", EMBEDDER.embed(["word 7 of many, lamp 0"])[0], 3)
    assert hits[0].node.node_id == "n7"


def flip(file):
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


@pytest.mark.parametrize("file", ["nodes.jsonl", "vectors.npy", "edges.jsonl", "manifest.json"])
@pytest.mark.parametrize("harm", [flip, lambda f: f.unlink(), lambda f: f.write_bytes(b"")], ids=["bit", "gone", "cut"])
def test_a_damaged_snapshot_is_passed_over_for_the_one_before(tmp_path, file, harm):
    # given two snapshots, the newer with one bit flipped, one file gone or one file empty
    older, newer = memory_of("fog net"), memory_of("fog net", "bread")
    save(older, {"0": 1}, tmp_path, name="older")
    path = save(newer, {"0": 2}, tmp_path, name="newer")
    harm(path / file)
    # when loaded; then the older one is there, and the log says why
    with capture_logs() as logs:
        loaded, offsets = load(tmp_path)
    assert (loaded.digest(), offsets) == (older.digest(), {"0": 1})
    assert [entry["event"] for entry in logs] == ["snapshot passed over"]
    assert logs[0]["reason"]
    # and a third is saved after it, newest of all
    save(newer, {"0": 3}, tmp_path, name="again")
    assert load(tmp_path)[1] == {"0": 3}


def test_offsets_that_were_not_written_are_not_believed(tmp_path):
    # given a manifest that is good JSON, with an offset changed; when loaded; then it is not taken
    manifest = save(memory_of("fog"), {"0": 41}, tmp_path, name="s") / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"41", b"42"))
    assert load(tmp_path) is None


def test_when_all_are_damaged_there_is_none(tmp_path):
    for name in ("a", "b"):
        flip(save(memory_of("fog"), {}, tmp_path, name=name) / "nodes.jsonl")
    assert load(tmp_path) is None


class PowerCut(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", ["_save_graphs", "_write_contents", "_own_hash", "_sync", "_sha256"])
def test_a_save_that_is_cut_short_leaves_the_one_before(tmp_path, monkeypatch, step):
    # given a snapshot, and a second save that ends in the middle
    save(memory_of("fog"), {"0": 1}, tmp_path, name="whole")

    def cut(*args):
        raise PowerCut

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(snapshots, step, cut)
        save(memory_of("bread"), {"0": 2}, tmp_path, name="cut")
    # when loaded; then the first is there; and the next save succeeds and leaves nothing lying about
    assert load(tmp_path)[1] == {"0": 1}
    save(memory_of("salt"), {"0": 3}, tmp_path, name="next")
    assert load(tmp_path)[1] == {"0": 3}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000000001-whole", "0000000002-next"]


def test_only_the_newest_are_kept_whatever_they_are_called(tmp_path):
    # given names that sort against their age; when saved with keep=2; then the last two stay
    for i, name in enumerate(["zz", "m", "a"]):
        save(memory_of("fog"), {"0": i}, tmp_path, name=name, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000000002-m", "0000000003-a"]
    assert load(tmp_path)[1] == {"0": 2}


@pytest.mark.parametrize("other", [{"embedder": "other"}, {"dimension": 65}])
def test_a_snapshot_of_another_embedder_is_passed_over(tmp_path, other):
    save(memory_of("fog"), {}, tmp_path, name="s")
    with capture_logs() as logs:
        assert load(tmp_path, **other) is None
    assert next(iter(other)) in logs[0]["reason"]


def test_a_snapshot_of_a_later_format_is_passed_over(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "FORMAT_VERSION", snapshots.FORMAT_VERSION + 1)
        save(memory_of("fog"), {}, tmp_path, name="s")
    assert load(tmp_path) is None


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        ({"log_id": "another log"}, "its log is 'the log', not 'another log'"),
        ({"spans": {**SPANS, "0": (0, 40)}}, "offset 41 of partition 0, which has 0 to 40"),
        ({"spans": {**SPANS, "1": (8, 90)}}, "offset 7 of partition 1, which has 8 to 90"),
        ({"spans": {"1": (0, 90)}}, "offset 41 of partition 0, which has 0 to 0"),
        ({"spans": {**SPANS, "2": (5, 90)}}, "offset 0 of partition 2, which has 5 to 90"),
    ],
    ids=["another log", "past the end", "before the beginning", "no such partition", "a partition it has not begun"],
)
def test_a_snapshot_that_the_log_does_not_go_on_from_is_passed_over(tmp_path, now, reason):
    # given a snapshot; when the log is another, or no longer holds what comes next; then it is not taken
    save(memory_of("fog"), OFFSETS, tmp_path, name="s")
    with capture_logs() as logs:
        assert load(tmp_path, **now) is None
    assert reason in logs[0]["reason"]
    # and it is where each of its offsets is at the log's very end or beginning
    assert load(tmp_path, spans={"0": (0, 41), "1": (7, 7)})[1] == OFFSETS


def test_content_of_which_a_part_is_missing_is_passed_over(tmp_path):
    # given two snapshots, of which the newer lost an edge in a way that its files' hashes do not show
    save(memory_of("fog"), {"0": 1}, tmp_path, name="older")
    path = save(memory_of("fog", "bread"), {"0": 2}, tmp_path, name="newer")
    edges = path / "edges.jsonl"
    edges.write_bytes(edges.read_bytes().splitlines(keepends=True)[0])
    manifest = orjson.loads((path / "manifest.json").read_bytes())
    manifest["files"][edges.name] = snapshots._sha256(edges)
    manifest["sha256"] = snapshots._own_hash(manifest)
    (path / "manifest.json").write_bytes(orjson.dumps(manifest))
    # when loaded; then the older one is there
    with capture_logs() as logs:
        assert load(tmp_path)[1] == {"0": 1}
    assert "not as many as were written" in logs[0]["reason"]


def test_a_graph_that_is_half_grown_is_saved_and_goes_on_growing(tmp_path):
    # given a memory whose graph has taken in 50 of 80 vectors; when saved and loaded
    memory = Memory(EMBEDDER.name, EMBEDDER.dimension, exact_below=20)
    memory.put_nodes([node(f"n{i}", text) for i, text in enumerate(many())])
    assert memory.grow(50)
    save(memory, OFFSETS, tmp_path, name="s")
    loaded, _ = load(tmp_path, exact_below=20)
    # then only the other 30 are left for it, and all are found before and after that
    for each in range(2):
        assert {hit.node.node_id for hit in loaded.search("t", node("q", "lamp").vector, 80)} == {
            f"n{i}" for i in range(80)
        }
        assert loaded.grow(29) is (each == 0)


def test_two_saves_into_one_folder_come_one_after_the_other(tmp_path, monkeypatch):
    # given a save that is held up in the middle, as by a slow disk
    begun, go_on = threading.Event(), threading.Event()
    write_contents = snapshots._write_contents

    def held_up(contents, folder):
        write_contents(contents, folder)
        if contents.nodes[0].text == "first":
            begun.set()
            assert go_on.wait(10)

    monkeypatch.setattr(snapshots, "_write_contents", held_up)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(save, memory_of("first"), {"0": 1}, tmp_path, name="first")
        assert begun.wait(10)
        # when a second comes
        second = threads.submit(save, memory_of("second"), {"0": 2}, tmp_path, name="second")
        assert not wait([second], timeout=0.2).done
        waited = [p.name for p in tmp_path.iterdir()]
        go_on.set()
        names = [first.result().name, second.result().name]
    # then it waits, and both are whole
    assert waited == [".writing-0000000001-first"]
    assert names == ["0000000001-first", "0000000002-second"]
    assert load(tmp_path)[1] == {"0": 2}
    shutil.rmtree(tmp_path / names[1])
    assert load(tmp_path)[1] == {"0": 1}


@pytest.mark.parametrize(("name", "keep"), [("../up", 2), ("", 2), ("a b", 2), ("fine", 0)])
def test_a_name_that_is_a_path_and_keeping_none_are_refused(tmp_path, name, keep):
    with pytest.raises(InvalidConfiguration, match="plain name"):
        save(memory_of("fog"), {}, tmp_path, name=name, keep=keep)
    assert list(tmp_path.iterdir()) == []


def test_changes_folded_while_saving_and_redelivered_afterwards_do_no_harm(tmp_path):
    # given a memory that is ahead of the offsets it is saved with
    memory = memory_of("fog")
    tail = [node("x", "bread"), node("x", "salt")]
    memory.put_nodes(tail)
    save(memory, {"0": 1}, tmp_path, name="s")
    # when the tail comes again after loading; then nothing has changed
    loaded, _ = load(tmp_path)
    for change in tail:
        loaded.put_node(change)
    assert loaded.digest() == memory.digest()


def test_loaded_nodes_share_one_read_only_array(tmp_path):
    save(memory_of("fog", "bread"), {}, tmp_path, name="s")
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("copy"))
    loaded, _ = load(tmp_path / "copy")
    one, other = loaded.node("t", "n0").vector, loaded.node("t", "n1").vector
    assert one.base is other.base
    assert not one.flags.writeable
    assert np.allclose(one, EMBEDDER.embed(["fog"])[0])
