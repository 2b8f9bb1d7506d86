"""Undo: memory after a retraction is the fold of the log without what was taken back (issue "The log is the truth")."""

from datetime import timedelta

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ruvllm.agents.memory_fold import fold
from ruvllm.models.attention.finding import RetrievalRules, find
from ruvllm.models.memory.sameness import differences
from ruvllm.models.memory.store import Memory
from ruvllm.schemas.memory import EdgePruned, NodeMerged
from ruvllm.schemas.outcome import Retraction
from ruvllm.streams.history.taught import taught_by
from ruvllm.streams.history.without import Without, filtered
from tests.manual_clock import START
from tests.unit.loop_a import World

EXPLAINED = (Phase.explicit, Phase.reuse, Phase.generate)
"""Not made smaller: that takes minutes."""
QUESTIONS = (
    "Who feeds the goat of the harbour master at night?",
    "Who feeds the goat, of the harbour master, at night?",  # says the same: merged
    "Which oil burns in the great lamp of Vellen?",
    "Which oil burns, in the great lamp of Vellen?",
)
PARTS = (
    "## Goats\n\nThe goat Brim belongs to the harbour master Ida Tolm and eats at night.",
    "## Lamps\n\nThe great lamp of Vellen burns rapeseed oil from the mill of Dorr.",
    "## Boats\n\nThe boats of Vellen come in with the tide and leave with it.",
)
ORDERS = (None, (0, 1, 2), (0, 2, 1), (0, 1), (1, 2))
"""Of a document's parts, or none: it is removed. Neighbours change, and so do the edges between them."""
ANSWERS = ("Ida Tolm feeds it.", "Rapeseed oil.")

outcomes = st.tuples(
    st.just("outcome"),
    st.integers(0, 7),  # which request; told again it is a revision
    st.floats(0, 1).map(lambda q: round(q, 2)),
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0.0, 0.4, 0.9, 1.0])), max_size=4),
    st.sampled_from([None, None, *ANSWERS]),
    st.sampled_from(["", "x", "y"]),
    st.integers(-60, 60),  # days: outcomes come in any order of their times
)
documents = st.tuples(st.just("document"), st.sampled_from(["d", "e"]), st.sampled_from(ORDERS))
steps = st.lists(st.one_of(outcomes, outcomes, outcomes, documents), min_size=1, max_size=14)
later = st.lists(outcomes, max_size=4)


def content(order):
    return None if order is None else "# Isle\n\n" + "\n\n".join(PARTS[i] for i in order)


def live(history):
    """A world that has been through a history."""
    world = World()
    world.put("d", content((0, 1, 2)))
    world.put("e", content((1, 0)))
    go_on(world, history)
    return world


def go_on(world, history):
    for kind, *facts in history:
        world.clock.advance(3_600)
        if kind == "document":
            world.put(facts[0], content(facts[1]))
            continue
        request, quality, served, accepted, client, days = facts
        known = sorted(n.node_id for n in world.memory.contents().nodes if n.kind != "question")
        first = world.last.get(f"q{request}")
        world.learn(
            world.outcome(
                f"q{request}",
                quality,
                {known[i % len(known)]: support for i, support in served if known},
                revision=first.revision + 1 if first else 0,
                question=QUESTIONS[request % 4],
                answer=ANSWERS[request % 2],
                accepted=accepted,
                client=first.client if first else client,
                time=first.time if first else START + timedelta(days=days),
            )
        )


def folded(world, changes):
    memory = Memory(world.embedder.name, world.embedder.dimension)
    offsets = {change.change_id: offset for offset, change in enumerate(world.changes)}
    for change in changes:
        fold(memory, change, offsets[change.change_id])
    return memory


def differ(one, other):
    return [str(d) for d in differences(one.contents(), other.contents(), half_life_s=one.half_life_s)]


def found(world, memory, question):
    """What would be served on a question: node ids, and their scores."""
    (vector,) = world.embedder.embed([question])
    now_s = (START + timedelta(days=90)).timestamp()
    served = find(memory, "default", question, vector, RetrievalRules(floor=0.05), now_s=now_s).passages
    return {hit.node.node_id: hit.score for hit in served}


@settings(deadline=None, max_examples=12, phases=EXPLAINED)
@given(steps, st.sets(st.integers(0, 7), max_size=5), st.sets(st.sampled_from(["d", "e"])), later, st.data())
def test_memory_after_undo_is_the_fold_of_the_log_without_it(history, requests, removed, after, data):
    # given a history; when some requests are taken back (the owner has forgotten some), documents are removed, and
    # life goes on
    world = live(history)
    requests = sorted(f"q{r}" for r in requests if f"q{r}" in world.last)
    taught = taught_by(world.changes)
    for request in requests:
        told = Retraction(reason="undo")
        if data.draw(st.booleans(), label=f"{request} is forgotten"):
            by = taught.get(f"ix-{request}")
            told = Retraction(
                reason="undo", contributions=by.contributions if by else {}, nodes=tuple(by.nodes) if by else ()
            )
            world.states = [s for s in world.states if s.request_id != request]
            world.restart()
        world.take_back(request, told)
    for name in sorted(removed):
        world.put(name, None)
    go_on(world, after)
    # then memory is the fold of the filtered log, and finds the same
    without = Without(
        frozenset(f"ix-{request}" for request in requests), frozenset(("default", name) for name in removed)
    )
    other = folded(world, filtered(world.changes, without))
    assert differ(world.memory, other) == []
    for question in QUESTIONS:
        assert found(world, world.memory, question) == pytest.approx(found(world, other, question), abs=1e-6)
    # and nothing of what was taken back is left in what its makers are said to have taught
    assert not any(by.contributions or by.nodes for ix, by in taught_by(world.changes).items() if ix[3:] in requests)


@settings(deadline=None, max_examples=12, phases=EXPLAINED)
@given(steps, st.sets(st.integers(0, 7), max_size=3), st.integers(0, 40), st.randoms(use_true_random=False))
def test_any_prefix_duplicate_or_interleaving_gives_the_same_memory(history, requests, at, draws):
    # given the changes of a history with some requests taken back, and a prefix of them
    world = live(history)
    for request in sorted(requests):
        if f"q{request}" in world.last:
            world.take_back(f"q{request}")
    prefix = list(enumerate(world.changes))[: max(1, at)]
    plain = Memory(world.embedder.name, world.embedder.dimension)
    for offset, change in prefix:
        fold(plain, change, offset)
    # when keys interleave otherwise, and a reader that starts again delivers the tail of a key once more
    queues = {}
    for offset, change in prefix:
        queues.setdefault(change.partition_key, []).append((offset, change))
    for queue in queues.values():
        queue.extend(queue[draws.randint(0, len(queue)) :])
    other = Memory(world.embedder.name, world.embedder.dimension)
    while queues:
        key = draws.choice(sorted(queues))
        offset, change = queues[key].pop(0)
        fold(other, change, offset)
        queues = {key: queue for key, queue in queues.items() if queue}
    # then the memory is the same
    assert differ(plain, other) == []


def test_a_merged_node_is_headed_by_the_next_one_that_made_it():
    # given two questions of which the second was merged into the first; when the first is taken back
    world = live([("outcome", 0, 1.0, [(0, 1.0)], None, "", 0), ("outcome", 1, 1.0, [(0, 1.0)], None, "", 1)])
    assert NodeMerged in {type(c) for c in world.changes}
    world.take_back("q0")
    # then the second is the node; and when that is taken back as well, there is none
    assert world.nodes("question") == [QUESTIONS[1]]
    world.take_back("q1")
    assert world.nodes("question") == []


def test_a_pruned_edge_comes_back_when_what_was_bad_is_taken_back():
    # given an edge that a good outcome made and three bad ones wore out; when the bad ones are taken back
    good = ("outcome", 0, 0.8, [(0, 1.0), (1, 1.0)], None, "x", 0)
    bad = [("outcome", n, 0.0, [(0, 0.0), (1, 0.0)], None, client, 0) for n, client in ((1, "x"), (2, "y"), (3, ""))]
    world = live([good, *bad])
    pruned = {c.edge_id for c in world.changes if isinstance(c, EdgePruned)}
    hidden = [e for e in pruned if world.memory.pruned(world.memory.edge("default", e))]
    assert hidden
    for request in ("q1", "q2", "q3"):
        world.take_back(request)
    # then it leads again
    assert all(world.memory.leads(world.memory.edge("default", e), START.timestamp()) for e in hidden)


def test_what_was_pruned_for_what_is_taken_back_is_judged_by_what_is_left():
    # given an edge that only outcomes made and wore out; when all of them are taken back, and a bad one comes
    good = ("outcome", 0, 0.8, [(0, 1.0), (1, 1.0)], None, "x", 0)
    bad = [("outcome", n, 0.0, [(0, 0.0), (1, 0.0)], None, client, 0) for n, client in ((1, "x"), (2, "y"), (3, ""))]
    world = live([good, *bad])
    (pruned, *_) = {c.edge_id for c in world.changes if isinstance(c, EdgePruned)}
    for request in ("q0", "q1", "q2", "q3"):
        world.take_back(request)
    go_on(world, [("outcome", 4, 1.0, [(0, 1.0), (1, 1.0)], None, "z", -30)])
    # then it is as it would be had they never been, decisions kept
    other = folded(world, filtered(world.changes, Without(frozenset(f"ix-q{n}" for n in range(4)))))
    assert (world.memory.edge("default", pruned) is not None, differ(world.memory, other)) == (True, [])


def test_an_outcome_on_an_edge_that_its_document_states_no_more_leaves_nothing():
    # given an edge between neighbours that an outcome strengthened; when the document changes, and changes back
    world = live([("outcome", 0, 1.0, [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)], None, "x", 0)])
    world.put("d", content((0, 2, 1)))
    world.take_back("q0")
    world.put("d", content((0, 1, 2)))
    # then what was taken back has left nothing on it
    left = [e for e in world.memory.contents().edges if e.learnt or e.outcomes]
    assert left == []
