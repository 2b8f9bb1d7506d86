"""`ruvllm whatif` over a whole flow: what the log has of each tier, who is left out, and the refusal."""

import asyncio

import orjson
import pytest

from ruvllm.schemas.request import Ask, Rate
from ruvllm.streams.history.ranges import Range
from ruvllm.streams.history.source import SerialSource
from ruvllm.streams.history.supposing import logged_answers
from tests.serial.conftest import FLAGS
from tests.serial.test_explain import retract, run

COUNT = 90
QUALITY = {"small": 0.2, "middle": 0.6, "large": 0.9}
SETTINGS = {"profile": "small", "learning.costly_judge": "false", "router.exploration": "0.9"}


async def asked(system, count, tenant="default"):
    """Questions, each rated by what `QUALITY` says of the place of the tier that answered."""
    scores = dict(zip(system.wiring.tiers, QUALITY.values(), strict=True))
    found = []
    for n in range(count):
        ask = Ask(
            time=system.clock.now(), tenant=tenant, prompt=f"What of lamp {n}?", constraints={"grounding": "open"}
        )
        await system.send(ask)
        await system.run()
        response = system.responses(ask.request_id)[-1]
        rating = Rate(tenant=tenant, request_id=ask.request_id, score=scores[response.tier])
        await system.send(rating)
        found.append(response)
    await system.run()
    return found


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log of explored answers of one tenant, unexplored ones of another, one that was retracted; and its tiers."""
    from ruvllm.streams.serial import SerialSystem
    from ruvllm.streams.settings import load_settings
    from tests.manual_clock import ManualClock

    home = tmp_path_factory.mktemp("whatif")
    given = {**FLAGS, **SETTINGS, "home": str(home), "router.unexplored_tenants": '["harbour"]'}

    async def make():
        async with SerialSystem(
            load_settings(given, environ={}), file=home / "log.jsonl", clock=ManualClock()
        ) as system:
            answers = await asked(system, COUNT)
            await asked(system, 3, tenant="harbour")
            await retract(system, answers[0], "a test")
            return system.wiring.tiers, system.wiring, [a.tier for a in answers[1:]]

    tiers, wiring, taken = asyncio.run(make())
    return home / "log.jsonl", tiers, wiring, taken


def whatif(log, monkeypatch, capsys, *words):
    flags = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    return run(monkeypatch, capsys, *flags, "whatif", *words, "--serial-log", log[0])


def test_what_was_retracted_or_not_explored_is_left_out_and_counted(log):
    # given such a log; when it is read; then the others are there, and those left out are counted by why
    file, _, wiring, _ = log
    stretch = asyncio.run(logged_answers(SerialSource(file, wiring.names), Range(), wiring))
    assert len(stretch.answers) == COUNT - 1
    assert {why: count for why, count in stretch.left_out.items() if count} == {"retracted": 1, "unexplored": 3}
    # and a stretch of the log holds its own interactions only
    part = asyncio.run(logged_answers(SerialSource(file, wiring.names), Range({0: 10}, {0: 30}), wiring))
    assert len(part.answers) == 20


def test_a_tier_for_every_request_is_worth_what_its_ratings_say(log, monkeypatch, capsys):
    # given answers rated by their tier alone; when the middle tier is tried for all
    _, tiers, _, taken = log
    status, out, err = whatif(log, monkeypatch, capsys, "--always", tiers[1], "--exploration", "0.9", "--json")
    assert status == 0, out + err
    found = orjson.loads(out)
    # then the logged figure is the ratings' mean, and the estimate is that of a policy that takes it mostly
    scores = dict(zip(tiers, QUALITY.values(), strict=True))
    assert found["quality"]["logged"] == pytest.approx(sum(scores[t] for t in taken) / len(taken))
    mostly = sum(scores[t] * (0.1 + 0.3 if t == tiers[1] else 0.3) for t in tiers)
    low, high = found["quality"]["ci95"]
    assert low <= mostly <= high
    assert (found["supported"], found["answers"], found["policy"]["always"]) == (True, COUNT - 1, tiers[1])
    assert set(found["difference"]) == {"reward", "ci95"}
    # and people read the same
    _, out, _ = whatif(log, monkeypatch, capsys, "--cost-weight", "0.2", "--exploration", "0.9")
    assert "1 retracted, 3 unexplored" in out
    assert "95 % interval" in out


def test_what_the_log_cannot_support_is_refused_with_exit_status_1(log, monkeypatch, capsys):
    # given a policy that the log hardly ever took; when it is tried; then there is no figure, and a way out
    tiers = log[1]
    status, out, _ = whatif(log, monkeypatch, capsys, "--always", tiers[0], "--json")
    found = orjson.loads(out)
    assert (status, found["supported"], "quality" in found) == (1, False, False)
    assert found["ess"] < found["least_ess"]
    assert "effective sample size" in found["why"]
    assert "explored answers" in found["hint"]
    status, out, _ = whatif(log, monkeypatch, capsys, "--always", tiers[0])
    assert (status, "not supported" in out) == (1, True)
    # and so is a stretch in which nothing was explored
    places = ("--from", f"0:{COUNT}", "--to", f"0:{COUNT + 3}")
    status, out, _ = whatif(log, monkeypatch, capsys, "--always", tiers[0], *places)
    assert (status, "router.exploration" in out) == (1, True)
    # and a tier that is none, or no policy at all, is an error
    assert whatif(log, monkeypatch, capsys, "--always", "900b")[0] == 2
    assert whatif(log, monkeypatch, capsys)[0] == 2
