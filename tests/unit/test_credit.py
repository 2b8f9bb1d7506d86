"""Who deserves the credit for an answer, by what is known of it."""

import pytest

from ruvllm.models.attention.credit import LEADS_SHARE, by_accepted_answer, by_quality, by_verdicts
from ruvllm.models.memory.lexicon import Lexicon


@pytest.fixture
def lexicon():
    made = Lexicon()
    made.add("mill", "Mill of Dorr", "The mill of Dorr presses oil. Its miller is Ada Quill.")
    made.add("oil", "Lamp Oil", "The lamp oil of Vellen comes from the Mill of Dorr.")
    made.add("goat", "Brim", "The goat Brim belongs to the harbour master.")
    made.add("inn", "Tin Heron", "Ada Quill sang in the inn.")
    return made


def test_a_candidate_that_holds_the_answer_has_credit_the_more_the_higher_it_stands(lexicon):
    # given candidates of which two hold the answer; when it is known; then both have credit, the first the most
    credit = by_accepted_answer(["mill", "goat", "inn"], ["Ada Quill"], lexicon)
    assert credit[0] == 1.0
    assert 0 < credit[2] < 1
    assert credit[1] == 0


def test_what_names_a_carrier_has_a_share(lexicon):
    # given a passage that names the one with the answer; when credited; then it has a share: it may be the way there
    credit = by_accepted_answer(["mill", "oil", "goat"], ["Ada Quill"], lexicon)
    assert credit[1] == pytest.approx(LEADS_SHARE * 0.9048, abs=1e-3)
    assert credit[2] == 0


def test_yes_and_no_say_nothing(lexicon):
    # given an answer whose words stand anywhere; when credited; then nobody has any
    assert not by_accepted_answer(["mill", "oil"], ["yes", "No."], lexicon).any()
    assert not by_accepted_answer([], ["Ada Quill"], lexicon).any()


def test_a_verdict_credits_what_was_served_and_right():
    # given verdicts; when credited; then what was right and not served has none
    assert by_verdicts(["a", "b", "c"], ["a", "b"], {"b", "c"}).tolist() == [0, 1, 0]


def test_one_number_is_shared_by_all_that_was_served_unless_it_is_bad():
    # given a good answer and a bad one; when only that is known; then the first served has the most, or nobody any
    good = by_quality(["a", "b", "c"], ["b", "a"], 0.9)
    assert good[1] == pytest.approx(0.9)
    assert good[1] > good[0] > good[2] == 0
    assert not by_quality(["a", "b"], ["a"], 0.4).any()
