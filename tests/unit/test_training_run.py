"""A training run of the ranker: lessons from the log, a gate, a checkpoint that a fold of the log serves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.agents.lessons import AttentionCourse
from ruvllm.agents.rankers import Rankers
from ruvllm.errors import InvalidRequest
from ruvllm.models.attention.candidate_graph import HYBRID, NODE_FEATURES, PAIR_FEATURES, CandidateGraph
from ruvllm.models.attention.graph_attention import Shape, initial
from ruvllm.models.attention.lesson import Lesson
from ruvllm.models.attention.packing import pack_graph, pack_parameters, unpack_graph, unpack_parameters
from ruvllm.models.attention.run import run
from ruvllm.schemas.flow import Candidates
from ruvllm.schemas.outcome import CandidatesCredited
from ruvllm.schemas.training import CheckpointChosen, CheckpointPublished
from tests.manual_clock import START
from tests.unit.sample_events import IDENTITY, INTERACTION

COVERAGE = NODE_FEATURES.index("coverage: share of the question's terms, by rarity")


def graph(draws, count=10, width=4):
    nodes = draws.random((count, len(NODE_FEATURES)), np.float32)
    neighbours = np.full((count, width), -1, np.int16)
    neighbours[:, 0] = np.arange(count)
    pairs = np.zeros((count, width, len(PAIR_FEATURES)), np.float32)
    return CandidateGraph(nodes, neighbours, pairs)


def telling(count, seed=0):
    """Lessons in which the credit goes to who covers the question, which the hybrid score knows nothing of."""
    draws = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        one = graph(draws)
        credit = np.zeros(len(one), np.float32)
        credit[np.argmax(one.nodes[:, COVERAGE])] = 1.0
        made.append(Lesson(pack_graph(one), tuple(credit.tolist())))
    return made


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_a_graph_comes_back_from_its_bytes(count, width, seed):
    # given any graph; when packed and unpacked; then it is the same within a thousandth
    before = graph(np.random.default_rng(seed), count, width)
    after = unpack_graph(pack_graph(before))
    np.testing.assert_allclose(after.nodes, before.nodes, atol=1e-3)
    np.testing.assert_array_equal(after.neighbours, before.neighbours)
    np.testing.assert_allclose(after.pairs, before.pairs, atol=1e-3)


def test_parameters_come_back_from_their_bytes_exactly():
    # given parameters; when packed and unpacked; then they are the same, bit for bit
    shape = Shape(16, 2, 1)
    before = initial(shape, 3)
    after, found = unpack_parameters(pack_parameters(before, shape))
    assert found == shape
    assert all(np.array_equal(before[name], after[name]) for name in before)


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_foreign_bytes_are_refused(raw):
    # given bytes that are neither; when unpacked; then that is said
    for unpack in (unpack_graph, unpack_parameters):
        with pytest.raises(InvalidRequest):
            unpack(raw)


def test_a_run_publishes_what_passed_its_gate_and_says_the_same_twice():
    # given lessons with something to learn; when run twice; then the gate is passed, with the same bytes
    found = run(telling(120), seed=1)
    assert found.passed
    assert found.gain > 0.1
    assert run(telling(120), seed=1).parameters == found.parameters
    assert run(telling(120), seed=2).parameters != found.parameters


def test_a_run_over_noise_is_held_back():
    # given lessons whose credit follows from nothing, three times; when run; then at most one passes by chance
    draws = np.random.default_rng(7)
    passed = []
    for seed in range(3):
        noise = [Lesson(one.graph, tuple(draws.permutation(one.credit).tolist())) for one in telling(60, seed)]
        found = run(noise, seed=1)
        passed.append(found.passed)
        assert (found.parameters is not None) == found.passed
    assert sum(passed) <= 1


def test_a_damaged_lesson_teaches_nothing_and_fails_no_run():
    # given lessons of which one was cut; when run; then it is as if that one had not been there
    lessons = telling(30)
    cut = Lesson(lessons[7].graph[:-4], lessons[7].credit)
    found = run([*lessons[:7], cut, *lessons[8:]], seed=1)
    assert found.examples == 29
    assert found.gain == run([*lessons[:7], *lessons[8:]], seed=1).gain


def test_too_few_lessons_are_held_back():
    # given nineteen lessons; when run; then there is no verdict and no checkpoint
    assert not run(telling(19), seed=1).passed
    assert not run([], seed=1).passed


def test_the_last_choice_serves_and_a_foreign_checkpoint_does_not():
    # given a checkpoint that was published and chosen; when folded; then it serves, and ranks as it learnt
    result = run(telling(120), seed=1)
    rankers = Rankers()
    facts = {"time": START, "learner": "attention"}
    assert rankers.current() is None
    rankers.apply(CheckpointPublished(**facts, checkpoint="a", run_id="r", parameters=result.parameters))
    assert rankers.current() is None
    rankers.apply(CheckpointChosen(**facts, checkpoint="a", reason="it passed"))
    serving = rankers.current()
    held_out = [unpack_graph(lesson.graph) for lesson in telling(50, seed=9)]
    right = [np.argmax(serving.model.score(g)) == np.argmax(g.nodes[:, COVERAGE]) for g in held_out]
    by_hybrid = [np.argmax(g.nodes[:, HYBRID]) == np.argmax(g.nodes[:, COVERAGE]) for g in held_out]
    assert sum(right) > 20 > 3 * sum(by_hybrid)
    # and when one of other features is chosen, or none; then nothing learnt serves
    rankers.apply(CheckpointPublished(**facts, checkpoint="b", run_id="r", parameters=b"?"))
    rankers.apply(CheckpointChosen(**facts, checkpoint="b", reason="by mistake"))
    assert rankers.current() is None


def interaction(request_id, second, packed, tenant="harbour", client=None):
    candidates = Candidates(node_ids=tuple(f"n{i}" for i in range(10)), graph=packed, likeness=0.0)
    retrieval = INTERACTION.retrieval.model_copy(update={"candidates": candidates})
    time = START.replace(second=second)
    who = {"tenant": tenant, "request": INTERACTION.request.model_copy(update={"client": client})}
    return INTERACTION.model_copy(update={"interaction_id": request_id, "retrieval": retrieval, "time": time, **who})


def credited(interaction_id, revision, credit):
    facts = {**IDENTITY, "interaction_id": interaction_id, "revision": revision}
    return CandidatesCredited(**facts, credit=credit)


def test_lessons_are_in_order_and_take_the_last_revision():
    # given interactions and credits in any order, one revised, one without credit, one of other features
    packed = [lesson.graph for lesson in telling(4)]
    asked = [interaction(f"ix{i}", 10 - i, raw) for i, raw in enumerate(packed)] + [interaction("odd", 1, b"?")]
    told = [
        credited("ix1", 1, {"n2": 1.0}),
        credited("ix0", 0, {"n1": 0.5, "elsewhere": 1.0}),
        credited("ix1", 0, {"n9": 1.0}),
        credited("ix2", 0, {}),
        credited("odd", 0, {"n1": 1.0}),
    ]
    # when gathered; then they come by time, each with its last credit, and what teaches nothing is left out
    found = gathered(asked, told, most=10)
    assert [lesson.graph for lesson in found] == [packed[1], packed[0]]
    assert [np.flatnonzero(lesson.credit).tolist() for lesson in found] == [[2], [1]]
    assert gathered(asked, told, most=1) == found[-1:]
    assert len({lesson.question for lesson in found}) == 1  # both asked the same


@pytest.fixture(scope="module")
def packed():
    return telling(1)[0].graph


def who_taught(asked, most):
    """What is kept of interactions, told apart by which candidate has their credit."""
    told = [credited(event.interaction_id, 0, {f"n{place}": 1.0}) for place, event in enumerate(asked)]
    found = gathered(asked, told, most)
    return [asked[int(np.argmax(lesson.credit))].interaction_id for lesson in found]


def test_neither_a_tenant_nor_a_client_fills_what_is_learnt_from(packed):
    # given a tenant with a loud client and a quiet one, and a tenant that asked less and earlier
    loud = [interaction(f"loud{i}", 10 + i, packed, "harbour", "loud") for i in range(6)]
    quiet = [interaction("quiet", 5, packed, "harbour", "quiet")]
    other = [interaction(f"other{i}", i, packed, "mill") for i in range(2)]
    # when there are fewer places than lessons; then all are heard, each with its newest, in order of time
    assert who_taught([*loud, *quiet, *other], most=4) == ["other0", "other1", "quiet", "loud5"]
    # and places that nobody else wants are taken
    assert who_taught([*loud, *quiet, *other], most=6) == ["other0", "other1", "quiet", "loud3", "loud4", "loud5"]
    assert who_taught(loud, most=3) == ["loud3", "loud4", "loud5"]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 5)), max_size=10),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_what_is_learnt_from_does_not_hang_on_the_order_of_reading(packed, rows, most, draws):
    # given interactions of several tenants and clients; when read in another order; then the same are kept
    asked = [interaction(f"ix{i}", at, packed, tenant, client) for i, (tenant, client, at) in enumerate(rows)]
    again = draws.sample(asked, len(asked))
    assert sorted(who_taught(asked, most)) == sorted(who_taught(again, most))
    # and each tenant has its share, or all that it wants
    kept = [next(e.tenant for e in asked if e.interaction_id == name) for name in who_taught(asked, most)]
    for tenant in {row[0] for row in rows}:
        wanted = sum(row[0] == tenant for row in rows)
        assert kept.count(tenant) >= min(wanted, most // 2)


def gathered(asked, told, most):
    book = AttentionCourse(most=most)
    for event in told:
        book.take(event)
    for event in asked:
        book.take(event)
    return book.lessons()


def test_askings_of_one_question_are_one_question_to_the_gate():
    # given a hundred askings of five questions; when run; then that is too few questions to say anything
    asked = [Lesson(lesson.graph, lesson.credit, f"q{i % 5}") for i, lesson in enumerate(telling(100))]
    found = run(asked, seed=1)
    assert (found.passed, found.questions) == (False, 5)
