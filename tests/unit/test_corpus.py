"""The rule by which an answer of the evaluation is right, and what is said of files that do not hold questions."""

import pytest

from ruvllm.errors import InvalidDocument
from ruvllm.streams.proof.corpus import demo_folder, is_right, load_questions, load_unanswerable


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("7", True),
        ("It has 7 masts.", True),
        ("Seven? No: (7).", True),
        ("17", False),
        ("70 masts", False),
        ("The WET Above", True),
        ("wet, above", True),
        ("above wet", False),
        ("wetabove", False),
        ("", False),
    ],
)
def test_an_answer_is_right_if_one_of_its_strings_stands_in_it_as_words(text, right):
    # given what a model said; when compared with the answers; then whole words count, case and articles do not
    assert is_right(text, ("7", "the wet above")) is right


def test_an_empty_answer_string_makes_nothing_right():
    # given strings without words; when anything is compared; then it is not right
    assert not is_right("anything", ("", "...", "the"))


def test_the_packaged_questions_can_be_read():
    # given the packaged corpus; when its questions are read; then each has wordings and answers
    questions = load_questions(demo_folder())
    assert len(questions) == 40
    assert all(q.answers and len(q.paraphrases) == 2 for q in questions)
    assert len(load_unanswerable(demo_folder())) == 12


@pytest.mark.parametrize("line", ["not json", "{}", '{"id": "q", "question": "?"}', "[1]"])
def test_a_bad_question_is_named_by_file_and_line(tmp_path, line):
    # given a file whose second question cannot be read (blank lines are none); when read; then file and line are named
    good = '{"id": "q1", "question": "?", "answers": ["x"]}'
    (tmp_path / "questions.jsonl").write_text(f"{good}\n\n{line}\n")
    with pytest.raises(InvalidDocument, match=r"questions\.jsonl, line 2"):
        load_questions(tmp_path)


def test_a_folder_without_questions_is_named(tmp_path):
    # given a folder without questions; when read; then it is named; the unanswerable ones may be absent
    with pytest.raises(InvalidDocument, match=r"questions\.jsonl does not exist"):
        load_questions(tmp_path)
    assert load_unanswerable(tmp_path) == []
