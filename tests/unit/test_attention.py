"""Graph attention: what the specification asks of it (4.2.5), and that numpy and torch agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.errors import InvalidConfiguration, InvalidRequest
from ruvllm.models.attention.candidate_graph import HYBRID, NODE_FEATURES, PAIR_FEATURES, CandidateGraph
from ruvllm.models.attention.gate import gate
from ruvllm.models.attention.graph_attention import GraphAttention, Shape, initial, layer_norm, shapes_of
from ruvllm.models.attention.ranker import rank
from ruvllm.models.attention.training import Example, Schedule, _padded, forward, train

CITES = PAIR_FEATURES.index("cites")


def random_graph(seed: int, count: int = 12, width: int = 5) -> CandidateGraph:
    generator = np.random.default_rng(seed)
    neighbours = generator.integers(-1, count, (count, width)).astype(np.int16)
    neighbours[:, 0] = np.arange(count)
    return CandidateGraph(
        generator.normal(size=(count, len(NODE_FEATURES))).astype(np.float32),
        neighbours,
        generator.random((count, width, len(PAIR_FEATURES))).astype(np.float32),
    )


def random_ranker(seed: int, shape: Shape | None = None) -> GraphAttention:
    """Every parameter at work, the output's too."""
    generator = np.random.default_rng(seed)
    shape = shape or Shape()
    parameters = {n: generator.normal(0, 0.3, size).astype(np.float32) for n, size in shapes_of(shape).items()}
    return GraphAttention(parameters, shape)


def cited(seed: int, *, cites: bool) -> CandidateGraph:
    """Two alike candidates and a strong one that cites the second, or does not."""
    graph = random_graph(seed, count=3, width=2)
    graph.nodes[1] = graph.nodes[2]
    graph.neighbours[:] = [[0, -1], [1, 0], [2, 0]]
    graph.pairs[:] = 0
    graph.pairs[2, 1, CITES] = float(cites)
    return graph


# --- the specification's tests ------------------------------------------------------------------------


@given(st.integers(0, 2**16))
def test_attention_weights_sum_to_one(seed: int) -> None:
    graph = random_graph(seed)
    for weights in random_ranker(seed).attention(graph):
        assert np.allclose(weights.sum(1), 1.0, atol=1e-5)
        assert (weights[graph.neighbours < 0] == 0).all()


def test_edge_features_influence_attention() -> None:
    ranker = random_ranker(1)
    plain, linked = (ranker.attention(cited(3, cites=c))[0] for c in (False, True))
    assert not np.allclose(plain[2], linked[2])
    assert np.allclose(plain[1], linked[1])


def test_multi_head_concatenation() -> None:
    """Each head fills its own part of the hidden state: with one head's values at zero, its part is zero."""
    shape = Shape(hidden=8, heads=4, layers=1)
    parameters = dict(random_ranker(2, shape).parameters)
    parameters["0.o.w"], parameters["0.o.b"] = np.eye(8, dtype=np.float32), np.zeros(8, np.float32)
    parameters["0.down.w"], parameters["0.down.b"] = np.zeros((16, 8), np.float32), np.zeros(8, np.float32)
    graph = random_graph(2)
    silent = {**parameters, "0.v.w": parameters["0.v.w"].copy(), "0.v.b": parameters["0.v.b"].copy()}
    silent["0.value.w"] = parameters["0.value.w"].copy()
    for name in ("0.v.w", "0.v.b", "0.value.w"):
        silent[name][..., 2:4] = 0

    before = graph.nodes @ parameters["in.w"] + parameters["in.b"]
    change = GraphAttention(silent, shape).hidden(graph) - before
    full = GraphAttention(parameters, shape).hidden(graph) - before

    assert np.allclose(change[:, 2:4], 0, atol=1e-5)
    assert np.allclose(np.delete(change, [2, 3], 1), np.delete(full, [2, 3], 1), atol=1e-5)
    assert not np.allclose(full[:, 2:4], 0, atol=1e-3)


def test_residual_connection_preserved() -> None:
    """With nothing to add, a layer hands its input on."""
    parameters = dict(random_ranker(4).parameters)
    for name, value in parameters.items():
        if name.split(".")[1:2] in (["o"], ["down"]):
            parameters[name] = np.zeros_like(value)
    graph = random_graph(4)
    entered = graph.nodes @ parameters["in.w"] + parameters["in.b"]
    assert np.allclose(GraphAttention(parameters).hidden(graph), entered, atol=1e-5)


@given(st.integers(0, 2**16), st.floats(0.1, 100))
def test_layer_norm_normalization(seed: int, spread: float) -> None:
    rows = np.random.default_rng(seed).normal(3, spread, (6, 32)).astype(np.float32)
    normal = layer_norm(rows, np.ones(32, np.float32), np.zeros(32, np.float32))
    assert np.allclose(normal.mean(1), 0, atol=1e-4)
    assert np.allclose(normal.std(1), 1, atol=1e-2)


def test_attention_ranking_matches_weights() -> None:
    """A candidate that looks at what the output likes, and looks the harder, is ranked the higher."""
    shape = Shape(hidden=4, heads=1, layers=1)
    parameters = {name: np.zeros(size, np.float32) for name, size in shapes_of(shape).items()}
    parameters["in.w"][HYBRID, 0] = 1
    parameters |= {name: np.ones_like(parameters[name]) for name in ("0.norm1.g", "0.norm2.g")}
    parameters["0.v.w"], parameters["0.o.w"] = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)
    parameters["0.bias.w"][CITES] = 3
    parameters["out.w"][0] = 1
    graph = cited(5, cites=True)
    graph.nodes[:] = 0
    graph.nodes[0, HYBRID] = 1
    ranker = GraphAttention(parameters, shape)

    (weights,) = ranker.attention(graph)
    scores = ranker.score(graph)

    assert weights[2, 1, 0] > weights[1, 1, 0]
    assert scores[2] > scores[1]


def test_attention_weights_update_from_success_patterns() -> None:
    """Where what a strong candidate cites carries the answer, citing gains attention (specification 2.1)."""
    before = GraphAttention(initial(Shape(), 0)).get_edge_bias_weights()
    examples = [Example(cited(seed, cites=True), np.array([0, 0, 1], np.float32)) for seed in range(64)]
    after = GraphAttention(train(examples, seed=0, schedule=Schedule(epochs=20, dropout=0))).get_edge_bias_weights()
    assert after["cites"] > before["cites"]
    assert after["follows"] == pytest.approx(before["follows"], abs=0.1)


# --- numpy, torch, and learning -------------------------------------------------------------------------


@settings(deadline=None)  # the first call of torch takes its time
@given(st.integers(0, 2**16), st.integers(1, 50))
def test_numpy_and_torch_agree(seed: int, count: int) -> None:
    ranker = random_ranker(seed)
    graph = random_graph(seed, count=count)
    larger = random_graph(seed + 1, count=50, width=7)
    batch = _padded([Example(g, np.ones(len(g), np.float32)) for g in (graph, larger)])
    with torch.no_grad():
        scores = forward({n: torch.tensor(v) for n, v in ranker.parameters.items()}, batch, ranker.shape).numpy()
    assert np.allclose(scores[0, :count], ranker.score(graph), atol=1e-5, rtol=1e-5)
    assert np.allclose(scores[1], ranker.score(larger), atol=1e-5, rtol=1e-5)


def test_untrained_ranks_by_the_hybrid() -> None:
    graph = random_graph(6)
    scores = GraphAttention(initial(Shape(), 3)).score(graph)
    assert (np.argsort(-scores) == np.argsort(-graph.nodes[:, HYBRID])).all()


def lesson(seed: int, feature: int = 7) -> Example:
    """A question whose answer is the candidate that is greatest in one feature, not in the hybrid."""
    graph = random_graph(seed)
    target = np.zeros(len(graph), np.float32)
    target[np.argsort(-graph.nodes[:, feature])[:2]] = 1
    return Example(graph, target)


def test_training_is_repeatable_and_disturbs_no_generator() -> None:
    examples = [lesson(seed) for seed in range(8)]
    state = torch.random.get_rng_state()
    once, again = (train(examples, seed=5, schedule=Schedule(epochs=2)) for _ in range(2))
    assert all(np.array_equal(once[name], again[name]) for name in once)
    assert torch.equal(state, torch.random.get_rng_state())
    other = train(examples, seed=6, schedule=Schedule(epochs=2))
    assert not np.array_equal(once["0.q.w"], other["0.q.w"])


def test_the_gate_passes_what_helps_and_holds_back_what_does_not() -> None:
    def quick(examples: object) -> dict[str, np.ndarray]:
        return train(examples, seed=0, schedule=Schedule(epochs=15, dropout=0))  # type: ignore[arg-type]

    helps = gate([lesson(seed) for seed in range(80)], quick, seed=0)
    noise = [Example(e.graph, np.roll(e.target, 1 + i % 11)) for i, e in enumerate(map(lesson, range(80)))]
    harms = gate(noise, quick, seed=0)
    few = gate([lesson(seed) for seed in range(10)], quick, seed=0)

    assert helps.passed
    assert helps.gain > 0.2
    assert not harms.passed
    assert not few.passed
    assert few.questions == 10


def test_nothing_to_learn_from_is_an_error() -> None:
    empty = replace(lesson(0), target=np.zeros(12, np.float32))
    with pytest.raises(InvalidRequest, match="nothing to learn from"):
        train([empty], seed=0)


def test_a_checkpoint_of_another_shape_is_refused() -> None:
    parameters = dict(initial(Shape(), 0))
    parameters["out.w"] = np.zeros(5, np.float32)
    with pytest.raises(InvalidConfiguration, match=r"out\.w should have shape \(32,\), found \(5,\)"):
        GraphAttention(parameters)


def test_a_question_far_from_all_past_ones_is_ranked_as_if_nothing_was_learnt() -> None:
    graph = random_graph(8)
    past = np.zeros(len(graph), np.float32)
    ranker = random_ranker(8)
    assert np.array_equal(rank(graph, past, 0.0, ranker), rank(graph, past, 0.0, None))
    assert not np.array_equal(rank(graph, past, 0.6, ranker), rank(graph, past, 0.6, None))


def test_the_same_question_again_leads_to_what_answered_it() -> None:
    graph = random_graph(9)
    past = np.zeros(len(graph), np.float32)
    worst = int(np.argmin(rank(graph, past, 1.0, None)))
    past[worst] = 1.0
    far, same = rank(graph, past, 0.5, None), rank(graph, past, 1.0, None)
    assert np.argsort(-far)[-1] == worst
    assert same[worst] == pytest.approx(far[worst] + 10)


def test_no_candidates_is_no_error() -> None:
    empty = CandidateGraph(
        np.zeros((0, len(NODE_FEATURES)), np.float32),
        np.zeros((0, 1), np.int16),
        np.zeros((0, 1, len(PAIR_FEATURES)), np.float32),
    )
    assert random_ranker(0).score(empty).shape == (0,)
    assert rank(empty, np.zeros(0, np.float32), 1.0, random_ranker(0)).shape == (0,)
