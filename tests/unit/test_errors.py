"""Errors are an interface: every one has a code that is its own for ever, a message and a way on."""

import pytest

from ruvllm.errors import PromptTooLong, RuvllmError, SessionQueueFull, error_codes
from ruvllm.schemas.request import Fault
from tests.unit.sample_events import RESPONSE

CODES = {
    *("broker_unavailable", "deadline_exceeded", "deadline_passed", "empty_prompt", "internal_error"),
    *("invalid_configuration", "invalid_document", "invalid_request", "missing_requirement", "model_crashed"),
    *("model_unavailable", "prompt_too_long", "reply_to_not_allowed", "session_queue_full"),
    *("tenant_not_allowed", "topic_mismatch", "undecodable", "unknown_tier", "unsupported_version", "wrong_hash"),
}


def classes(root=RuvllmError):
    return [root, *(found for cls in root.__subclasses__() for found in classes(cls))]


def test_every_error_has_a_code_of_its_own():
    # given the whole tree; when its codes are gathered; then none is used twice
    assert len(error_codes()) == len(classes())


def test_no_code_is_renamed_or_lost():
    # given the codes that clients may know; when looked up; then all are there
    assert set(error_codes()) >= CODES


@pytest.mark.parametrize("cls", classes(), ids=lambda c: c.code)
def test_every_error_says_what_happened_and_what_to_do(cls):
    # given any error; when shown; then message, code and hint are in it, and a better hint takes the default's place
    assert str(cls("seven is odd")) == f"seven is odd [{cls.code}] {cls.default_hint}"
    assert cls("x", hint="Try eight.").hint == "Try eight."
    assert cls.default_hint.endswith((".", "!"))


def test_an_error_of_a_response_can_be_raised_as_its_own_class():
    # given responses with an error, with one that this version does not know, and with none
    def failing(code):
        return RESPONSE.model_copy(update={"error": Fault(code=code, message="too long", hint="Cut.", stage="intake")})

    # when raised; then the class follows from the code
    with pytest.raises(PromptTooLong, match="too long") as caught:
        failing("prompt_too_long").raise_for_error()
    assert caught.value.hint == "Cut."
    with pytest.raises(RuvllmError) as caught:
        failing("from_the_future").raise_for_error()
    assert type(caught.value) is RuvllmError
    sound = RESPONSE.model_copy(update={"error": None})
    assert sound.raise_for_error() is sound
    assert sound.ok and not failing("undecodable").ok


def test_what_may_succeed_later_says_so():
    # given an error of the moment, and one of the request; when asked; then the former may be tried again
    assert SessionQueueFull.retryable and not PromptTooLong.retryable
