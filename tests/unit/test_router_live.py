"""`eval router-live`: what is asked, and what is counted of it. The run itself needs Kafka."""

import json

import pytest

from ruvllm.errors import InvalidConfiguration
from ruvllm.streams.proof.corpus import demo_folder, load_questions
from ruvllm.streams.proof.router_live import _asked, _window
from tests.unit.sample_events import ROUTE

QUESTIONS = load_questions(demo_folder())


def recorded(folder, said):
    file = folder / "answers.json"
    rows = [
        {"tier": tier, "grounding": "memory", "question": question, "answer": "x"}
        for tier, questions in said.items()
        for question in questions
    ]
    file.write_text(json.dumps({"answers": rows}))
    return (file,)


def test_only_what_every_tier_has_answered_is_asked_and_a_seed_gives_the_same(tmp_path):
    # given recordings of all tiers that share two wordings of one question, and no others
    first, second = QUESTIONS[0], QUESTIONS[1]
    shared = [first.question, first.paraphrases[0]]
    files = recorded(tmp_path, {"135m": [*shared, second.question], "500m": shared, "1500m": shared})
    # when requests are drawn; then they are those, with the question that knows the right answer
    drawn = _asked(files, 40, seed=1)
    assert {text for text, _ in drawn} == set(shared)
    assert {question.id for _, question in drawn} == {first.id}
    assert drawn == _asked(files, 40, seed=1) != _asked(files, 40, seed=2)


def test_without_a_question_that_all_have_answered_it_says_what_to_do(tmp_path):
    asked = [QUESTIONS[0].question]
    for said in ({"135m": asked, "500m": asked}, dict.fromkeys(("135m", "500m", "1500m"), ("Who?",)), {}):
        with pytest.raises(InvalidConfiguration, match="no question of the packaged corpus") as raised:
            _asked(recorded(tmp_path, said), 10, 1)
        assert "--recorded" in raised.value.hint


def test_a_window_counts_what_was_taken_and_what_would_have_been_without_exploring():
    # given three requests that the router would send to the small tier, one of them explored with the large one
    arms = {"tier": {"small": 0.8, "large": 0.2}}
    small = ROUTE.model_copy(update={"tier": "small", "arms": arms, "fallback": False})
    large = small.model_copy(update={"tier": "large"})
    found = _window([(small, True), (small, False), (large, True)], {"small": 1.0, "large": 4.0})
    assert found == {
        "requests": 3,
        "right": 0.6667,
        "price": 2.0,
        "share": {"small": 0.6667, "large": 0.3333},
        "decided": {"small": 1.0, "large": 0.0},
        "by_default": 0.0,
    }
