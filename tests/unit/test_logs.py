"""Logs: one JSON object a line, and a library in distress does not flood them."""

import json
import logging
import sys

import pytest

from ruvllm.streams.logs import JsonLine, OncePer


def line(message="the broker %s is away", *args, name="aiokafka.client", exc_info=None):
    return logging.LogRecord(name, logging.WARNING, __file__, 1, message, args, exc_info)


def test_a_line_that_comes_again_is_left_out_for_a_while():
    # given a filter of an hour; when the same line comes three times, with other values in it
    once = OncePer(3600)
    # then the first passes
    assert [once.filter(line("the broker %s is away", n)) for n in range(3)] == [True, False, False]


def test_other_lines_and_other_loggers_pass():
    # given a line that has passed; when another line, or the same of another library, comes; then it passes
    once = OncePer(3600)
    assert once.filter(line())
    assert once.filter(line("the broker is back"))
    assert once.filter(line(name="faust"))


def test_after_the_period_a_line_passes_again():
    # given a filter whose period is over at once; when a line comes twice; then both pass
    once = OncePer(0)
    assert [once.filter(line()), once.filter(line())] == [True, True]


@pytest.mark.parametrize("text", ["plain", 'with "quotes"', "two\nlines", "back\\slash", "灯 \x00"])
def test_a_librarys_line_is_one_json_object(text):
    # given a message with whatever breaks quoting; when formatted; then it is one line of JSON that holds it
    formatted = JsonLine().format(line(text))
    assert "\n" not in formatted
    assert json.loads(formatted) == {"level": "warning", "logger": "aiokafka.client", "event": text}


def test_an_exception_stays_in_its_line():
    # given a message with an exception; when formatted; then its trace is in the same object
    try:
        raise ConnectionError("refused")
    except ConnectionError:
        formatted = JsonLine().format(line("no luck", exc_info=sys.exc_info()))
    assert "ConnectionError: refused" in json.loads(formatted)["exception"]
