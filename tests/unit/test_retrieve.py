"""Retrieve: near passages first, then where their edges lead, and nothing that is not about the question."""

import numpy as np
import orjson
import pytest

from ruvllm.agents.documents import DocumentKeeper
from ruvllm.agents.memory_fold import fold
from ruvllm.agents.retrieve import passage_of, retrieve
from ruvllm.models.attention.candidate_graph import HYBRID
from ruvllm.models.attention.finding import RetrievalRules, find
from ruvllm.models.embedding import HashingEmbedder
from ruvllm.models.memory.node import Edge, Node
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.flow import Admitted, Origin
from ruvllm.schemas.memory import MemoryChange
from ruvllm.streams.ingest import documents_in
from ruvllm.streams.proof.corpus import demo_folder
from ruvllm.streams.settings import RetrievalSettings
from tests.manual_clock import START, ManualClock
from tests.real_models import minilm
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
    given = RetrievalRules(**{"floor": 0.3, **rules})
    finding = find(store, "default", "?", QUERY, given, now_s=NOW, where=where)
    return {f.node.node_id: (pytest.approx(f.score, abs=1e-4), f.via) for f in finding.passages}


def test_near_nodes_come_best_first_and_those_under_the_floor_not_at_all():
    # given nodes at several distances; when searched; then the near ones come in order, equals by id
    store = memory({"far": 0.29, "b": 0.5, "a": 0.5, "best": 0.9, "edge": 0.3001})
    assert list(found(store)) == ["best", "a", "b", "edge"]


def test_no_more_are_handed_on_than_asked_for():
    # given more than enough; when two are to be handed on; then the best two are
    assert list(found(memory({"a": 0.5, "b": 0.7, "c": 0.9}), passages=2)) == ["c", "b"]


def test_an_edge_leads_to_what_the_question_does_not_resemble():
    # given a far node behind an edge of the best hit; when searched; then it scores as its seed, damped
    store = memory({"seed": 0.9, "behind": 0.0}, [("seed", "behind", 0.5)])
    assert found(store) == {"seed": (0.9, ()), "behind": (0.9 * 0.5 * 0.8, ("seed-behind",))}
    # and without hops it does not come
    assert list(found(store, hops=0)) == ["seed"]


@pytest.mark.parametrize(("seed", "comes"), [(0.51, True), (0.49, False)])
def test_what_follows_a_good_hit_comes_after_all_hits_and_what_follows_a_poor_one_does_not(seed, comes):
    # given a far node behind a hit, and another hit at the floor; when searched with the usual rules
    store = memory({"seed": seed, "hit": 0.31, "behind": 0.0}, [("seed", "behind", 0.5)])
    # then it comes if its seed is a good one
    assert list(found(store)) == ["seed", "hit", "behind"][: 2 + comes]


def test_a_structural_edge_leads_as_far_in_ten_years():
    # given the same memory, ten years old; when searched; then the edge leads to what it led to
    store = memory({"seed": 0.6, "behind": 0.0}, [("seed", "behind", 0.5)])
    later = find(store, "default", "?", QUERY, RetrievalRules(), now_s=NOW + 3650 * 86_400)
    assert [f.node.node_id for f in later.passages] == ["seed", "behind"]


def test_a_node_found_in_both_ways_has_a_little_more_than_the_better_score():
    # given a near node behind an edge, once weaker by the edge and once stronger; when searched
    weak = memory({"seed": 0.9, "near": 0.8}, [("seed", "near", 0.5)])
    strong = memory({"seed": 0.9, "near": 0.4}, [("seed", "near", 0.9)])
    # then the better of its two reasons counts, the other by a quarter of what it could add; the edge is
    # named if it is the better one
    assert found(weak)["near"] == (0.8 + 0.25 * 0.36 * (1 - 0.8), ())
    assert found(strong)["near"] == (0.648 + 0.25 * 0.4 * (1 - 0.648), ("seed-near",))
    assert found(weak, agreement=0)["near"] == (0.8, ())


def test_an_edge_lifts_what_alone_would_be_under_the_floor():
    # given a node just under the floor, beside a hit too weak to lead anywhere; when searched; then it comes
    store = memory({"seed": 0.4, "near": 0.29}, [("seed", "near", 0.5)])
    assert found(store)["near"] == (0.29 + 0.25 * 0.16 * 0.71, ("seed-near",))
    assert list(found(memory({"seed": 0.4, "near": 0.29}))) == ["seed"]


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
    finding = find(memory({"a": 0.5}), "default", "?", QUERY, RetrievalRules(), now_s=NOW)
    passage = passage_of(finding.passages[0], NOW)
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


# --- the packaged corpus, with the packaged settings ------------------------------------------------------


@pytest.mark.model
async def test_an_edge_brings_the_second_passage_of_a_question_of_the_demo_corpus():
    # given the demo corpus as documents make it, the real embedder, the usual rules
    embedder = minilm()
    store = await demo_memory(embedder)
    given = RetrievalSettings().model_dump(exclude={"embedder"})
    # when each wording of each question with two passages is searched, with the graph and without
    by_edge, graph, plain = [], 0, 0
    for wording, wanted in two_passage_questions():
        (vector,) = embedder.embed([wording])
        served = {
            hops: [
                passage_of(f, NOW)
                for f in find(
                    store, "default", wording, vector, RetrievalRules(**{**given, "hops": hops}), now_s=NOW
                ).passages
            ]
            for hops in (0, RetrievalRules().hops)
        }
        plain += len(wanted & {place(p) for p in served[0]})
        both = wanted & {place(p) for p in served[1]}
        graph += len(both)
        if both == wanted and any(p.via and place(p) in wanted for p in served[1]):
            by_edge.append(wording)
    # then one at least has its second passage through an edge, and as many are found as without edges
    assert by_edge
    assert graph >= plain > 50


async def demo_memory(embedder):
    keeper = DocumentKeeper(embedder, ManualClock(), ("default",), document_chars=10**6, document_passages=1000)
    memory = Memory(embedder.name, embedder.dimension)
    for offset, command in enumerate(documents_in([demo_folder() / "corpus"])):
        outbox = await keeper.handle(command, Origin(topic="document.submitted", partition=0, offset=offset))
        for emit in outbox.emits:
            if isinstance(emit.event, MemoryChange):
                fold(memory, emit.event)
    return memory


def two_passage_questions():
    for line in (demo_folder() / "questions.jsonl").read_bytes().splitlines():
        entry = orjson.loads(line)
        if entry["hops"] == 2:
            wanted = {(p["file"], p["section"]) for p in entry["passages"]}
            yield from ((wording, wanted) for wording in [entry["question"], *entry["paraphrases"]])


def place(passage):
    """Where a passage stands, as questions.jsonl says it."""
    return passage.document_id, passage.title.rsplit(" > ", 1)[-1]


# --- with what was learnt ---------------------------------------------------------------------------------


class Backwards:
    """A ranker that puts last what the hybrid puts first."""

    def score(self, graph):
        return -graph.nodes[:, HYBRID]


def with_past(store, question_vector, target, amount):
    """The store with a past question that an outcome linked to a node."""
    store.put_node(
        Node("q", "default", "question", "", "Asked before?", None, 0, {}, "test", question_vector, NOW, "ix-1")
    )
    edge = Edge("q-t", "default", "q", target, "answered_by")
    store.contribute(edge, "", amount, NOW, outcomes=1)
    return store


def test_a_past_question_leads_to_what_answered_it_though_it_resembles_nothing():
    # given a node that the question does not resemble, which answered the same question before
    store = with_past(memory({"near": 0.5, "answer": 0.0}), QUERY, "answer", 1.0)
    # when the question is asked again; then that node comes, first
    assert list(found(store)) == ["answer", "near"]
    # and for a question unlike the past one it does not
    far = with_past(memory({"near": 0.5, "answer": 0.0}), np.array([0, 0, 1, 0], np.float32), "answer", 1.0)
    assert list(found(far)) == ["near"]


def test_a_question_is_not_a_passage_and_an_answer_is_found_by_its_question_alone():
    # given a past question and a remembered answer near the query; when searched; then neither is found by itself
    store = memory({"near": 0.5})
    for node_id, kind in (("q", "question"), ("a", "answer")):
        store.put_node(Node(node_id, "default", kind, "", "Said.", None, 0, {}, "test", QUERY, NOW, "ix-1"))
    assert list(found(store)) == ["near"]
    # and when the question leads to the answer; then it comes first
    store.contribute(Edge("q-a", "default", "q", "a", "answered_by"), "", 1.0, NOW, outcomes=1)
    assert list(found(store)) == ["a", "near"]


def test_a_ranker_is_trusted_on_questions_like_those_it_learnt_from_and_on_no_others():
    # given a ranker with an order of its own, and a past question that is like this one
    store = with_past(memory({"a": 0.9, "b": 0.5, "c": 0.1}), towards(0.4), "elsewhere", 1.0)
    rules = RetrievalRules(floor=0.3)
    # when searched; then its order counts, and it may choose what is under the floor
    learnt = find(store, "default", "?", QUERY, rules, now_s=NOW, ranker=Backwards())
    assert [f.node.node_id for f in learnt.passages] == ["c", "b", "a"]
    # and for a question that is unlike all past ones it does not
    far = with_past(memory({"a": 0.9, "b": 0.5, "c": 0.1}), np.array([0, 0, 1, 0], np.float32), "elsewhere", 1.0)
    unlearnt = find(far, "default", "?", QUERY, rules, now_s=NOW, ranker=Backwards())
    assert [f.node.node_id for f in unlearnt.passages] == ["a", "b"]
