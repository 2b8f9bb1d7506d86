"""The router: valid probabilities, a state along the session, and a logged propensity that is true."""

import dataclasses
import io
import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.errors import InvalidConfiguration, ModelUnavailable, UnknownTier, WrongHash
from ruvllm.models.router.arms import HEADS, Action, Arms
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.models.router.fastgrnn import Cell, Parameters
from ruvllm.models.router.features import PAST
from ruvllm.models.router.policy import Behaviour, Router, uniforms

TIERS = ("small", "middle", "large")
ARMS = Arms(TIERS)
DEFAULT = Action("middle", 2048, 0.3, 0.95)
UNTRAINED = Checkpoint.initial(ARMS, seed=7)


def some_features(seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, 128).astype(np.float32)


def with_parameters(checkpoint, **changed):
    return Checkpoint(checkpoint.arms, dataclasses.replace(checkpoint.parameters, **changed))


def confident(checkpoint, **bias):
    """A checkpoint that is sure of itself; `bias` moves one logit, as in tier_large=5."""
    head_bias = checkpoint.parameters.head_bias.copy()
    labels = [f"{head}_{choice}" for head, choices in checkpoint.arms.by_head.items() for choice in choices]
    for label, value in bias.items():
        head_bias[labels.index(label)] = value
    sure = np.array([0.0, 4.0], np.float32)
    return with_parameters(checkpoint, head_bias=head_bias, reach=np.float32(1e9), calibration=sure)


TRAINED_LIKE = with_parameters(
    UNTRAINED, heads=np.random.default_rng(9).standard_normal(UNTRAINED.parameters.heads.shape) * 0.1
)
"""Heads that read the state: an untrained router's do not."""
WANTS_LARGE = confident(UNTRAINED, tier_large=9.0, tier_middle=6.0)


def router(checkpoint=UNTRAINED, threshold=0.5, exploration=0.0, default=DEFAULT):
    return Router(checkpoint, checkpoint.arms, default, confidence_threshold=threshold, exploration=exploration)


def decide(r, features=None, hidden=None, seed=0, available_tiers=TIERS, **constraints):
    given = some_features() if features is None else features
    return r.decide(given, hidden, seed=seed, available_tiers=available_tiers, **constraints)


# --- the specification's tests (4.2.3) ------------------------------------------------------------


@pytest.mark.parametrize("exploration", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("checkpoint", [UNTRAINED, confident(UNTRAINED)], ids=["untrained", "confident"])
def test_forward_produces_valid_probabilities(checkpoint, exploration):
    # Given a router and one request
    r = router(checkpoint, exploration=exploration)

    # When it looks forward
    prediction = checkpoint.forward(some_features())

    # Then each head is a distribution over its choices
    assert list(prediction.probabilities) == list(HEADS)
    for head, probabilities in prediction.probabilities.items():
        assert len(probabilities) == len(ARMS.by_head[head])
        assert min(probabilities) >= 0
        assert math.fsum(probabilities) == pytest.approx(1.0, abs=1e-12)
    assert all(0 <= prediction.confidence(logit) <= 1 for logit in (-1e3, -1.0, 0.0, 1e3))

    # And the propensities of all joint actions sum to one, in the whole and in a part
    for permitted in (ARMS, ARMS.permitted(available_tiers=TIERS[:2], temperature=0.55)):
        behaviour = Behaviour(r.preferred(prediction, permitted).action, permitted, exploration)
        joint = {action: behaviour.probability(action) for action in permitted}
        assert len(joint) == permitted.size
        assert all(0 <= p <= 1 for p in joint.values())
        assert math.fsum(joint.values()) == pytest.approx(1.0, abs=1e-12)
        # and the logged marginals are the sums of the joint
        for head, marginal in behaviour.marginals().items():
            for choice in permitted.by_head[head]:
                summed = math.fsum(p for a, p in joint.items() if getattr(a, head) == choice)
                assert marginal[str(choice)] == pytest.approx(summed, abs=1e-12)


def test_hidden_state_updates_across_calls():
    # Given one question asked at the start of a session and after two others
    r, question = router(confident(TRAINED_LIKE)), some_features(3)
    fresh = decide(r, question)
    hidden = None
    for seed in (1, 2):
        hidden = decide(r, some_features(seed), hidden).hidden

    # When it is asked in the running session
    later = decide(r, question, hidden)

    # Then the past has changed state and scores
    assert later.hidden.shape == (64,)
    assert not np.allclose(fresh.hidden, later.hidden, atol=1e-3)
    checkpoint = r.checkpoint
    assert checkpoint.forward(question).logits != checkpoint.forward(question, hidden).logits

    # And the same input with the same state gives the same
    again = decide(r, question, hidden)
    assert np.array_equal(again.hidden, later.hidden)
    assert again.action == later.action


def test_a_sessions_past_can_change_the_route():
    # Given a head that reads one unit of the state, whose sign two different pasts set
    hidden = {sign: np.full(64, sign, dtype=np.float32) for sign in (-1.0, 1.0)}
    heads = np.zeros_like(UNTRAINED.parameters.heads)
    heads[TIERS.index("large")] = 1.0
    heads[TIERS.index("small")] = -1.0
    quiet = np.zeros(64, dtype=np.float32)
    checkpoint = confident(with_parameters(UNTRAINED, heads=heads, b_h=quiet, w=np.zeros((64, 128))))

    # Then the same question goes to different tiers
    assert decide(router(checkpoint), hidden=hidden[-1.0]).action.tier == "small"
    assert decide(router(checkpoint), hidden=hidden[1.0]).action.tier == "large"


def test_confidence_threshold_triggers_fallback():
    # Given a checkpoint whose heads want the large tier
    wants_large = confident(UNTRAINED, tier_large=5.0)
    sigmoid_of_4 = 1 / (1 + math.exp(-4))

    # When its confidence is above the threshold, its choice is taken
    sure = decide(router(wants_large, threshold=sigmoid_of_4 - 0.02))
    assert (sure.action.tier, sure.fallback) == ("large", False)

    # When it is below, the profile's default action is
    unsure = decide(router(wants_large, threshold=sigmoid_of_4 + 0.01))
    assert (unsure.action, unsure.fallback) == (DEFAULT, True)
    assert unsure.confidence == pytest.approx(sure.confidence) == pytest.approx(sigmoid_of_4, abs=0.01)
    assert unsure.probability == 1.0


def test_an_untrained_router_knows_that_it_knows_nothing():
    for seed in range(20):
        decision = decide(router(Checkpoint.initial(ARMS, seed), threshold=0.1), some_features(seed))
        assert decision.fallback
        assert decision.confidence == 0  # whatever it sees


# --- the cell -------------------------------------------------------------------------------------


def random_parameters(seed, deviation=0.3):
    random = np.random.default_rng(seed)
    shapes = {f.name: getattr(UNTRAINED.parameters, f.name).shape for f in dataclasses.fields(Parameters)}
    drawn = {
        name: np.asarray(random.standard_normal(shape) * deviation, dtype=np.float32) for name, shape in shapes.items()
    }
    return Parameters(**drawn | {"spread": np.abs(drawn["spread"]) + 0.1})


def torch_cell(torch, parameters, x, h):
    """FastGRNN as the paper writes it, in float64: the judge of the numpy form."""
    p = {f.name: torch.tensor(getattr(parameters, f.name), dtype=torch.float64) for f in dataclasses.fields(Parameters)}
    x, h = (torch.tensor(v, dtype=torch.float64) for v in (x, h))
    shared = p["w"] @ x + (p["u1"] @ p["u2"].T) @ h
    z = torch.sigmoid(shared + p["b_z"])
    candidate = torch.tanh(shared + p["b_h"])
    after = (torch.sigmoid(p["zeta"]) * (1 - z) + torch.sigmoid(p["nu"])) * candidate + z * h
    scores = p["heads"] @ after + p["head_bias"]
    scores[: len(TIERS)] += p["past"] @ x[PAST]
    return after.numpy(), scores.numpy()


def test_numpy_forward_equals_torch():
    torch = pytest.importorskip("torch")
    for seed in range(50):
        checkpoint = Checkpoint(ARMS, random_parameters(seed, deviation=0.1))
        hidden = np.zeros(64, dtype=np.float32)
        for turn in range(4):
            x = some_features(100 * seed + turn)
            expected, logits = torch_cell(torch, checkpoint.parameters, x, hidden)
            prediction = checkpoint.forward(x, hidden)
            assert np.abs(prediction.hidden - expected).max() < 1e-6
            scores = [score for head in HEADS for score in prediction.logits[head]]
            assert np.abs(np.array(scores) - logits).max() < 1e-6
            hidden = prediction.hidden


def test_the_cell_changes_neither_argument_and_bears_large_values():
    # Given a saturated cell
    cell, x, h = Cell(random_parameters(0)), some_features() * 1e4, np.ones(64, dtype=np.float32)
    before = x.copy(), h.copy()

    after = cell.step(x, h)

    assert np.isfinite(after).all()
    assert np.array_equal(x, before[0])
    assert np.array_equal(h, before[1])
    assert not np.shares_memory(after, h)


def test_a_sparse_w_reports_its_density_and_does_not_read_what_it_cut():
    # Given a W without its second half of columns, as thresholding may leave it
    w = UNTRAINED.parameters.w.copy()
    w[:, 64:] = 0
    sparse, x = with_parameters(UNTRAINED, w=w), some_features()
    other = x.copy()
    other[64:] = 0.5

    assert (UNTRAINED.parameters.density, sparse.parameters.density) == (1.0, 0.5)
    assert np.array_equal(sparse.forward(x).hidden, sparse.forward(other).hidden)
    assert not np.array_equal(UNTRAINED.forward(x).hidden, UNTRAINED.forward(other).hidden)


@pytest.mark.parametrize(
    ("features", "hidden"),
    [
        (np.zeros(127, dtype=np.float32), None),
        (np.full(128, np.nan, dtype=np.float32), None),
        (some_features(), np.zeros(32, dtype=np.float32)),
        (some_features(), np.full(64, np.inf, dtype=np.float32)),
    ],
)
def test_a_wrong_input_is_refused(features, hidden):
    with pytest.raises(InvalidConfiguration, match="finite numbers"):
        UNTRAINED.forward(features, hidden)


# --- propensities ---------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint", [UNTRAINED, confident(UNTRAINED)], ids=["fallback", "greedy"])
@pytest.mark.parametrize("exploration", [0.0, 0.2, 1.0])
def test_actions_come_as_often_as_the_log_says(checkpoint, exploration):
    # Given a constrained request with 2 x 3 x 1 x 3 permitted actions
    constraints = {"allowed_tiers": {"small", "large"}, "temperature": 0.55}
    r, n = router(checkpoint, exploration=exploration), 6000

    # When it is decided with many seeds
    decisions = [decide(r, seed=seed, **constraints) for seed in range(n)]

    # Then each action's share is the probability that was logged with it, within 4 sigma
    counted = Counter(d.action for d in decisions)
    logged = {d.action: d.probability for d in decisions}
    for action, p in logged.items():
        assert abs(counted[action] - n * p) <= 4 * math.sqrt(n * p * (1 - p)) + 1e-9
    assert len(counted) == 18 if exploration == 1.0 else len(counted) <= 18
    assert math.fsum(logged.values()) == pytest.approx(1.0, abs=5 / n)  # of what was drawn at all

    # And each head's choice comes as often as its logged marginal
    for head, marginal in decisions[0].probabilities.items():
        chosen = Counter(str(getattr(d.action, head)) for d in decisions)
        for choice, p in marginal.items():
            assert abs(chosen[choice] - n * p) <= 4 * math.sqrt(n * p * (1 - p)) + 1e-9


def test_the_joint_is_the_product_of_what_is_logged_of_each_head():
    # given a policy that explores; when an action's propensity is asked for
    behaviour = Behaviour(DEFAULT, ARMS, exploration=0.1)
    other = Action("large", 4096, 0.7, 1.0)
    marginals = behaviour.marginals()
    # then it is the product of the logged marginals, and an action that differs in the tier alone keeps the rest
    assert behaviour.probability(other) == pytest.approx(
        math.prod(marginals[head][str(getattr(other, head))] for head in HEADS)
    )
    assert marginals["tier"]["large"] == pytest.approx(0.1 / 3)
    assert marginals["context_tokens"]["2048"] == pytest.approx(0.95 + 0.05 / 3)
    assert behaviour.probability(dataclasses.replace(DEFAULT, tier="large")) > 0.03
    assert behaviour.probability(Action("none", 1024, 0.0, 1.0)) == 0.0


def test_the_seed_is_all_the_randomness_there_is():
    r = router(exploration=0.5)
    for seed in (0, 1, 2**32 - 1):
        first, again = decide(r, seed=seed), decide(r, seed=seed)
        assert (first.action, first.probability, first.seed) == (again.action, again.probability, seed)


def test_a_seed_draws_the_same_numbers_everywhere():
    assert [uniforms(s)[0] for s in (0, 1, 2**64 - 1)] == [0.09588000105164252, 0.5477768823973543, 0.42323939637186303]
    drawn = np.array([uniforms(seed) for seed in range(4000)])
    assert drawn.shape == (4000, len(HEADS))
    assert 0 <= drawn.min() <= drawn.max() < 1
    for of_head in drawn.T:
        shares = np.histogram(of_head, bins=10, range=(0, 1))[0] / 4000
        assert np.abs(shares - 0.1).max() < 4 * math.sqrt(0.1 * 0.9 / 4000)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(len(HEADS))).max() < 4 / math.sqrt(4000)  # heads explore apart


# --- constraints and availability -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "allowed", "taken"),
    [
        (TIERS, None, "middle"),  # the default
        (("small", "large"), None, "small"),  # away: the nearest smaller
        (("large",), None, "large"),  # nothing smaller: the nearest larger
        (TIERS, ("large",), "large"),
        (("large", "small", "of another profile"), ("large", "small"), "small"),
    ],
)
def test_the_fallback_obeys_constraints_and_availability(available, allowed, taken):
    decision = decide(router(), available_tiers=available, allowed_tiers=allowed)
    assert decision.action == dataclasses.replace(DEFAULT, tier=taken)


def test_the_fallback_takes_the_nearest_smaller_tier_and_the_nearest_larger_one():
    four = Arms(("xs", "s", "m", "l"))
    checkpoint = Checkpoint.initial(four, seed=0)
    top = router(checkpoint, default=Action("l", 1024, 0.0, 1.0))
    bottom = router(checkpoint, default=Action("xs", 1024, 0.0, 1.0))

    assert decide(top, available_tiers=("xs", "s")).action.tier == "s"
    assert decide(bottom, available_tiers=("l", "m")).action.tier == "m"


def test_a_confident_router_takes_the_best_of_what_is_permitted():
    r = router(WANTS_LARGE)

    assert decide(r).action.tier == "large"
    without = decide(r, available_tiers=("small", "middle"))
    assert without.action.tier == "middle"
    assert without.probabilities["tier"] == {"small": 0.0, "middle": 1.0}
    assert not without.fallback


@pytest.mark.parametrize("checkpoint", [UNTRAINED, WANTS_LARGE], ids=["fallback", "greedy"])
def test_settings_given_by_the_user_are_taken_with_probability_one(checkpoint):
    decision = decide(router(checkpoint, exploration=0.5), temperature=0.42, top_p=0.8, seed=3)

    assert (decision.action.temperature, decision.action.top_p) == (0.42, 0.8)
    assert decision.probabilities["temperature"] == {"0.42": 1.0}
    assert decision.probabilities["top_p"] == {"0.8": 1.0}


def test_no_tier_left_is_an_error_that_names_both_sides():
    with pytest.raises(UnknownTier, match=r"allowed tiers are huge; this profile has small, middle, large"):
        decide(router(), allowed_tiers=("huge",))
    with pytest.raises(ModelUnavailable, match=r"permitted tiers are large; served now are small, middle"):
        decide(router(), allowed_tiers=("large", "huge"), available_tiers=("small", "middle"))
    with pytest.raises(ModelUnavailable, match="served now are none"):
        decide(router(), available_tiers=())


@settings(max_examples=150, deadline=None)
@given(
    allowed=st.none() | st.sets(st.sampled_from([*TIERS, "unknown"]), min_size=1),
    available=st.sets(st.sampled_from([*TIERS, "unknown"])),
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0.01, 1),
    exploration=st.floats(0, 1),
    threshold=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_decision_is_valid_under_any_constraints(
    allowed, available, temperature, top_p, exploration, threshold, seed
):
    r = router(confident(UNTRAINED), threshold=threshold, exploration=exploration)
    constraints = {"allowed_tiers": allowed, "temperature": temperature, "top_p": top_p}
    left = set(TIERS) & available & (set(TIERS) if allowed is None else allowed)
    if not left:
        with pytest.raises((UnknownTier, ModelUnavailable)):
            decide(r, seed=seed, available_tiers=available, **constraints)
        return

    decision = decide(r, seed=seed, available_tiers=available, **constraints)

    assert decision.action.tier in left
    assert decision.action.temperature == temperature or temperature is None
    assert decision.action.top_p == top_p or top_p is None
    assert 0 < decision.probability <= 1
    for head, marginal in decision.probabilities.items():
        assert math.fsum(marginal.values()) == pytest.approx(1.0, abs=1e-9)
        assert all(0 <= p <= 1 for p in marginal.values())
        # a joint action cannot be likelier than a part of it
        assert decision.probability <= marginal[str(getattr(decision.action, head))] + 1e-12
    assert set(decision.probabilities["tier"]) == left


# --- arms and settings ----------------------------------------------------------------------------


def test_actions_are_numbered_in_the_order_of_iteration():
    assert [ARMS.nth(i) for i in range(ARMS.size)] == list(ARMS)
    assert len(set(ARMS)) == ARMS.size == 81
    assert all(action in ARMS for action in ARMS)
    assert dataclasses.replace(DEFAULT, top_p=0.5) not in ARMS


@pytest.mark.parametrize(
    "wrong",
    [
        {"tiers": ()},
        {"tiers": ("small", "small")},
        {"context_tokens": (2048, 1024)},
        {"context_tokens": (0,)},
        {"temperatures": ()},
        {"temperatures": (0.0, 2.5)},
        {"top_ps": (0.0, 1.0)},
        {"top_ps": (1, 1.0)},
        {"top_ps": (math.nan,)},
    ],
)
def test_arms_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InvalidConfiguration):
        Arms(**({"tiers": TIERS} | wrong))


def test_a_router_refuses_settings_that_do_not_fit():
    with pytest.raises(InvalidConfiguration, match="default action"):
        router(default=dataclasses.replace(DEFAULT, context_tokens=512))
    with pytest.raises(InvalidConfiguration, match="confidence_threshold"):
        router(threshold=1.5)
    with pytest.raises(InvalidConfiguration, match="exploration"):
        router(exploration=math.nan)
    with pytest.raises(InvalidConfiguration, match="made for"):
        Router(UNTRAINED, Arms(("small",)), DEFAULT, confidence_threshold=0.5)


# --- checkpoints ----------------------------------------------------------------------------------


def test_packed_and_unpacked_it_predicts_the_same():
    # Given a checkpoint with a parent
    saved = Checkpoint(ARMS, random_parameters(1), parent=UNTRAINED.id)

    loaded = Checkpoint.unpacked(saved.packed())

    assert loaded == saved
    assert saved.packed() == loaded.packed()
    assert (loaded.id, loaded.arms, loaded.parent) == (saved.id, ARMS, UNTRAINED.id)
    hidden = some_features(5)[:64]
    ours, theirs = saved.forward(some_features(), hidden), loaded.forward(some_features(), hidden)
    assert np.array_equal(ours.hidden, theirs.hidden)
    assert (ours.logits, ours.latency_s, ours.familiarity) == (theirs.logits, theirs.latency_s, theirs.familiarity)


def test_the_id_names_the_content():
    assert UNTRAINED.id == Checkpoint.initial(ARMS, seed=7).id
    w = UNTRAINED.parameters.w.copy()
    w[0, 0] = np.nextafter(w[0, 0], np.float32(1))
    others = [
        Checkpoint.initial(ARMS, seed=8),
        with_parameters(UNTRAINED, w=w),
        Checkpoint(ARMS, UNTRAINED.parameters, parent="router-of-before"),
        Checkpoint(Arms(TIERS, temperatures=(0.0, 0.3, 0.8)), UNTRAINED.parameters),
    ]
    assert len({UNTRAINED, *others}) == 5


def test_the_id_is_the_same_on_every_machine():
    # Given parameters that no generator had a part in
    ramp = {
        f.name: np.arange(1, getattr(UNTRAINED.parameters, f.name).size + 1, dtype=">f8").reshape(
            getattr(UNTRAINED.parameters, f.name).shape
        )
        for f in dataclasses.fields(Parameters)
    }
    assert Checkpoint(ARMS, Parameters(**ramp)).id == "router-7da4dd85db45885dff1867d0"


def test_weights_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="read-only"):
        UNTRAINED.parameters.w[0, 0] = 1
    source = random_parameters(2)
    checkpoint = Checkpoint(ARMS, source)
    source.w[:] = 0
    assert checkpoint.parameters.w.any()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"w": np.zeros((64, 127))}, r"`w` has shape \(64, 127\), these arms need \(64, 128\)"),
        ({"heads": np.zeros((13, 64))}, r"`heads` has shape \(13, 64\)"),
        ({"spread": np.zeros(128)}, "`spread` holds a value that is not above 0"),
        ({"zeta": np.zeros(1)}, r"`zeta` has shape \(1,\)"),
        ({"b_h": np.full(64, np.nan)}, "`b_h` holds a value that is not finite"),
    ],
)
def test_wrong_parameters_are_refused(changed, said):
    with pytest.raises(ModelUnavailable, match=said):
        with_parameters(UNTRAINED, **changed)


def rewritten(raw, **changed):
    """The bytes with some entries replaced, as a fault or another version would leave them."""
    with np.load(io.BytesIO(raw)) as file:
        entries = {name: file[name] for name in file.files}
    header = json.loads(entries["header"].tobytes()) | changed.pop("header", {})
    entries["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    entries |= changed
    out = io.BytesIO()
    np.savez(out, **{name: value for name, value in entries.items() if value is not None})
    return out.getvalue()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"header": {"features_version": 99}}, "features version 99"),
        ({"header": {"format": 1}}, "checkpoint format 1"),
        ({"header": {"arms": {"tiers": ["one"]}}}, r"these arms need \(10, 64\)"),
        ({"header": {"arms": {"planets": ["one"]}}}, "not a router checkpoint"),
        ({"header": {"arms": {"tiers": []}}}, "not a router checkpoint"),
        ({"u1": np.zeros((64, 8), dtype=np.float32)}, r"`u1` has shape \(64, 8\)"),
        ({"u2": None}, "not a router checkpoint"),
        ({"w": np.array([[{}]], dtype=object)}, "not a router checkpoint"),  # would need pickle
    ],
)
def test_one_of_another_form_is_refused(changed, said):
    with pytest.raises(ModelUnavailable, match=said):
        Checkpoint.unpacked(rewritten(UNTRAINED.packed(), **changed))


def test_one_whose_content_was_changed_is_never_loaded():
    changed = rewritten(UNTRAINED.packed(), b_z=np.zeros(64, dtype=np.float32))
    with pytest.raises(WrongHash, match=UNTRAINED.id):
        Checkpoint.unpacked(changed)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off", UNTRAINED.packed()[:-100]])
def test_what_is_none_of_ours_is_refused(content):
    with pytest.raises(ModelUnavailable, match="not a router checkpoint"):
        Checkpoint.unpacked(content)
