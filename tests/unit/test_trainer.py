"""Who trains, and when: the leader, once enough has been judged since the last run."""

import asyncio

import pytest

from ruvllm.agents.lessons import AttentionCourse
from ruvllm.agents.rankers import Rankers
from ruvllm.errors import MissingRequirement
from ruvllm.schemas.training import TrainingRecorded, Verdict
from ruvllm.streams import trainer
from ruvllm.streams.trainer import Learning, Trainer
from tests.manual_clock import START, ManualClock


class Here:
    """A sender's names, as far as the trainer looks at them."""

    @property
    def names(self):
        return self

    def topic(self, name):
        return name


def run_over(ends):
    return TrainingRecorded(
        time=START,
        learner="attention",
        run_id="r",
        offsets={"candidates.credited": ends},
        seed=1,
        examples=0,
        verdict=Verdict(passed=False, gain=0.0, questions=0),
        seconds=0.0,
    )


async def trained(monkeypatch, *, leader=True, ends, last_run=None, fails=None):
    """How often it trains within a few looks at a log that ends there."""
    runs = []

    async def end_offsets(bootstrap, topic):
        return ends

    async def train_and_publish(*_, **__):
        runs.append(1)
        if fails:
            raise fails

    monkeypatch.setattr(trainer, "end_offsets", end_offsets)
    monkeypatch.setattr(trainer, "train_and_publish", train_and_publish)
    rankers = Rankers()
    if last_run is not None:
        rankers.apply(last_run)
    learning = Learning(AttentionCourse, rankers)
    here = Trainer("", Here(), ManualClock(), learning, is_leader=lambda: leader, every_s=0.01, after=100)
    await here.start()
    await asyncio.sleep(0.1)
    await here.stop()
    return len(runs)


@pytest.mark.parametrize(
    ("ends", "last_run", "trains"),
    [
        ({0: 60, 1: 40}, None, True),
        ({0: 60, 1: 39}, None, False),
        ({0: 160, 1: 40}, run_over({"0": 90, "1": 10}), True),
        ({0: 160, 1: 40}, run_over({"0": 160, "1": 30}), False),
    ],
)
async def test_it_trains_when_enough_is_new_since_the_last_run(monkeypatch, ends, last_run, trains):
    # given a log that ends there, and the last run; when it looks; then it trains if a hundred records are new
    assert bool(await trained(monkeypatch, ends=ends, last_run=last_run)) == trains


async def test_who_does_not_lead_does_not_train(monkeypatch):
    # given another leader; when enough is new; then nothing happens here
    assert await trained(monkeypatch, leader=False, ends={0: 1000}) == 0


async def test_a_failed_run_is_tried_again_and_a_missing_library_is_not(monkeypatch):
    # given runs that fail; when it looks on; then it tries again, unless torch is not there
    assert await trained(monkeypatch, ends={0: 1000}, fails=RuntimeError("the child died")) > 1
    assert await trained(monkeypatch, ends={0: 1000}, fails=MissingRequirement("no torch", hint="Install it.")) == 1
