"""Wiring: what is wrong with settings or files is told at the start, and costs no more than it must."""

import pytest

from ruvllm.errors import InvalidConfiguration, ModelUnavailable
from ruvllm.models.pool.job import Job
from ruvllm.streams.settings import load_settings
from ruvllm.streams.wiring import Wiring
from tests.manual_clock import ManualClock

JOB = Job(prompt=(), max_tokens=1, temperature=0.0, top_p=1.0, seed=1, context_tokens=64, time_budget_s=1.0)


def wiring(home, **flags):
    given = {"home": str(home), "profile": "small", "retrieval.embedder": "hashing", **flags}
    return Wiring(load_settings(given, environ={}), ManualClock())


def sound_tiers(made, *sound):
    """Of a wiring whose other tiers' files are not there."""

    def generator(tier):
        if tier not in sound:
            raise ModelUnavailable(f"no file of {tier}")
        return tier

    made._generator = generator
    return made


async def test_a_tier_whose_model_is_not_sound_fails_its_own_jobs_only(tmp_path):
    # given three tiers of which the middle one has no file; when the pool is made
    made = wiring(tmp_path)
    small, middle, large = made.tiers
    sound_tiers(made, small, large).prepare("generate")
    # then the others are there, and a job of the middle one says what is missing
    assert made.pool.tiers == (small, middle, large)
    with pytest.raises(ModelUnavailable, match=f"no file of {middle}"):
        await made.pool.generate(middle, JOB)


def test_no_sound_model_at_all_stops_the_start(tmp_path):
    # given no model file at all; when the generate stage is prepared; then the first is named
    made = wiring(tmp_path)
    with pytest.raises(ModelUnavailable, match=made.tiers[0]):
        sound_tiers(made).prepare("generate")


def test_router_settings_are_checked_before_the_first_request(tmp_path):
    # given a default action that is none of the router's arms; when the route stage is prepared; then it is named
    made = wiring(tmp_path, **{"router.default_context_tokens": "777"})
    with pytest.raises(InvalidConfiguration, match="777"):
        made.prepare("route")
