"""Health: who works, who waits for work, and who is stuck, by a clock that the test moves."""

import pytest

from ruvllm.streams.health import STUCK_AFTER_S, Health
from ruvllm.streams.metrics import Metrics
from ruvllm.streams.topology import stage


class App:
    """A stage's app as health sees it: a spare one, until told otherwise."""

    stage = stage("route")

    def __init__(self):
        self.joined, self.failed = True, False
        self.open = 0

    def partitions(self):
        return set()

    def open_deliveries(self):
        return self.open

    def lag(self):
        return 0


class Seconds:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def seconds():
    return Seconds()


@pytest.fixture
def app():
    return App()


@pytest.fixture
def health(app, seconds):
    return Health("answer", Metrics(), [(app, None)], {}, seconds=seconds)


def after(health, seconds, passed):
    seconds.now += passed
    report = health.report()
    return report["ready"], report["healthy"]


def test_a_spare_worker_is_well(health, seconds):
    # given a worker that was told that nothing is its own; when a day passes; then it is ready and healthy
    assert after(health, seconds, 1) == (True, True)
    assert after(health, seconds, 86_400) == (True, True)


def test_a_worker_that_nobody_tells_what_is_its_own_is_not(health, seconds, app):
    # given a worker that never joined its group; when time passes; then it is not ready, and at last not healthy
    app.joined = False
    assert after(health, seconds, STUCK_AFTER_S) == (False, True)
    assert after(health, seconds, 1) == (False, False)


def test_a_rebalance_may_take_as_long_as_the_longest_handler(health, seconds, app):
    # given a worker that has worked for long; when it is in a rebalance; then it has the same time again
    after(health, seconds, 5_000)
    app.joined = False
    assert after(health, seconds, STUCK_AFTER_S) == (False, True)
    assert after(health, seconds, 1) == (False, False)


def test_a_worker_that_gets_nothing_done_is_stuck(health, seconds, app):
    # given deliveries that are never done; when time passes; then the process is to be replaced
    app.open = 3
    assert after(health, seconds, 1) == (True, True)
    assert after(health, seconds, STUCK_AFTER_S + 1) == (True, False)


def test_a_crashed_app_is_told_at_once(health, seconds, app):
    # given an app that has crashed; when asked; then the process is not healthy
    app.failed = True
    assert after(health, seconds, 0) == (True, False)
