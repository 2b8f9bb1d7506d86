"""Retrieve: near passages first, then where their edges lead, and nothing that is not about the question."""

import numpy as np
import pytest

from ruvllm.agents.retrieve import RetrievalRules, find_passages, retrieve
from ruvllm.models.embedding import HashingEmbedder
from ruvllm.models.memory.node import Edge, Node
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.flow import Admitted
from tests.manual_clock import START, ManualClock
from tests.unit.sample_events import IN_FLIGHT

NOW = START.timestamp()
QUERY = np.array([1, 0, 0, 0], np.float32)


def towards(cosine):
    """A unit vector (4,) with this cosine to QUERY."""
    return np.array([cosine, np.sqrt(1 - cosine**2), 0, 0], np.float32)


def memory(nodes, edges=(), tenant="default"):
    """`nodes`: id -> cosine, or (cosine, metadata); `edges`: (source, target, weight at birth)."""
    made = Memory("test", 4)
    for node_id, given in nodes.items():
        cosine, metadata = given if isinstance(given, tuple) else (given, {})
        made.put_node(
            Node(
                node_id=node_id,
                tenant=tenant,
                kind="document",
                title=f"Of {node_id}",
                text=f"Text of {node_id}.",
                document_id="d.md",
                position=0,
                metadata=metadata,
                embedder="test",
                vector=towards(cosine),
                created_at=NOW - 60,
            )
        )
    for source, target, weight in edges:
        made.put_edge(Edge(f"{source}-{target}", tenant, source, target, "follows", weight, NOW))
    return made


def found(store, where=None, **rules):
    passages = find_passages(store, "default", QUERY, RetrievalRules(**{"floor": 0.3, **rules}), now_s=NOW, where=where)
    return {p.node_id: (pytest.approx(p.score, abs=1e-4), p.via) for p in passages}


def test_near_nodes_come_best_first_and_those_under_the_floor_not_at_all():
    # given nodes at several distances; when searched; then the near ones come in order, equals by id
    store = memory({"far": 0.29, "b": 0.5, "a": 0.5, "best": 0.9, "edge": 0.3001})
    assert list(found(store)) == ["best", "a", "b", "edge"]


def test_no_more_are_handed_on_than_asked_for():
    # given more than enough; when two are to be handed on; then the best two are
    assert list(found(memory({"a": 0.5, "b": 0.7, "c": 0.9}), passages=2)) == ["c", "b"]


def test_an_edge_leads_to_what_the_question_does_not_resemble():
    # given a far node behind a strong edge of the best hit; when searched; then it scores as its seed, damped
    store = memory({"seed": 0.9, "behind": 0.1}, [("seed", "behind", 0.5)])
    assert found(store) == {"seed": (0.9, ()), "behind": (0.9 * 0.5 * 0.8, ("seed-behind",))}
    # and without hops, or with a seed too weak for it, it does not come
    assert list(found(store, hops=0)) == ["seed"]
    assert list(found(memory({"seed": 0.5, "behind": 0.1}, [("seed", "behind", 0.5)]))) == ["seed"]


def test_a_node_found_in_both_ways_has_the_better_score():
    # given a near node behind an edge, once weaker by the edge and once stronger; when searched
    weak = memory({"seed": 0.9, "near": 0.8}, [("seed", "near", 0.5)])
    strong = memory({"seed": 0.9, "near": 0.4}, [("seed", "near", 0.9)])
    # then the better of its two scores counts, and says how it came
    assert found(weak)["near"] == (0.8, ())
    assert found(strong)["near"] == (0.9 * 0.9 * 0.8, ("seed-near",))


def test_hops_are_counted_and_only_the_best_hits_are_walked_from():
    # given a chain of edges; when walked with one hop and with two; then so far and no further
    chain = memory({"a": 0.9, "b": 0.0, "c": 0.0}, [("a", "b", 0.9), ("b", "c", 0.9)])
    assert list(found(chain)) == ["a", "b"]
    assert found(chain, hops=2)["c"] == (0.9 * 0.9 * 0.9 * 0.8, ("a-b", "b-c"))
    assert list(found(memory({"a": 0.9, "b": 0.8, "x": 0.0}, [("b", "x", 0.9)]), seeds=1)) == ["a", "b"]


def test_the_filter_holds_for_what_an_edge_leads_to():
    # given two nodes behind a hit, of which one has the metadata asked for; when searched; then only that one comes
    year = {"year": "2030"}
    store = memory(
        {"seed": (0.9, year), "with": (0.0, year), "without": (0.0, {})},
        [("seed", "with", 0.9), ("seed", "without", 0.9)],
    )
    assert list(found(store, where=year)) == ["seed", "with"]


def test_a_passage_tells_what_the_router_and_the_reader_need():
    # given a node; when found; then its passage has text, age, similarity and where it is from
    (passage,) = find_passages(memory({"a": 0.5}), "default", QUERY, RetrievalRules(), now_s=NOW)
    assert (passage.title, passage.text, passage.document_id) == ("Of a", "Text of a.", "d.md")
    assert (passage.age_s, passage.similarity) == (60, pytest.approx(0.5))


def test_another_tenants_nodes_are_not_found():
    # given a node of another tenant; when searched; then there is nothing
    assert found(memory({"a": 0.9}, tenant="harbour")) == {}


class Source:
    """Memory that has been folded up to an offset."""

    def __init__(self, memory):
        self.memory = memory

    def offsets(self):
        return {"3": 17}


@pytest.mark.parametrize(("grounding", "asked"), [("memory", True), ("open", True), ("none", False)])
async def test_the_event_goes_on_with_what_was_found_and_which_memory_it_was(grounding, asked):
    # given an admitted request; when memory is asked (or not, with grounding none)
    embedder = HashingEmbedder(dimension=4)
    store = Memory(embedder.name, 4)
    question = IN_FLIGHT["request"].question
    (vector,) = embedder.embed([question])
    node = memory({"a": 0.5}).node("default", "a")
    fields = {name: getattr(node, name) for name in node.__slots__}
    store.put_node(Node(**{**fields, "tenant": "harbour", "embedder": embedder.name, "vector": vector}))
    constraints = IN_FLIGHT["request"].constraints.model_copy(update={"grounding": grounding, "memory_filter": {}})
    request = IN_FLIGHT["request"].model_copy(update={"constraints": constraints})
    admitted = Admitted(**{**IN_FLIGHT, "request": request})
    after = await retrieve(admitted, Source(store), embedder, RetrievalRules(), ManualClock())
    # then the vector, the passages and the offsets are in the event, and all that it carried before
    assert after.retrieval.query_vector.tobytes() == vector.tobytes()
    assert [p.node_id for p in after.retrieval.passages] == (["a"] if asked else [])
    assert (after.retrieval.memory_offsets, after.retrieval.embedder) == ({"3": 17}, embedder.name)
    assert (after.request, after.history, after.time) == (admitted.request, admitted.history, START)
