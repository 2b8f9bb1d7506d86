"""The router learns: specification 2.2, 4.2.3 and 4.2.7, on data in which the truth is known."""

import asyncio
import dataclasses

import numpy as np
import pytest

from ruvllm.errors import InvalidRequest
from ruvllm.models.router.answer import Answer
from ruvllm.models.router.arms import Action, Arms
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.models.router.experience import Experience
from ruvllm.models.router.features import INDEX, PAST
from ruvllm.models.router.objective import Objective
from ruvllm.models.router.policy import Router
from ruvllm.models.router.reservoir import Reservoir
from ruvllm.models.router.rules import Rules
from ruvllm.streams import training as runs

torch = pytest.importorskip("torch")

from ruvllm.models.router import training  # noqa: E402
from ruvllm.models.router.calibration import expected_calibration_error  # noqa: E402
from ruvllm.models.router.elastic import Elastic  # noqa: E402
from ruvllm.models.router.fitting import estimates, fit_checkpoint  # noqa: E402
from ruvllm.models.router.run import run  # noqa: E402

TIERS = ("350m", "700m", "1.2b", "2.6b")
ARMS = Arms(TIERS, (2048,), (0.0,), (1.0,))
PRICES = (0.35, 0.7, 1.2, 2.6)
UNTRAINED = Checkpoint.initial(ARMS, 3, PRICES)
DEFAULT = Action("2.6b", 2048, 0.0, 1.0)
OBJECTIVE = Objective(cost_weight=0.2, minimum_quality=0.7)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def questions(count, seed, *, complex_=False):
    """Features of simple questions, or of complex ones: longer, with more numbers, of another subject."""
    draws = np.random.default_rng(seed)
    found = draws.normal(0.0, 0.2, (count, 128)).astype(np.float32)
    found[:, PAST] = 0.0
    for name, value in (("characters", 0.8), ("numbers", 0.7), ("projection_00", 2.0)):
        found[:, INDEX[name]] += value if complex_ else -value
    return found


def experience(features, quality_of_tier, tier=None, seed=0):
    """One answer to each, by a tier (at random if not given), as good as that tier is."""
    draws = np.random.default_rng(seed)
    n = len(features)
    taken = draws.integers(len(TIERS), size=n) if tier is None else np.full(n, TIERS.index(tier))
    quality = np.full((n, len(TIERS)), np.nan, np.float32)
    quality[np.arange(n), taken] = [quality_of_tier[TIERS[t]] for t in taken]
    unknown = np.full_like(quality, np.nan)
    return Experience(features, quality, unknown, unknown, np.zeros((n, 3), np.int64), np.arange(n))


SIMPLE = {"350m": 0.5, "700m": 0.92, "1.2b": 0.93, "2.6b": 0.94}
COMPLEX = {"350m": 0.2, "700m": 0.45, "1.2b": 0.55, "2.6b": 0.91}


def both(count=300):
    return Experience.joined(
        [experience(questions(count, 1), SIMPLE), experience(questions(count, 2, complex_=True), COMPLEX, seed=1)]
    )


def decide(checkpoint, features, threshold=0.0):
    router = Router(checkpoint, ARMS, DEFAULT, confidence_threshold=threshold, objective=OBJECTIVE)
    return router.decide(features, None, available_tiers=TIERS, seed=0)


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    return fit_checkpoint(both(), UNTRAINED, seed=1)


# --- the specification's tests (2.2) --------------------------------------------------------------


def test_router_prefers_smaller_model_when_quality_sufficient(trained):
    # Given a log in which 700M answers simple questions as well as the larger ones; when the router has learnt
    # Then questions like them go there
    chosen = [decide(trained, f).action.tier for f in questions(50, 11)]
    assert chosen.count("700m") >= 48


def test_router_escalates_for_complex_queries(trained):
    # Given a log in which only 2.6B answers complex questions; when the router has learnt; then they go there
    chosen = [decide(trained, f).action.tier for f in questions(50, 12, complex_=True)]
    assert chosen.count("2.6b") >= 48


def test_router_confidence_correlates_with_seen_patterns(trained):
    # Given questions like those that it has learnt from, and some unlike any of them
    seen = [decide(trained, f).confidence for f in (*questions(50, 13), *questions(50, 14, complex_=True))]
    novel = questions(50, 15)
    novel[:, INDEX["code_marks"]] += 3.0
    novel[:, INDEX["non_ascii"]] -= 3.0
    unseen = [decide(trained, f).confidence for f in novel]

    # Then it is surer of the former, each of them, and the others take the default
    assert min(seen) > max(unseen)
    assert all(decide(trained, f, threshold=0.5).fallback for f in novel)


def test_router_ewc_prevents_forgetting():
    # Given a router that has learnt task A, and where that hangs on
    task_a = experience(questions(200, 21), SIMPLE)
    task_b = experience(questions(200, 22, complex_=True), COMPLEX)

    def accuracy(checkpoint):
        return np.mean([decide(checkpoint, f).action.tier == "700m" for f in questions(100, 23)])

    def error_on_b(checkpoint):
        scores = estimates(checkpoint.parameters, questions(100, 25, complex_=True), np.arange(100))
        return np.abs(1 / (1 + np.exp(-scores[:, : len(TIERS)])) - list(COMPLEX.values())).mean()

    first = fit_checkpoint(task_a, UNTRAINED, seed=1)
    p = tensors(first)
    held = Elastic(p, training.fisher(p, task_a, ARMS, seed=1), strength=1000.0)

    # When it learns task B with EWC
    again = training.Schedule(epochs=6, steps=200)
    after = fit_checkpoint(task_b, first, seed=2, schedule=again, elastic=held)

    # Then task A is not forgotten, as it is without, and something of task B is learnt
    plain = fit_checkpoint(task_b, first, seed=2, schedule=again)
    assert accuracy(first) == 1.0
    assert accuracy(after) > accuracy(first) - 0.05
    assert accuracy(plain) < 0.5
    assert drift(first, after, questions(100, 24)) < 0.5 * drift(first, plain, questions(100, 24))
    assert error_on_b(after) < error_on_b(first)


def tensors(checkpoint):
    return {name: torch.tensor(getattr(checkpoint.parameters, name)) for name in training.LEARNT}


def drift(before, after, features):
    """How far the logits of the tiers have moved."""
    own = np.arange(len(features))
    a, b = (estimates(c.parameters, features, own)[:, : len(TIERS)] for c in (before, after))
    return float(np.abs(a - b).mean())


# --- the specification's tests (4.2.3) ------------------------------------------------------------


def test_gradient_computation():
    # Given sessions of three turns and the loss on them, in double precision
    features = torch.tensor(questions(6, 31), dtype=torch.float64)
    target = torch.rand(6, len(TIERS), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p = {name: value.double().requires_grad_() for name, value in tensors(UNTRAINED).items()}

    def loss(**changed):
        now = {**p, **changed}
        hidden = torch.zeros(2, 64, dtype=torch.float64)
        total = torch.zeros((), dtype=torch.float64)
        for turn in range(3):
            hidden = training.step(now, features[2 * turn : 2 * turn + 2], hidden)
            scores = training.logits(now, features[2 * turn : 2 * turn + 2], hidden)[:, : len(TIERS)]
            total = total + ((torch.sigmoid(scores) - target[2 * turn : 2 * turn + 2]) ** 2).sum()
        return total

    with torch.no_grad():
        p["heads"] += 0.1 * torch.randn(p["heads"].shape, generator=torch.Generator().manual_seed(2)).double()

    # When its gradient is computed; then it is the slope, for every parameter that it flows to
    loss().backward()
    for name in ("w", "u1", "u2", "b_z", "b_h", "zeta", "nu", "heads", "past"):
        direction = torch.randn(p[name].shape, generator=torch.Generator().manual_seed(3)).double()
        width = 1e-5
        with torch.no_grad():
            slope = (loss(**{name: p[name] + width * direction}) - loss(**{name: p[name] - width * direction})) / (
                2 * width
            )
        assert float((p[name].grad * direction).sum()) == pytest.approx(float(slope), rel=1e-4, abs=1e-7)


def test_sparse_matrix_operations(trained):
    # Given the largest entries of a matrix, and a W that was trained sparse
    matrix = torch.tensor([[0.1, -5.0], [3.0, 0.2]])
    assert training.largest(matrix, 0.5).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert training.largest(matrix, 0.01).tolist() == [[0.0, 1.0], [0.0, 0.0]]
    density = training.Schedule().density
    assert trained.parameters.density == pytest.approx(density, abs=0.01)

    # When it is multiplied entry by entry that is left; then the dense product of serving is the same
    w, x = trained.parameters.w, questions(1, 41)[0]
    rows, columns = np.nonzero(w)
    sparse = np.zeros(64)
    np.add.at(sparse, rows, w[rows, columns].astype(np.float64) * x[columns])
    np.testing.assert_allclose(w @ x, sparse, atol=1e-5)


def test_low_rank_matrix_approximation(trained):
    # Given the two factors of U; then their product has their rank, and a step with it whole is the same
    p, x, h = trained.parameters, questions(1, 42)[0], np.linspace(-1, 1, 64, dtype=np.float32)
    whole = p.u1 @ p.u2.T
    assert np.linalg.matrix_rank(whole) == 16 < 64
    assert p.u1.size + p.u2.size == whole.size // 2

    shared = p.w @ x + whole @ h
    gate = 1 / (1 + np.exp(-(shared + p.b_z)))
    zeta, nu = 1 / (1 + np.exp(-p.zeta)), 1 / (1 + np.exp(-p.nu))
    expected = (zeta * (1 - gate) + nu) * np.tanh(shared + p.b_h) + gate * h
    np.testing.assert_allclose(trained.cell.step(x, h), expected, atol=1e-5)


# --- the specification's tests (4.2.7) ------------------------------------------------------------


def test_replay_buffer_reservoir_sampling():
    # Given a reservoir of 50 that 1,000 items went by, over many seeds
    counts = np.zeros(1000)
    for seed in range(200):
        kept = Reservoir(50, seed=seed)
        for n in range(1000):
            kept.add(f"item-{n}", n)
        assert len(kept) == 50
        counts[[n for _, n in kept.items()]] += 1

    # Then each was kept as often as any other, early or late: 10 of 200, within five deviations
    assert counts.mean() == 10
    assert np.abs(counts - 10).max() < 5 * np.sqrt(10 * 0.95)
    assert abs(counts[:500].sum() - 5000) < 5 * np.sqrt(10_000 * 0.25)

    # And the order in which they came leaves no trace; the same key again replaces its item
    forth, back = Reservoir(50), Reservoir(50)
    for n in range(1000):
        forth.add(f"item-{n}", n)
        back.add(f"item-{999 - n}", 999 - n)
    assert list(forth.items()) == list(back.items())
    (key, _), *_ = forth.items()
    forth.add(key, -1)
    assert dict(forth.items())[key] == -1
    assert len(forth) == 50


def test_ewc_regularization_value():
    # Given weights, where they were, and how much each matters; then the penalty is the formula's
    held = Elastic({"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, 0.5])}, strength=0.4)
    assert float(held.penalty({"a": torch.tensor([1.0, 2.0])})) == 0.0
    moved = torch.tensor([2.0, 4.0], requires_grad=True)
    penalty = held.penalty({"a": moved})
    assert penalty.item() == pytest.approx(0.5 * 0.4 * (3.0 * 1.0 + 0.5 * 4.0))
    penalty.backward()
    assert moved.grad.tolist() == pytest.approx([0.4 * 3.0 * 1.0, 0.4 * 0.5 * 2.0])


def test_fisher_information_computation():
    # Given answers to questions; when the Fisher information is computed
    p = tensors(UNTRAINED)
    p["heads"] = p["heads"] + 0.1
    asked = experience(questions(20, 51), SIMPLE, tier="700m")
    found = training.fisher(p, asked, ARMS, seed=1)

    # Then it is the mean over answers of what each possible outcome would pull, by how likely it is, squared;
    # and 0 where nothing was told
    leaves = {name: value.clone().requires_grad_() for name, value in p.items()}
    expected = {name: torch.zeros_like(value) for name, value in p.items()}
    for row in range(20):
        features = torch.tensor(asked.features[row : row + 1])
        hidden = training.step(leaves, features, torch.zeros(1, 64))
        score = training.logits(leaves, features, hidden)[0, 1] + training.logits(leaves, features, hidden)[0, 4:].sum()
        for outcome, chance in ((1.0, torch.sigmoid(score.detach())), (0.0, torch.sigmoid(-score.detach()))):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(score, torch.tensor(outcome))
            gradients = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True)
            for name, gradient in zip(leaves, gradients, strict=True):
                if gradient is not None:
                    expected[name] += chance * gradient**2 / 20
    for name in ("w", "heads", "head_bias", "zeta"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-9)
    assert float(found["heads"][0].sum()) == 0.0
    assert all((value >= 0).all() for value in found.values())


async def test_background_training_thread():
    # Given a training run of some seconds in a process of its own; when it goes on
    task = asyncio.create_task(runs._in_child(run, answers(80), 1, None, rules()))
    ticks = 0
    while not task.done():
        started = asyncio.get_running_loop().time()
        await asyncio.sleep(0.01)
        ticks += asyncio.get_running_loop().time() - started < 0.5

    # Then others go on meanwhile, and its result is the same as if they had waited for it
    assert ticks > 20
    assert (await task).gain == run(answers(80), 1, None, rules()).gain


# --- a run and its gate ---------------------------------------------------------------------------


def rules(**changed):
    given = {"objective": OBJECTIVE, "confidence_threshold": 0.2}
    return Rules(ARMS, DEFAULT, PRICES, **given | changed)


def answers(count, quality=SIMPLE, *, epsilon=0.5, seed=0):
    """A log of the default route with exploration, each question in a session of its own."""
    draws = np.random.default_rng(seed)
    found = []
    for n, features in enumerate(questions(count, seed + 100)):
        explored = draws.random() < epsilon
        tier = TIERS[draws.integers(4)] if explored else DEFAULT.tier
        propensity = epsilon / 4 + (1 - epsilon) * (tier == DEFAULT.tier)
        found.append(
            Answer(
                session=f"s-{n}",
                features=features,
                action=dataclasses.replace(DEFAULT, tier=tier),
                permitted=ARMS,
                minimum_quality=None,
                propensity=propensity,
                explored=epsilon > 0,
                quality=float(np.clip(quality[tier] + draws.normal(0, 0.02), 0, 1)),
                latency_s=1.0,
                cost=PRICES[TIERS.index(tier)],
            )
        )
    return found


def test_what_is_worth_more_passes_the_gate_and_a_run_repeats_to_the_byte():
    # given a log in which a smaller tier is as good; when a run learns from it, twice
    log = answers(300)
    first, again = run(log, 1, None, rules()), run(log, 1, None, rules())
    # then it passes, saves what the tier's price says, and gives the same bytes
    assert first.passed
    assert first.parameters == again.parameters
    learnt = Checkpoint.unpacked(first.parameters)
    assert (learnt.id, learnt.parent) == (
        first.checkpoint,
        UNTRAINED.id if rules().seed_of_start == 3 else learnt.parent,
    )
    chosen = [rules().router(learnt).decide(f, None, available_tiers=TIERS, seed=0) for f in questions(20, 61)]
    assert sum(d.action.tier == "700m" for d in chosen) >= 18
    assert first.measures["effective_samples"] > 10


def test_what_is_worth_no_more_is_held_back():
    # given a log in which only the default tier is good; when a run learns from it; then nothing new is published
    result = run(answers(300, {"350m": 0.1, "700m": 0.1, "1.2b": 0.1, "2.6b": 0.9}), 1, None, rules())
    assert not result.passed
    assert result.parameters is None
    assert abs(result.gain) < 0.02


def test_a_log_without_exploration_or_with_few_answers_changes_nothing():
    # given such a log; when a run learns from it; then it says that it cannot know
    for log in (answers(300, epsilon=0.0), answers(30)):
        result = run(log, 1, None, rules())
        assert not result.passed
        assert result.error == float("inf")


def test_a_session_s_past_is_learnt():
    # given sessions whose second question is the same everywhere, and is hard only after a hard first one
    n = 200
    first = np.concatenate([questions(n, 71), questions(n, 72, complex_=True)])
    second = np.tile(questions(1, 73), (2 * n, 1))
    quality = np.full((4 * n, len(TIERS)), np.nan, np.float32)
    quality[0::2, 1] = 0.5
    quality[1::2, 1] = np.repeat([0.95, 0.05], n)
    features = np.empty((4 * n, 128), np.float32)
    features[0::2], features[1::2] = first, second
    unknown = np.full_like(quality, np.nan)
    told = Experience(
        features, quality, unknown, unknown, np.zeros((4 * n, 3), np.int64), np.repeat(np.arange(2 * n), 2)
    )

    # when the router has learnt; then its estimate of that question hangs on what was asked before it
    checkpoint = fit_checkpoint(told, UNTRAINED, seed=1)
    after = [checkpoint.forward(f).hidden for f in (questions(1, 74)[0], questions(1, 75, complex_=True)[0])]
    easy, hard = (checkpoint.forward(second[0], hidden).logits["tier"][1] for hidden in after)
    assert easy > 0.4
    assert hard < -0.4


def test_learning_from_nothing_is_an_error():
    nothing = experience(questions(5, 81), SIMPLE)
    blank = dataclasses.replace(nothing, quality=np.full_like(nothing.quality, np.nan))
    with pytest.raises(InvalidRequest, match="nothing to learn a route from"):
        training.train(blank, ARMS, UNTRAINED.parameters, seed=1)


def test_calibration_error_is_what_its_definition_says():
    confidence, quality = np.array([0.05, 0.95, 0.95]), np.array([0.0, 1.0, 0.0])
    assert expected_calibration_error(confidence, quality) == pytest.approx(0.05 / 3 + 0.45 * 2 / 3)
    assert expected_calibration_error(np.array([]), np.array([])) == 0.0
