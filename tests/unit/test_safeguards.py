"""Safeguards come off for the fault harness alone."""

import pytest

from ruvllm.streams import safeguards
from ruvllm.streams.ledger import Ledger
from ruvllm.streams.safeguards import SAFEGUARDS, VARIABLE, is_off, permit, take_off


@pytest.fixture(autouse=True)
def all_on(tmp_path):
    yield
    take_off({}, tmp_path)


@pytest.mark.parametrize("name", SAFEGUARDS)
def test_a_safeguard_comes_off_in_a_home_of_the_harness(name, tmp_path):
    # given a home that the harness has marked; when a worker is told to do without one; then it does
    permit(tmp_path)
    take_off({VARIABLE: name}, tmp_path)
    assert [is_off(s) for s in SAFEGUARDS] == [s == name for s in SAFEGUARDS]


def test_the_variable_alone_is_refused_and_told(tmp_path, capsys):
    # given any other home; when a worker is told to do without; then all stay on, and it says so
    take_off({VARIABLE: "fence,ledger"}, tmp_path)
    assert not any(is_off(s) for s in SAFEGUARDS)
    said = capsys.readouterr()
    assert "safeguards_stay_on" in said.out + said.err


def test_what_is_no_safeguard_is_refused(tmp_path):
    # given the harness's home; when told to do without something else; then nothing is off
    permit(tmp_path)
    take_off({VARIABLE: "fence,seatbelt"}, tmp_path)
    assert not any(is_off(s) for s in SAFEGUARDS)


def test_without_the_ledger_what_was_delivered_is_committed(tmp_path):
    # given a ledger with two deliveries, none done; when asked what to commit; then nothing, and all without it
    ledger = Ledger()
    ledger.delivered(4)
    ledger.delivered(6)
    assert ledger.position() is None
    permit(tmp_path)
    take_off({VARIABLE: "ledger"}, tmp_path)
    assert ledger.position() == 7


def test_nothing_is_off_where_nothing_is_said():
    # given this process; when asked; then all are on
    assert not any(is_off(s) for s in SAFEGUARDS) and not safeguards._off
