"""Memory: a fold of changes that can be searched and walked, apart by tenant."""

import dataclasses
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.errors import InvalidConfiguration, InvalidRequest
from ruvllm.models.embedding import HashingEmbedder
from ruvllm.models.memory.edge_strength import decayed, strength_at_birth, weight
from ruvllm.models.memory.node import Edge, Node
from ruvllm.models.memory.store import Memory
from ruvllm.models.memory.vector_index import VectorIndex

DAY_S = 86_400.0
EMBEDDER = HashingEmbedder()


def node(node_id, text=None, tenant="t", kind="document", vector=None, **metadata):
    text = node_id if text is None else text
    vector = EMBEDDER.embed([text])[0] if vector is None else vector
    return Node(node_id, tenant, kind, "", text, None, 0, metadata, EMBEDDER.name, vector, 0.0)


def edge(edge_id, source, target, birth_weight=0.5, tenant="t", relation="follows", born_at=0.0):
    return Edge(edge_id, tenant, source, target, relation, birth_weight, born_at)


def memory_of(*items, **options):
    memory = Memory(EMBEDDER.name, EMBEDDER.dimension, **options)
    for item in items:
        memory.put_node(item) if isinstance(item, Node) else memory.put_edge(item)
    return memory


def clustered(n, seed=0, dimension=64):
    """n unit vectors around forty centres, which are the same for every seed."""
    centres = np.random.default_rng(99).normal(size=(40, dimension))
    generator = np.random.default_rng(seed)
    near = centres[generator.integers(40, size=n)] + 0.7 * generator.normal(size=(n, dimension))
    return (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)


def vector_like(text):
    return EMBEDDER.embed([text])[0]


def ids(found):
    return [item.node.node_id for item in found]


# --- edge strength ----------------------------------------------------------------------------------------


@given(st.floats(0, 0.999999))
@settings(derandomize=True, deadline=None)
def test_weight_and_strength_at_birth_are_inverse(w):
    assert weight(strength_at_birth(w)) == pytest.approx(w, abs=1e-12)


def test_weight_grows_with_strength_and_is_never_negative():
    assert weight(-3.0) == weight(0.0) == 0.0
    assert weight(1.0) < weight(2.0) < 1.0
    assert weight(strength_at_birth()) == pytest.approx(0.5)


def test_strength_halves_in_a_half_life_and_a_lagging_clock_adds_nothing():
    assert decayed(2.0, 3 * DAY_S, 3 * DAY_S) == pytest.approx(1.0)
    assert decayed(2.0, 0.0, DAY_S) == decayed(2.0, -5 * DAY_S, DAY_S) == 2.0
    assert decayed(2.0, 1e12, DAY_S) == 0.0


@pytest.mark.parametrize("w", [-0.1, 1.0, 7.0, float("nan")])
def test_an_impossible_birth_weight_is_refused(w):
    with pytest.raises(InvalidRequest, match="weight at birth"):
        memory_of(edge("e", "a", "b", birth_weight=w))


# --- vectors ----------------------------------------------------------------------------------------------


def index_of(vectors, exact_below):
    index = VectorIndex(vectors.shape[1], exact_below=exact_below)
    index.add_many([f"k{i:05d}" for i in range(len(vectors))], vectors)
    index.grow(len(vectors))
    return index


def recall(index, exact, queries, k):
    hits = [{key for key, _ in index.search(q, k)} & {key for key, _ in exact.search(q, k)} for q in queries]
    return sum(map(len, hits)) / (k * len(queries))


def test_hnsw_search_returns_k_neighbors(tmp_path):
    # given more vectors than are scanned, in an index with a graph and in one that scans
    vectors, queries = clustered(3000), clustered(100, seed=1)
    index, exact = index_of(vectors, 1000), index_of(vectors, 10**9)
    # when both are searched
    found = [index.search(query, 10) for query in queries]
    # then the graph gives k keys, best first, with true similarities, and nearly always the right ones
    for query, hits in zip(queries, found, strict=True):
        similarities = [similarity for _, similarity in hits]
        assert len({key for key, _ in hits}) == 10
        assert similarities == sorted(similarities, reverse=True)
        assert np.allclose(similarities, [vectors[int(key[1:])] @ query for key, _ in hits], atol=1e-5)
    assert index.save_graph(tmp_path / "graph") is not None  # it is the graph that answered
    assert recall(index, exact, queries, 10) >= 0.95
    assert recall(index_of(vectors, 3000), exact, queries, 10) >= 0.95  # built at the threshold itself


def test_the_graph_is_really_used_above_the_threshold(tmp_path):
    # given indexes just below and at the threshold; when their graphs are saved; then one has none
    vectors = clustered(120)
    assert index_of(vectors[:99], 100).save_graph(tmp_path / "none") is None
    assert index_of(vectors[:100], 100).save_graph(tmp_path / "graph") is not None
    # and a wider beam finds at least as much as the narrowest
    index, exact, queries = index_of(clustered(2500), 100), index_of(clustered(2500), 10**9), clustered(60, 2)
    best = [exact.search(q, 5) for q in queries]
    narrow, wide = ([index.search(q, 5, ef=ef) for q in queries] for ef in (5, 400))
    same = [sum(keys(a) == keys(b) for a, b in zip(found, best, strict=True)) for found in (narrow, wide)]
    assert same[0] < same[1] >= 59
    # and says the same of what both find
    for a, b in zip(wide, best, strict=True):
        assert all(abs(dict(a).get(key, cosine) - cosine) < 1e-6 for key, cosine in b)


def keys(found):
    return [key for key, _ in found]


def test_words_are_taken_in_for_all_tenants_together():
    # given three tenants with three passages each; when words of five are taken in; then of no more than five
    memory = memory_of(*[node(f"{t}{i}", tenant=t) for t in "tuv" for i in range(3)])
    assert memory.catch_up(5)
    taken = {t: sum(f"{t}{i}" in memory.words(t).lexicon for i in range(3)) for t in "tuv"}
    assert sum(taken.values()) <= 5
    assert min(taken.values()) >= 1
    # and with time all are
    while memory.catch_up(2):
        pass
    assert all(f"{t}{i}" in memory.words(t).lexicon for t in "tuv" for i in range(3))


def test_a_graph_grows_in_steps_and_what_it_lacks_is_scanned():
    # given an index whose graph takes in ten of its rows at a time, and which loses some on both sides of that
    vectors, queries = clustered(700), clustered(50, seed=1)
    index, exact = VectorIndex(64, exact_below=300), index_of(vectors[:600], 10**9)
    index.add_many([f"k{i:05d}" for i in range(600)], vectors[:600])
    steps = 0
    while index.behind:
        index.grow(10)
        steps += 1
        if steps == 45:  # 150 wait
            for each in (index, exact):
                for i in (3, 449, 450, 599):
                    each.remove(f"k{i:05d}")
                for i in range(600, 700):
                    each.add(f"k{i:05d}", vectors[i])
        # when searched meanwhile; then as well as by a scan, and while most is outside of the graph just as by one
        if steps % 5 == 0:
            found = recall(index, exact, queries, 10)
            assert found == 1.0 if steps <= 40 else found >= 0.95
    # and what is gone is gone, what came is there
    assert 65 <= steps <= 75
    assert not {"k00003", "k00449", "k00450", "k00599"} & set(keys(index.search(vectors[3], 700)))
    assert all(keys(index.search(vectors[i], 1)) == [f"k{i:05d}"] for i in range(600, 700))


@pytest.mark.parametrize("exact_below", [50, 10**9], ids=["graph", "scan"])
def test_keys_can_be_replaced_and_removed(exact_below):
    # given an index of which a third is replaced, a third removed and half of that put again
    vectors, others = clustered(600), clustered(600, seed=5)
    index = index_of(vectors, exact_below)
    live = {f"k{i:05d}": vectors[i] for i in range(600)}
    for i in range(600):
        key = f"k{i:05d}"
        if i % 3 == 0:
            index.add(key, others[i])
            live[key] = others[i]
        elif i % 3 == 1:
            index.remove(key)
            index.remove(key)
            del live[key]
            if i % 2:
                index.add(key, others[i])
                live[key] = others[i]
    # when searched for each live vector; then it finds its key, and never one that is gone
    assert len(index) == len(live) == 500
    for key, vector in live.items():
        hits = dict(index.search(vector, 5))
        assert hits[key] == pytest.approx(1.0, abs=1e-5)
        assert hits.keys() <= live.keys()


def test_removing_nearly_everything_leaves_the_rest_findable():
    # given a graph that loses all but three of its keys; when asked for more than there are
    vectors = clustered(400)
    index = index_of(vectors, 2)
    for i in range(3, 400):
        index.remove(f"k{i:05d}")
    # then the three are found
    assert {key for key, _ in index.search(vectors[0], 50)} == {"k00000", "k00001", "k00002"}


@pytest.mark.parametrize("exact_below", [50, 10**9], ids=["graph", "scan"])
def test_the_room_of_removed_keys_is_used_again_and_does_not_get_in_the_way(exact_below, tmp_path):
    # given an index from which the nearest of a question are removed
    vectors, query = clustered(300), clustered(1, seed=4)[0]
    index = index_of(vectors, exact_below)
    nearest = [key for key, _ in index.search(query, 40)]
    for key in nearest[:20]:
        index.remove(key)
    # when searched; then the next nearest are all there
    assert [key for key, _ in index.search(query, 20)] == nearest[20:]
    # and twenty new keys take no more room
    index.add_many([f"new{i}" for i in range(20)], clustered(20, seed=6))
    keys = index.save_graph(tmp_path / "graph")
    assert keys is None or len(keys) == len(vectors)
    assert len(index) == 300


def test_copies_of_one_passage_do_not_hide_the_others():
    # given a passage that stands in the index a thousand times, put in before all others
    copies, vectors, queries = np.repeat(clustered(1, seed=7), 1000, axis=0), clustered(2000), clustered(100, 1)
    everything = np.concatenate([copies, vectors])
    index, exact = index_of(everything, 100), index_of(everything, 10**9)
    # when searched for what lies elsewhere; then it is found as well as ever
    assert recall(index, exact, queries, 10) >= 0.95
    # and of the copies the first k are found, by key; with some removed, the next
    assert [key for key, _ in index.search(copies[0], 3)] == ["k00000", "k00001", "k00002"]
    index.remove("k00001")
    assert [key for key, _ in index.search(copies[0], 3)] == ["k00000", "k00002", "k00003"]
    among = ["k00001", "k00009", "k00500", "k01500"]
    assert [key for key, _ in index.search(copies[0], 9, among=among)] == ["k00009", "k00500", "k01500"]


def test_what_the_graph_cannot_reach_is_found_by_a_scan():
    # given two groups of vectors so near to each other that float32 sees no distance: islands in the graph
    centres, noise = clustered(2, seed=9), np.random.default_rng(0).normal(size=(600, 64))
    vectors = (np.repeat(centres, 300, axis=0) + 1e-6 * noise).astype(np.float32)
    index, exact = index_of(vectors, 10), index_of(vectors, 10**9)
    # when more are asked for than one island has; then they are found nevertheless
    assert index.search(vectors[0], 600) == exact.search(vectors[0], 600)
    assert len(index.search(vectors[0], 400)) == 400


@pytest.mark.parametrize("exact_below", [10, 10**9], ids=["graph", "scan"])
def test_equal_vectors_are_ordered_by_key_however_they_came(exact_below):
    # given many keys with one vector among others, put in two orders
    same, rest = clustered(1)[0], clustered(53, seed=3)
    pairs = [(f"same{i:02d}", same) for i in range(9)] + [(f"rest{i:02d}", v) for i, v in enumerate(rest)]
    results = []
    for order in (pairs, pairs[::-1], pairs[31:] + pairs[:31]):
        index = VectorIndex(64, exact_below=exact_below)
        for key, vector in order:
            index.add(key, vector)
        results.append(index.search(same, 20))
    # when searched; then the order and the similarities are the same, equals by key
    assert results[0] == results[1] == results[2]
    assert [key for key, _ in results[0][:9]] == [f"same{i:02d}" for i in range(9)]


@pytest.mark.parametrize("exact_below", [10, 10**9], ids=["graph", "scan"])
def test_a_search_among_some_keys_is_exact(exact_below):
    # given an index and every seventh of its keys, some unknown
    vectors = clustered(500)
    index = index_of(vectors, exact_below)
    some = [f"k{i:05d}" for i in range(0, 500, 7)]
    query = clustered(1, seed=8)[0]
    # when searched among them; then the best of just these are found
    best = sorted(some, key=lambda key: -(vectors[int(key[1:])] @ query))[:10]
    assert [key for key, _ in index.search(query, 10, among=[*some, "unknown"])] == best
    every = [f"k{i:05d}" for i in reversed(range(500))]
    assert index.search(query, 10, among=every) == index_of(vectors, 10**9).search(query, 10)
    assert index.search(query, 10, among=[]) == []


def test_zero_vectors_are_kept_out():
    # given a key whose vector becomes zero; when searched; then it is not found, nor does zero find
    vectors, zero = clustered(3), np.zeros(64, np.float32)
    index = index_of(vectors, 10**9)
    index.add("k00001", zero)
    assert len(index) == 2
    assert dict(index.search(vectors[1], 9)).keys() == {"k00000", "k00002"}
    assert dict(index.search(-vectors[1], 9, among=["k00001", "k00002"])).keys() == {"k00002"}
    assert index.search(zero, 3) == []


def test_vectors_of_another_shape_are_refused():
    with pytest.raises(InvalidRequest, match=r"\(64,\)"):
        VectorIndex(64).add("k", np.ones(65, np.float32))
    with pytest.raises(InvalidRequest, match=r"\(1, 64\)"):
        VectorIndex(64).add_many(["k"], np.ones((1, 65), np.float32))
    with pytest.raises(InvalidRequest, match=r"\(64,\)"):
        VectorIndex(64).search(np.ones(65, np.float32), 1)


# --- nodes ------------------------------------------------------------------------------------------------


def test_search_finds_what_is_about_the_question():
    # given passages; when asked in other words; then the one about it leads, with its node
    memory = memory_of(
        node("a", "Goats chew nets."), node("b", "Bonds bear interest."), node("c", "Fog fills cisterns.")
    )
    hits = memory.search("t", vector_like("which goats chewed the nets?"), 2)
    assert hits[0].node is memory.node("t", "a")
    assert len(hits) == 2
    assert hits[0].similarity > hits[1].similarity
    assert memory.search("t", vector_like("goats"), 0) == []


def test_metadata_filtering():
    # given nodes near and far from a question, of two sources, kinds and languages
    memory = memory_of(
        node("near", "fog nets", source="a", lang="en"),
        node("nearest", "fog nets catch", source="b", lang="en"),
        node("far", "bread and salt", source="a", lang="de"),
        node("asked", "fog nets catch what", kind="question", source="a"),
    )
    question = vector_like("fog nets catch")

    def search(k=9, **filters):
        return ids(memory.search("t", question, k, **filters))

    # when searched with filters; then only what matches all of them is there, near or far
    assert search(where={"source": "a"}, kinds={"document"}) == ["near", "far"]
    assert search(where={"source": "a", "lang": "de"}) == ["far"]
    assert search(1, where={"lang": "de"}) == ["far"]
    assert search(where={"source": "z"}) == search(where={"absent": ""}) == search(kinds=()) == []
    assert search(kinds=["question"]) == ["asked"]
    assert search(where={}) == search() == ["nearest", "asked", "near", "far"]
    assert search(2) == ["nearest", "asked"]


def test_a_replaced_node_is_found_by_its_new_self_only():
    # given a node that is replaced, with another text, kind and metadata
    memory = memory_of(node("a", "fog nets", source="x"), node("a", "bread", kind="question", source="y"))
    # when searched; then there is one node, as it is now
    (hit,) = memory.search("t", vector_like("bread"), 9)
    assert (hit.node.kind, hit.node.text) == ("question", "bread")
    assert memory.search("t", vector_like("fog nets"), 9, where={"source": "x"}) == []
    assert memory.search("t", vector_like("bread"), 9, kinds={"document"}) == []
    assert memory.stats().nodes_by_kind == {"question": 1}


def test_many_nodes_at_once_are_the_same_as_one_by_one():
    # given a batch in which one node comes twice, in two kinds
    batch = [node("a", "fog"), node("b", "nets"), node("a", "bread", kind="question"), node("c", "salt")]
    # when put at once and one by one; then the memories are the same
    at_once = memory_of()
    at_once.put_nodes(batch)
    assert at_once.digest() == memory_of(*batch).digest()
    assert at_once.search("t", vector_like("bread"), 5) != []
    at_once.put_nodes([])
    assert at_once.stats().nodes == 3


def test_a_removed_node_is_gone_and_removing_again_is_no_error():
    memory = memory_of(node("a"), node("b"))
    memory.remove_node("t", "a")
    memory.remove_node("t", "a")
    memory.remove_node("nobody", "a")
    assert memory.node("t", "a") is None
    assert ids(memory.search("t", vector_like("a"), 5)) == ["b"]
    assert memory.digest() == memory_of(node("b")).digest()


def test_a_node_of_another_embedder_is_refused():
    # given a memory of one embedder; when a node of another comes; then it says so and keeps nothing
    memory = memory_of()
    with pytest.raises(InvalidConfiguration, match=r"'other-model'.*'hashing-v1-384'"):
        memory.put_nodes([node("good"), dataclasses.replace(node("a"), embedder="other-model")])
    assert memory.stats().nodes == 0


@pytest.mark.parametrize("vector", [np.ones(384), np.full(384, np.nan), np.ones(3)], ids=["long", "nan", "short"])
def test_a_vector_that_cannot_be_compared_is_refused(vector):
    with pytest.raises(InvalidRequest, match="node bad"):
        memory_of(node("bad", vector=vector))


def test_a_node_without_readable_text_is_kept_and_never_found():
    memory = memory_of(node("blank", ""), node("a", "fog"))
    assert memory.node("t", "blank") is not None
    assert ids(memory.search("t", vector_like("fog"), 5)) == ["a"]
    assert memory.search("t", vector_like(""), 5) == []


def test_a_node_keeps_its_vector_when_the_callers_array_changes():
    array = vector_like("fog")
    kept = node("a", vector=array)
    array[:] = 0
    assert kept.vector.any()
    with pytest.raises(ValueError, match="read-only"):
        kept.vector[0] = 1


# --- edges ------------------------------------------------------------------------------------------------


def test_an_edge_shows_when_both_ends_exist_and_hides_when_one_goes():
    # given an edge that comes before its nodes
    memory = memory_of(edge("e", "a", "b"))
    seen = [memory.edges_of("t", "a")]
    # when its nodes come, one goes and comes back
    memory.put_node(node("a"))
    seen.append(memory.edges_of("t", "a"))
    memory.put_node(node("b"))
    seen.append(memory.edges_of("t", "a"))
    memory.remove_node("t", "b")
    seen.append(memory.edges_of("t", "a"))
    memory.put_node(node("b"))
    seen.append(memory.edges_of("t", "b"))
    # then it shows only while both are there
    assert [len(edges) for edges in seen] == [0, 0, 1, 0, 1]
    memory.remove_edge("t", "e")
    memory.remove_edge("t", "e")
    assert memory.edges_of("t", "a") == []


def test_the_first_birth_of_an_edge_stays():
    # given births of one edge at different times; when put in any order; then the earliest counts
    early, late = edge("e", "a", "b", 0.3, born_at=1.0), edge("e", "a", "b", 0.9, born_at=2.0)
    nodes = (node("a"), node("b"))
    for memory in (memory_of(*nodes, early, late), memory_of(*nodes, late, early)):
        assert memory.edges_of("t", "a") == [early]


def test_an_edge_weighs_less_as_time_passes():
    # given an edge of strength s; when two half-lives have passed; then w = 1 - exp(-s / 4)
    memory = memory_of(half_life_s=DAY_S)
    born = edge("e", "a", "b", 0.8, born_at=1000.0, relation="co_retrieved")
    assert memory.weight_of(born, 1000.0) == pytest.approx(0.8)
    assert memory.weight_of(born, 1000.0 + 2 * DAY_S) == pytest.approx(1 - 0.2**0.25)


@pytest.mark.parametrize("relation", ["follows", "contains", "derived", "cites"])
def test_what_a_text_states_weighs_the_same_for_ever(relation):
    # given an edge that a text's structure gave; when ten years have passed; then it weighs what it did
    memory = memory_of(half_life_s=DAY_S)
    born = edge("e", "a", "b", 0.8, born_at=1000.0, relation=relation)
    assert memory.weight_of(born, 1000.0 + 3650 * DAY_S) == memory.weight_of(born, 1000.0) == pytest.approx(0.8)


def chain(n, w=0.5):
    nodes = [node(f"n{i}") for i in range(n)]
    return memory_of(*nodes, *(edge(f"e{i}", f"n{i}", f"n{i + 1}", w) for i in range(n - 1)))


def test_graph_expansion_respects_hop_limit():
    # given a chain of six nodes and a ring that closes it
    memory = chain(6)
    # when expanded from its start, and its middle, by 0, 1, 2 and 9 hops
    walks = {hops: memory.expand("t", ["n0"], hops=hops, now=0.0) for hops in (0, 1, 2, 9)}
    # then nothing lies farther than the limit, seeds are not there, and weights are products
    assert [[(r.node.node_id, r.hops) for r in walks[h]] for h in (0, 1, 2)] == [
        [],
        [("n1", 1)],
        [("n1", 1), ("n2", 2)],
    ]
    assert [r.weight for r in walks[9]] == pytest.approx([0.5**i for i in range(1, 6)])
    assert walks[2][1].via == ("e0", "e1")
    assert ids(memory.expand("t", ["n2"], hops=1, now=0.0)) == ["n1", "n3"]  # both ways
    assert ids(memory.expand("t", ["n2", "n3"], hops=1, now=0.0)) == ["n1", "n4"]
    memory.put_edge(edge("ring", "n5", "n0"))
    assert ids(memory.expand("t", ["n0"], hops=1, now=0.0)) == ["n1", "n5"]


def test_expansion_takes_the_heaviest_path_within_the_limit():
    # given a weak direct edge and a strong way round, then a node behind
    memory = memory_of(
        *(node(i) for i in "abcd"),
        edge("direct", "a", "c", 0.1),
        edge("ab", "a", "b", 0.9),
        edge("bc", "b", "c", 0.9),
        edge("cd", "c", "d", 0.9),
    )

    def reached(hops):
        return {r.node.node_id: r for r in memory.expand("t", ["a"], hops=hops, now=0.0)}

    # when there is room for the detour; then it counts, and not before
    assert reached(1)["c"].via == ("direct",)
    assert reached(2)["c"].via == ("ab", "bc")
    assert reached(2)["c"].weight == pytest.approx(0.81)
    assert reached(2)["d"].via == ("direct", "cd")
    assert reached(3)["d"].via == ("ab", "bc", "cd")


def test_expansion_follows_the_heaviest_edges_of_the_relations_asked_for():
    # given a hub with edges of rising weight in two relations, and a loop on itself
    spokes = [edge(f"e{i}", "hub", f"n{i}", 0.1 * i, relation="cites" if i % 2 else "follows") for i in range(1, 7)]
    memory = memory_of(node("hub"), *(node(f"n{i}") for i in range(1, 7)), *spokes, edge("loop", "hub", "hub", 0.9))

    def reached(**options):
        return ids(memory.expand("t", ["hub"], hops=1, now=0.0, **options))

    # when bounded in number and relation; then the heaviest of these are there, heaviest first
    assert reached() == ["n6", "n5", "n4", "n3", "n2", "n1"]
    assert reached(limit_per_node=3) == ["n6", "n5"]  # the loop was the third
    assert reached(relations={"cites"}) == ["n5", "n3", "n1"]
    assert reached(relations=()) == []
    assert memory.expand("t", ["unknown"], hops=2, now=0.0) == []


def brute_force(edges, seeds, hops):
    """Best product by node over every walk of at most `hops` edges."""
    best, walks = {}, [(seed, 1.0) for seed in seeds]
    for _ in range(hops):
        walks = [
            (e.other(at), w * (1 - np.exp(-strength_at_birth(e.birth_weight))))
            for at, w in walks
            for e in edges
            if at in (e.source, e.target)
        ]
        for at, w in walks:
            best[at] = max(best.get(at, 0.0), w)
    return {at: w for at, w in best.items() if at not in seeds}


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 9)), max_size=9),
    st.sets(st.integers(0, 5), min_size=1, max_size=2),
    st.integers(0, 3),
)
@settings(derandomize=True, deadline=None, max_examples=80)
def test_expansion_agrees_with_every_walk_tried(triples, seeds, hops):
    # given any small graph; when expanded without a bound by node; then it is the best of all walks
    edges = [edge(f"e{i}", f"n{a}", f"n{b}", w / 10) for i, (a, b, w) in enumerate(triples)]
    memory = memory_of(*(node(f"n{i}") for i in range(6)), *edges)
    seeds = [f"n{i}" for i in seeds]
    found = memory.expand("t", seeds, hops=hops, now=0.0, limit_per_node=99)
    assert {r.node.node_id: pytest.approx(r.weight) for r in found} == brute_force(edges, seeds, hops)
    assert all(len(r.via) == r.hops <= hops for r in found)
    assert found == sorted(found, key=lambda r: (-r.weight, r.hops, r.node.node_id))


# --- tenants ----------------------------------------------------------------------------------------------


def test_tenants_are_apart():
    # given two tenants with nodes of the same ids, and edges of either that name the other's nodes
    memory = memory_of(
        node("a", "fog", tenant="t"),
        node("a", "bread", tenant="u"),
        node("mine", "net", tenant="t"),
        node("theirs", "salt", tenant="u"),
        edge("cross1", "a", "theirs", tenant="t"),
        edge("cross2", "mine", "a", tenant="u"),
    )
    # when each is read; then it holds its own and no edge crosses
    assert memory.node("t", "a").text == "fog"
    assert memory.node("u", "a").text == "bread"
    assert memory.node("t", "theirs") is None
    assert sorted(ids(memory.search("t", vector_like("fog bread net salt"), 9))) == ["a", "mine"]
    assert ids(memory.search("u", vector_like("fog"), 9, where={})) == ids(memory.search("u", vector_like("fog"), 9))
    for tenant in ("t", "u", "nobody"):
        assert memory.expand(tenant, ["a", "mine", "theirs"], hops=3, now=0.0) == []
        assert memory.edges_of(tenant, "a") == []
    memory.remove_node("u", "a")
    assert memory.node("t", "a") is not None
    assert memory.stats().tenants == 2


# --- the fold ---------------------------------------------------------------------------------------------

identifiers = st.sampled_from("abcd")
tenants = st.sampled_from(["t", "u"])
node_changes = st.builds(
    lambda i, tenant, text, kind: (
        (tenant, "node", i),
        lambda m: m.put_node(node(i, text, tenant, kind, m=text)),
    ),
    identifiers,
    tenants,
    st.sampled_from(["fog", "bread", "", "nets and fog"]),
    st.sampled_from(["document", "question"]),
)
node_removals = st.builds(
    lambda i, tenant: ((tenant, "node", i), lambda m: m.remove_node(tenant, i)), identifiers, tenants
)
edge_changes = st.builds(
    lambda i, tenant, a, b, w: (
        (tenant, "edge", i),
        lambda m: m.put_edge(edge(i, a, b, w, tenant, born_at=w * 100)),
    ),
    identifiers,
    tenants,
    identifiers,
    identifiers,
    st.sampled_from([0.2, 0.5, 0.9]),
)
edge_removals = st.builds(
    lambda i, tenant: ((tenant, "edge", i), lambda m: m.remove_edge(tenant, i)), identifiers, tenants
)
histories = st.lists(st.one_of(node_changes, node_changes, node_removals, edge_changes, edge_removals), max_size=25)


def folded(history):
    memory = memory_of(exact_below=3)
    for _, change in history:
        change(memory)
    return memory


def view(memory):
    """All that a reader can see of a small memory."""
    question = vector_like("fog and nets")
    return [
        (memory.search(t, question, 9), memory.expand(t, list("ab"), hops=2, now=50.0), memory.edges_of(t, i))
        for t in "tu"
        for i in "abcd"
    ]


def seen(memory):
    return [
        (
            [(h.node.record(), h.similarity) for h in hits],
            [(r.node.node_id, r.weight, r.via) for r in walked],
            edges,
        )
        for hits, walked, edges in view(memory)
    ]


@given(histories, st.randoms(use_true_random=False))
@settings(derandomize=True, deadline=None, max_examples=80)
def test_any_order_of_the_partitions_gives_the_same_memory(history, shuffler):
    # given changes of which only those of one id are ordered; when they interleave in another way
    queues = {}
    for change in history:
        queues.setdefault(change[0], []).append(change)
    other = []
    while queues:
        key = shuffler.choice(sorted(queues))
        other.append(queues[key].pop(0))
        if not queues[key]:
            del queues[key]
    # then digest and all that can be seen are the same
    assert folded(other).digest() == folded(history).digest()
    assert seen(folded(other)) == seen(folded(history))


@given(histories, st.integers(0, 25))
@settings(derandomize=True, deadline=None, max_examples=80)
def test_a_redelivered_tail_changes_nothing(history, start):
    # given a fold; when its tail comes again from some point, as after a restart
    memory, once = folded(history), folded(history)
    for _, change in history[start:]:
        change(memory)
    # then digest and all that can be seen are the same
    assert memory.digest() == once.digest()
    assert seen(memory) == seen(once)


@pytest.mark.parametrize(
    "other",
    [
        lambda: memory_of(node("a", "fog", source="y"), edge("e", "a", "b")),
        lambda: memory_of(node("a", "fog", vector=vector_like("bread")), edge("e", "a", "b")),
        lambda: memory_of(node("a", "fog"), edge("e", "a", "b", 0.6)),
        lambda: memory_of(node("a", "fog"), edge("e", "a", "b", tenant="u")),
        lambda: memory_of(node("a", "fog")),
    ],
    ids=["metadata", "vector", "weight", "tenant", "edge"],
)
def test_the_digest_sees_every_difference(other):
    assert other().digest() != memory_of(node("a", "fog"), edge("e", "a", "b")).digest()


def test_searches_in_threads_while_changes_are_folded():
    # given threads that search and walk without rest, over an index that grows past its threshold
    vectors = clustered(600, dimension=384)
    memory = memory_of(exact_below=200)
    done, failures = threading.Event(), []

    def read():
        while not done.is_set():
            hits = memory.search("t", vectors[0], 10)
            memory.expand("t", ["n0"], hops=2, now=0.0)
            memory.digest()
            if len({h.node.node_id for h in hits}) != len(hits):
                failures.append(hits)

    def guarded():
        try:
            read()
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=guarded) for _ in range(2)]
    for reader in readers:
        reader.start()
    # when nodes and edges come, change and go meanwhile
    try:
        for i, vector in enumerate(vectors):
            memory.put_node(node(f"n{i}", vector=vector))
            memory.put_edge(edge(f"e{i}", "n0", f"n{i}"))
            if i % 5 == 4:
                memory.remove_node("t", f"n{i - 2}")
    finally:
        done.set()
    for reader in readers:
        reader.join(30)
    # then no reader failed, and the memory is what a quiet fold gives
    assert failures == []
    assert memory.stats().nodes == 480
    assert memory.stats().edges == 600
