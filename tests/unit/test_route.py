"""Route: the same request takes the same route, and a decision is written down with all that it followed from."""

import numpy as np
import pytest

from ruvllm.agents.route import route
from ruvllm.errors import ModelUnavailable, UnknownTier
from ruvllm.models.router.arms import Action, Arms
from ruvllm.models.router.checkpoint import Checkpoint
from ruvllm.models.router.features import FEATURES_VERSION
from ruvllm.models.router.policy import Router
from ruvllm.schemas.flow import Retrieval, Retrieved, RouterState
from ruvllm.schemas.request import Constraints
from tests.manual_clock import ManualClock
from tests.unit.sample_events import IN_FLIGHT

TIERS = ("135m", "500m")
ARMS = Arms(TIERS)
VECTOR = np.eye(1, 384, dtype=np.float32)[0]


def router(**facts):
    default = Action("135m", 2048, 0.0, 0.95)
    given = {"confidence_threshold": 0.5, "exploration": 0.5, **facts}
    return Router(Checkpoint.initial(ARMS, 1), ARMS, default, **given)


def retrieved(state=None, interaction="ix-1", **constraints):
    request = IN_FLIGHT["request"].model_copy(update={"constraints": Constraints(**constraints)})
    fields = {**IN_FLIGHT, "router_state": state, "interaction_id": interaction, "request": request}
    return Retrieved(**fields, retrieval=Retrieval(query_vector=VECTOR, embedder="test"))


async def decide(event, tiers=TIERS, **facts):
    return (await route(event, router(**facts), tiers, ManualClock())).route


async def test_a_redelivered_request_takes_the_same_route():
    # given an exploring router; when a request comes twice; then both take one route
    first, again = await decide(retrieved()), await decide(retrieved())
    assert first.model_dump() == again.model_dump()


async def test_other_requests_draw_otherwise():
    # given an exploring router; when many requests come; then they do not all take one route
    routes = [await decide(retrieved(interaction=f"ix-{n}")) for n in range(30)]
    assert len({(r.tier, r.context_tokens, r.temperature, r.top_p) for r in routes}) > 3
    assert len({r.seed for r in routes}) == 30


async def test_the_hidden_state_of_another_checkpoint_is_made_anew_from_the_session():
    # given a session of two turns under this checkpoint, and the same under another one
    turns = [(await decide(retrieved(interaction=f"turn-{n}"))).features for n in range(2)]
    checkpoint = router().checkpoint

    def state(**fields):
        given = {"hidden": checkpoint.after(turns), "features": tuple(turns), "features_version": FEATURES_VERSION}
        return RouterState(tier="135m", confidence=0.5, finish_reason="stop", **given | fields)

    mine = await decide(retrieved(state(checkpoint=checkpoint.id)))
    foreign = np.full(64, 0.5, np.float32)
    # when decided; then the state is as if this checkpoint had seen the turns
    other = await decide(retrieved(state(checkpoint="of-last-year", hidden=foreign)))
    assert other.hidden.tobytes() == mine.hidden.tobytes()
    # and where they cannot be read, or are of other features, the session starts anew
    for unknown in ({"features": ()}, {"features_version": FEATURES_VERSION - 1}):
        fresh = await decide(retrieved(state(checkpoint="of-last-year", hidden=foreign, **unknown)))
        assert fresh.hidden.tobytes() == checkpoint.after([fresh.features]).tobytes() != mine.hidden.tobytes()


async def test_constraints_narrow_the_route_and_its_probability():
    # given a user's own temperature and tier; when decided; then they are taken, with certainty
    chosen = await decide(retrieved(temperature=1.25, top_p=0.5, allowed_tiers=("500m",)))
    assert (chosen.temperature, chosen.top_p, chosen.tier) == (1.25, 0.5, "500m")
    assert chosen.arms["tier"] == {"500m": 1.0}
    assert chosen.probability >= 0.5 / len(ARMS.context_tokens)
    assert chosen.available_tiers == TIERS


async def test_a_tier_that_is_not_there_is_an_error():
    # given a permitted tier that nobody serves, and one that does not exist; when decided; then it is said which
    with pytest.raises(ModelUnavailable, match="500m"):
        await decide(retrieved(allowed_tiers=("500m",)), tiers=("135m",))
    with pytest.raises(UnknownTier, match="7b"):
        await decide(retrieved(allowed_tiers=("7b",)))


async def test_below_the_threshold_the_default_is_taken_and_says_so():
    # given a router that is never sure enough, and one that always is; when decided; then the former falls back
    unsure = await decide(retrieved(), confidence_threshold=1.0, exploration=0.0)
    assert (unsure.fallback, unsure.tier, unsure.context_tokens, unsure.probability) == (True, "135m", 2048, 1.0)
    assert not (await decide(retrieved(), confidence_threshold=0.0)).fallback
