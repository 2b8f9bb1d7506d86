"""Loop A: outcomes strengthen, weaken, remember and take back (specification 2.1, 4.2.7)."""

import asyncio
import threading
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.agents.memory_fold import fold
from ruvllm.agents.reinforce import ReinforcementRules
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.memory import EdgePruned, NodeMerged, NodeRetracted, name_edge
from tests.unit.loop_a import ORIGIN, World


@pytest.fixture
def world():
    made = World()
    made.passage("a", "Machine learning is a subset of AI.")
    made.passage("b", "Neural networks are models of machine learning.")
    return made


def learned(relation, source, target):
    return name_edge("default", relation, source, target)


def test_successful_interaction_strengthens_edges(world):
    # given two passages with an edge between them; when an answer that both carry is good
    edge = world.link("a", "b", "same_topic")
    world.learn(world.outcome("q", 0.9, {"a": 0.9, "b": 0.8}))
    # then the edge is stronger, and they have another for being found together
    assert world.weight(edge) > 0.5
    assert world.weight(learned("co_retrieved", "a", "b")) > 0.3


def test_failed_interaction_weakens_edges(world):
    # given the same; when an answer made from both is bad; then the edge is weaker, and nothing is remembered
    edge = world.link("a", "b", "same_topic")
    world.learn(world.outcome("q", 0.3, {"a": 0.1, "b": 0.1}))
    assert world.weight(edge) < 0.5
    assert world.nodes("question") == world.nodes("answer") == []


def test_unused_edges_decay_over_time(world):
    # given an edge that outcomes made; when nobody uses it for a month; then it has half of its strength
    world.learn(world.outcome("q", 1.0, {"a": 1.0, "b": 1.0}))
    edge = learned("co_retrieved", "a", "b")
    assert world.weight(edge) == pytest.approx(0.5)
    assert world.weight(edge, timedelta(days=30)) == pytest.approx(1 - 2**-0.5)


def test_writeback_threshold_filtering(world):
    # given answers around the threshold, which no passage holds; when judged; then only the good ones are remembered
    for quality in (0.0, 0.5, 0.79, 0.8, 1.0):
        world.learn(world.outcome(f"q{quality}", quality, {"a": 0.0}, answer=f"A goat of {quality}."))
    assert world.nodes("answer") == ["A goat of 0.8.", "A goat of 1.0."]
    assert world.nodes("question") == ["What of q0.8?", "What of q1.0?"]


def test_a_question_leads_to_the_passage_that_answered_it(world):
    # given a good answer that one of two passages carries; when learnt; then the question has an edge to that one
    world.learn(world.outcome("q", 1.0, {"a": 1.0, "b": 0.0}, question="What is a subset of AI?"))
    (question,) = [n.node_id for n in world.memory.contents().nodes if n.kind == "question"]
    assert world.weight(learned("answered_by", question, "a")) == pytest.approx(0.5)
    assert world.weight(learned("answered_by", question, "b")) == 0.0


def test_where_the_right_answer_is_known_finding_is_judged_apart_from_answering(world):
    # given a wrong answer, and the accepted one, which a served passage holds; when learnt
    world.learn(world.outcome("q", 0.0, {"a": 1.0, "b": 0.0}, answer="Cheese.", accepted="A subset of AI."))
    (question,) = [n.node_id for n in world.memory.contents().nodes if n.kind == "question"]
    # then that passage has the credit, the accepted answer is remembered, and the wrong one is not
    assert world.weight(learned("answered_by", question, "a")) > 0.4
    assert world.nodes("answer") == ["A subset of AI."]


def test_recalled_text_is_never_written_back(world):
    # given a good answer that a passage holds word for word; when learnt
    world.learn(world.outcome("q", 1.0, {"a": 1.0}, answer="Machine learning is a subset of AI"))
    # then the question is remembered, with its way to that passage, and the answer is not
    assert world.nodes("question") == ["What of q?"]
    assert world.nodes("answer") == []


def evidence(world, edge_id):
    return world.memory.edge("default", edge_id).evidence


async def test_the_loop_waits_for_no_memory_that_is_held(world):
    # given memory that a snapshot holds; when an outcome is learnt from; then other stages go on meanwhile
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with world.memory.lock:
            held.set()
            go_on.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    assert await asyncio.to_thread(held.wait, 5)
    learning = asyncio.create_task(world.keeper.handle(world.outcome("q", 1.0, {"a": 1.0}), ORIGIN))
    await asyncio.wait({learning}, timeout=0.05)
    assert not learning.done()
    # and it is carried out afterwards
    go_on.set()
    assert (await learning).emits
    thread.join()


def test_redelivery_changes_nothing(world):
    # given an outcome that was learnt; when it comes again, to this owner and to its successor
    outcome = world.outcome("q", 1.0, {"a": 1.0, "b": 1.0})
    world.learn(outcome)
    before = world.memory.digest()
    # then nothing changes
    assert world.learn(outcome) == []
    world.restart()
    assert world.learn(outcome) == []
    assert world.memory.digest() == before


def test_a_revision_has_the_effect_of_the_difference(world):
    # given a good answer; when it turns out to be bad; then memory is as if it had been judged bad at once
    edge = world.link("a", "b")
    world.learn(world.outcome("q", 1.0, {"a": 1.0, "b": 1.0}))
    assert world.weight(edge) > 0.5
    changes = world.learn(world.outcome("q", 0.2, {"a": 1.0, "b": 1.0}, revision=1))
    fresh = World()
    fresh.passage("a", "Machine learning is a subset of AI.")
    fresh.passage("b", "Neural networks are models of machine learning.")
    fresh.link("a", "b")
    fresh.learn(fresh.outcome("q", 0.2, {"a": 1.0, "b": 1.0}))
    assert world.weight(edge) == pytest.approx(fresh.weight(edge), abs=1e-9)
    assert evidence(world, edge) == pytest.approx(evidence(fresh, edge), abs=1e-9)
    # and what was remembered is taken back
    assert {type(c) for c in changes} >= {NodeRetracted}
    assert world.nodes("question") == []
    assert world.weight(learned("co_retrieved", "a", "b")) == 0.0


def test_an_older_revision_that_comes_late_is_ignored(world):
    # given a second verdict; when the first comes again; then nothing changes
    world.learn(world.outcome("q", 0.0, {"a": 0.0}, revision=1))
    assert world.learn(world.outcome("q", 1.0, {"a": 1.0})) == []


def test_the_same_question_asked_twice_is_one_node_until_both_askings_are_taken_back(world):
    # given two sessions that asked the same and were answered well
    first = {"question": "What is a subset of AI?"}
    world.learn(world.outcome("q1", 1.0, {"a": 1.0}, **first), world.outcome("q2", 1.0, {"a": 1.0}, **first))
    assert world.nodes("question") == ["What is a subset of AI?"] * 2  # two members of one node
    assert world.memory.stats().nodes_by_kind["question"] == 1
    # when one turns out bad; then the other keeps it
    world.learn(world.outcome("q1", 0.0, {"a": 0.0}, revision=1, **first))
    assert world.memory.stats().nodes_by_kind["question"] == 1
    world.learn(world.outcome("q2", 0.0, {"a": 0.0}, revision=1, **first))
    assert world.memory.stats().nodes_by_kind.get("question", 0) == 0


def test_a_near_duplicate_is_merged_and_steps_in_when_the_first_is_taken_back():
    # given two wordings that the embedder cannot tell apart
    world = World(ReinforcementRules(same=0.9))
    world.passage("a", "The lamp is lit at dusk.")
    world.learn(world.outcome("q1", 1.0, {"a": 1.0}, question="when is the lamp lit"))
    changes = world.learn(world.outcome("q2", 1.0, {"a": 1.0}, question="when is the lamp lit?!"))
    assert not any(isinstance(c, NodeMerged) for c in changes)  # the same words are the same node
    changes = world.learn(world.outcome("q3", 1.0, {"a": 1.0}, question="the lamp is lit when"))
    (merged,) = [c for c in changes if isinstance(c, NodeMerged) and c.node_kind == "question"]
    assert (merged.text, merged.similarity) == ("the lamp is lit when", pytest.approx(1.0, abs=0.1))
    assert world.memory.stats().nodes_by_kind["question"] == 1
    # when both askings of the first wording are taken back; then the merged one has its place
    for request_id, question in (("q1", "when is the lamp lit"), ("q2", "when is the lamp lit?!")):
        world.learn(world.outcome(request_id, 0.0, {"a": 0.0}, question=question, revision=1))
    assert world.nodes("question") == ["the lamp is lit when"]


def test_questions_that_differ_in_a_number_or_a_name_are_not_one():
    # given questions that are near each other in meaning; when learnt; then each is a node of its own
    world = World(ReinforcementRules(same=0.3))
    world.passage("a", "It was so.")
    for question in ("Who kept the lamp in 1911?", "Who kept the lamp in 1912?", "Who kept the Lamp of Osk in 1912?"):
        world.learn(world.outcome(question, 1.0, {"a": 1.0}, question=question))
    assert world.memory.stats().nodes_by_kind["question"] == 3


def test_an_edge_that_failed_too_often_is_pruned(world):
    # given an edge, and bad answers made from its ends for several clients; when learnt; then it is pruned, once
    edge = world.link("a", "b")
    changes = []
    for client in "xyz":
        changes += world.learn(world.outcome(f"q{client}", 0.0, {"a": 0.0, "b": 0.0}, client=client))
    assert [type(c) for c in changes].count(EdgePruned) == 1
    assert world.memory.pruned(world.memory.edge("default", edge))
    assert world.memory.expand("default", ["a"], hops=1, now=world.clock.now().timestamp()) == []


# --- a view that is behind ------------------------------------------------------------------------


def test_an_edge_is_not_pruned_for_what_the_view_had_not_seen(world):
    # given an edge that two bad outcomes wore thin, and a good one of which the view knows nothing yet
    edge = world.link("a", "b")
    bad = {"quality": 0.3, "served": {"a": 0.0, "b": 0.0}}
    world.learn(world.outcome("q1", client="x", **bad), world.outcome("q2", client="y", **bad))
    world.lag = 10**9
    world.learn(world.outcome("q3", 1.0, {"a": 1.0, "b": 1.0}, client="w"))
    # when a third bad one makes the view believe that nothing is left of it
    changes = world.learn(world.outcome("q4", client="z", **bad))
    assert EdgePruned in {type(c) for c in changes}
    # then the edge lives on with what the good outcome gave
    world.catch_up()
    assert not world.memory.pruned(world.memory.edge("default", edge))


def test_a_revision_that_comes_before_its_first_is_seen_has_the_effect_of_the_difference():
    # given a view that sees nothing of what is learnt; when a good answer turns out bad
    world = World(lag=10**9)
    world.passage("a", "Machine learning is a subset of AI.")
    world.passage("b", "Neural networks are models of machine learning.")
    edge = world.link("a", "b")
    world.learn(world.outcome("q", 1.0, {"a": 1.0, "b": 1.0}))
    world.learn(world.outcome("q", 0.2, {"a": 1.0, "b": 1.0}, revision=1))
    world.catch_up()
    # then nothing that was remembered is left, and the edge is weaker than at its birth
    assert world.nodes("question") == []
    assert world.weight(learned("co_retrieved", "a", "b")) == 0.0
    assert 0.0 < world.weight(edge) < 0.5


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["q1", "q2", "q3"]), st.floats(0, 1), st.integers(0, 12)), max_size=8))
def test_memory_has_learnt_the_last_revisions_however_far_the_view_is_behind(given_outcomes):
    # given outcomes and revisions, each decided with a view that is some changes behind
    world = World()
    world.passage("a", "Machine learning is a subset of AI.")
    world.passage("b", "Neural networks are models of machine learning.")
    world.link("a", "b")
    revisions = {}
    for request_id, quality, world.lag in given_outcomes:
        revision = revisions[request_id] = revisions.get(request_id, -1) + 1
        world.learn(world.outcome(request_id, quality, {"a": quality, "b": 1.0}, revision=revision))
    world.catch_up()
    # then what memory holds is what the last state of each interaction says, counted once
    last = {state.interaction_id: state for state in world.states}.values()
    wanted, nodes = {}, set()
    for state in last:
        nodes |= {(node_id, state.interaction_id) for node_id in state.nodes}
        for edge_id, contribution in state.contributions.items():
            wanted[edge_id] = wanted.get(edge_id, 0.0) + contribution.amount
    contents = world.memory.contents()
    found = {edge.edge_id: sum(edge.learnt.values()) for edge in contents.edges}
    assert all(found[edge_id] == pytest.approx(wanted.get(edge_id, 0.0), abs=1e-9) for edge_id in {*found, *wanted})
    assert {(n.node_id, n.made_by) for n in contents.nodes if n.made_by} == nodes


def test_states_are_bounded_and_forgotten_with_a_tombstone():
    # given a keeper of two interactions; when a third comes; then the longest known is forgotten
    world = World(ReinforcementRules(interactions_kept=2))
    world.passage("a", "It was so.")
    emits = []
    for request_id in ("q1", "q2", "q3"):
        emits += asyncio.run(world.keeper.handle(world.outcome(request_id, 1.0, {"a": 1.0}), ORIGIN)).emits
    assert [e.event.request_id for e in emits if e.tombstone] == ["q1"]


OUTCOMES = st.lists(
    st.tuples(
        st.sampled_from(["q1", "q2", "q3"]),
        st.floats(0, 1),
        st.floats(0, 1),
        st.floats(0, 1),
        st.sampled_from([None, "A subset of AI."]),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=30)
@given(OUTCOMES, st.randoms(use_true_random=False))
def test_any_interleaving_of_partitions_folds_to_the_same_memory(given_outcomes, draws):
    # given what some outcomes and their revisions did to memory
    world = World()
    world.passage("a", "Machine learning is a subset of AI.")
    world.passage("b", "Neural networks are models of machine learning.")
    revisions = {}
    for request_id, quality, first, second, accepted in given_outcomes:
        revision = revisions[request_id] = revisions.get(request_id, -1) + 1
        served = {"a": first, "b": second}
        world.learn(world.outcome(request_id, quality, served, revision=revision, accepted=accepted))
    # when its changes are folded with their keys in another order, each key's own kept
    by_key = {}
    for offset, change in enumerate(world.changes):
        by_key.setdefault(change.partition_key, []).append((offset, change))
    other = Memory(world.embedder.name, world.embedder.dimension)
    for node in world.memory.contents().nodes:
        if node.kind == "document":
            other.put_node(node)
    waiting = list(by_key.values())
    while waiting:
        row = draws.choice(waiting)
        offset, change = row.pop(0)
        fold(other, change, offset)
        waiting = [r for r in waiting if r]
    # then the memory is the same
    assert other.digest() == world.memory.digest()
