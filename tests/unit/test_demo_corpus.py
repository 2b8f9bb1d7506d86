"""The packaged demo corpus keeps its form: passages, questions and answers fit together."""

import json
import re
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "ruvllm/data/demo"


def read_jsonl(name):
    return [json.loads(line) for line in (DEMO / name).read_text(encoding="utf-8").splitlines()]


def read_passages():
    passages = {}
    for path in sorted((DEMO / "corpus").glob("*.md")):
        title, *sections = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.M)
        assert re.fullmatch(r"# [^\n]+\n\s*", title), f"{path.name}: one '# Title', then sections"
        for section in sections:
            heading, text = section.split("\n", 1)
            key = (path.name, heading.strip())
            assert key not in passages, f"section named twice: {key}"
            passages[key] = text.strip()
    return passages


@pytest.fixture(scope="module")
def passages():
    return read_passages()


@pytest.fixture(scope="module")
def questions():
    return read_jsonl("questions.jsonl")


def named(question):
    return [(p["file"], p["section"]) for p in question["passages"]]


def holds(text, answers):
    """True when an answer stands in the text as whole words, in any case."""
    return any(re.search(rf"(?<!\w){re.escape(a)}(?!\w)", text, re.I) for a in answers)


def test_corpus_has_enough_passages_of_the_agreed_length(passages):
    # given the corpus; when its passages are counted and measured
    lengths = {key: len(text.split()) for key, text in passages.items()}
    # then there are at least 60 and none is too short or too long
    assert len(passages) >= 60
    assert {key: n for key, n in lengths.items() if not 40 <= n <= 110} == {}


def test_forty_questions_with_two_distinct_paraphrases(questions):
    # given the questions; when their wordings are gathered
    wordings = [w for q in questions for w in (q["question"], *q["paraphrases"])]
    # then there are forty, each with two paraphrases, and no wording comes twice
    assert len(questions) == 40
    assert [q["id"] for q in questions if len(q["paraphrases"]) != 2] == []
    assert len(set(wordings)) == 120


def test_ids_are_unique(questions):
    # given all questions, answerable or not; when their ids are gathered
    unanswerable = read_jsonl("unanswerable.jsonl")
    ids = [q["id"] for q in questions + unanswerable]
    # then no id is used twice
    assert len(unanswerable) == 12
    assert len(set(ids)) == len(ids) == 52


def test_every_named_passage_exists(questions, passages):
    # given the passages named by the questions; when looked up; then each exists
    assert [(q["id"], key) for q in questions for key in named(q) if key not in passages] == []


def test_the_answer_stands_in_the_last_named_passage(questions, passages):
    # given each question; when the last passage it names is searched; then it holds the answer
    missing = [q["id"] for q in questions if not holds(passages[named(q)[-1]], q["answers"])]
    assert missing == []


def test_one_hop_questions_name_one_passage_and_their_answer_is_rare(questions, passages):
    # given the single-hop questions
    single = [q for q in questions if q["hops"] == 1]
    # when the whole corpus is searched for each answer
    found = {q["id"]: [k for k, t in passages.items() if holds(t, q["answers"])] for q in single}
    # then each names one passage, and its answer stands in at most three
    assert len(single) >= 28
    assert [q["id"] for q in single if len(named(q)) != 1] == []
    assert {i: keys for i, keys in found.items() if len(keys) > 3} == {}


def test_two_hop_questions_need_both_passages(questions, passages):
    # given the two-hop questions
    double = [q for q in questions if q["hops"] == 2]
    # when the first passage of each is searched
    early = [q["id"] for q in double if holds(passages[named(q)[0]], q["answers"])]
    # then each names two different passages and the answer is not in the first
    assert len(double) >= 10
    assert len(double) + sum(q["hops"] == 1 for q in questions) == 40
    assert [q["id"] for q in double if len(set(named(q))) != 2] == []
    assert early == []


def test_no_two_questions_share_an_answer(questions):
    # given the accepted answers; when gathered without regard to case; then none serves two
    answers = [a for q in questions for a in {a.lower() for a in q["answers"]}]
    assert sorted(a for a in set(answers) if answers.count(a) > 1) == []
