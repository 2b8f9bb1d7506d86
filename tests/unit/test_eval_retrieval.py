"""Retrieval sets that users bring, what `eval retrieval` measures on them, and paraphrases of their questions."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest

from ruvllm.errors import InvalidRequest
from ruvllm.models.embedding import HashingEmbedder
from ruvllm.models.pool.chat_template import chatml
from ruvllm.models.pool.job import Choice, Completion, Job
from ruvllm.models.pool.pool import Pool
from ruvllm.streams.proof.eval_retrieval import Evaluation, Feedback, Protocol
from ruvllm.streams.proof.paraphrases import is_paraphrase, make_paraphrases, overlap
from ruvllm.streams.proof.retrieval_bench import Bench
from ruvllm.streams.proof.retrieval_plot import plot
from ruvllm.streams.proof.retrieval_scores import summary
from ruvllm.streams.proof.retrieval_sets import load_sets, paraphrases_in

KEEPERS = ("Hesper Quil", "Anna Lindqvist", "Bartol Venn", "Ines Okafor", "Marek Dol", "Tove Aalto")


def write(file: Path, rows: list[Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, bytes) else orjson.dumps(row) for row in rows)
    file.write_bytes(gzip.compress(b"\n".join(lines)))


def harbours(folder: Path, *, answers: bool = True, count: int = 30) -> Path:
    """Who keeps a harbour: the passage that says so shares one word with the question, another has it twice."""
    corpus, queries = [], []
    for n in range(count):
        keeper = f"{KEEPERS[n % 6]} {n}"
        corpus += [
            {"id": f"h{n}", "title": f"Harbour {n}", "text": f"At number{n} number{n} there is a harbour."},
            {
                "id": f"k{n}",
                "title": f"{keeper}",
                "text": f"{keeper} trims the lamp at number{n} every night and every morning.",
            },
        ]
        asked = {"id": str(n), "question": f"Who is the keeper of number{n}?", "gold": [f"k{n}"]}
        queries.append({**asked, "answers": [keeper]} if answers else asked)
    write(folder / "corpus.jsonl.gz", corpus)
    write(folder / "queries.jsonl.gz", queries)
    return folder


def evaluated(folders: list[Path], cache: Path, protocol: Protocol, feedback: Feedback) -> tuple[Evaluation, Any]:
    pooled = load_sets(folders)
    run = Evaluation(Bench(pooled, HashingEmbedder(), cache), feedback=feedback, noise=0.0, seeds=1, say=lambda _: None)
    run.run(protocol)
    return run, summary(run.scores, run.curve, run.axis, pooled.sets(), pooled.queries)


# --- what users bring ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "rows", "message"),
    [
        ("corpus", [b'{"id": "a", "text": "x"}', b"{no json"], r"corpus\.jsonl\.gz:2: no JSON"),
        ("corpus", [b"[1]"], r"corpus\.jsonl\.gz:1: a JSON object is expected"),
        ("corpus", [{"id": "a", "text": ""}], r"corpus\.jsonl\.gz:1: field `text` must be a text"),
        ("corpus", [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], r":2: passage id 'a' is there already"),
        ("queries", [{"id": "q", "question": "Who?", "gold": ["h0", "x9"]}], r"queries\.jsonl\.gz:1: `gold`.*\['x9'\]"),
        ("queries", [{"id": "q", "question": "Who?", "gold": []}], r":1: `gold` must name passages"),
        ("queries", [{"id": "q", "question": "Who?", "gold": ["h0"], "answers": "Quil"}], r":1: field `answers`"),
        ("queries", [{"id": "q", "question": "Who?", "gold": ["h0"]}] * 2, r":2: question id 'q' is there already"),
        ("queries", [], "has no questions"),
    ],
)
def test_what_cannot_be_used_is_named_by_file_and_line(
    tmp_path: Path, file: str, rows: list[Any], message: str
) -> None:
    folder = harbours(tmp_path / "set")
    write(folder / f"{file}.jsonl.gz", rows)
    with pytest.raises(InvalidRequest, match=message):
        load_sets([folder])


def test_a_folder_without_a_corpus_and_a_torn_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"nowhere/corpus\.jsonl.* is not there"):
        load_sets([tmp_path / "nowhere"])
    folder = harbours(tmp_path / "set")
    whole = (folder / "corpus.jsonl.gz").read_bytes()
    (folder / "corpus.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidRequest, match=r"corpus\.jsonl\.gz cannot be read"):
        load_sets([folder])


def test_sets_may_have_the_same_ids_but_not_the_same_name(tmp_path: Path) -> None:
    one, two = harbours(tmp_path / "one", count=2), harbours(tmp_path / "two", count=3)
    write(two / "paraphrases.jsonl.gz", [{"id": "1", "question": "Whose is the light of number1?"}])
    pooled = load_sets([one, two])
    assert len({p.passage_id for p in pooled.passages}) == 10
    assert [q.of_set for q in pooled.queries] == ["one"] * 2 + ["two"] * 3
    assert pooled.paraphrases == {"two/1": "Whose is the light of number1?"}
    with pytest.raises(InvalidRequest, match="a set named 'one' is there already"):
        load_sets([one, one])


# --- what is measured ---------------------------------------------------------------------------------


def test_asked_again_a_question_finds_what_answered_it(tmp_path: Path) -> None:
    run, sets = evaluated([harbours(tmp_path / "set")], tmp_path, "repeat", "answers")
    rankers = sets["set"]["rankers"]
    assert set(rankers) == {"bm25", "vectors", "hybrid", "pagerank", "frozen", "learned"}
    assert set(rankers["learned"]) == {"r@2", "r@5", "r@10", "mrr", "ci95", "ms"}
    assert rankers["frozen"]["mrr"] == rankers["hybrid"]["mrr"] < 0.8
    assert rankers["learned"]["mrr"] > 0.95
    assert sets["set"]["n"] == 30
    gain = sets["set"]["learned_minus_hybrid"]
    assert gain["r@5"] == pytest.approx(rankers["learned"]["r@5"] - rankers["hybrid"]["r@5"], abs=1e-4)
    assert len(run.verdicts) == 1
    picture = tmp_path / "picture.png"
    plot({"protocol": "repeat", "feedback": "answers", "seeds": 1, "sets": sets}, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_set_without_answers_is_measured_and_not_learnt_from(tmp_path: Path) -> None:
    folders = [harbours(tmp_path / "told"), harbours(tmp_path / "silent", answers=False, count=5)]
    run, sets = evaluated(folders, tmp_path, "repeat", "answers")
    assert (sets["told"]["n"], sets["silent"]["n"]) == (30, 5)
    assert run.verdicts[0].questions == 30
    run, _ = evaluated(folders, tmp_path, "repeat", "served")
    assert run.verdicts[0].questions == 35


def test_answers_that_nobody_gives_teach_nothing_and_that_is_said(tmp_path: Path) -> None:
    silent, told = harbours(tmp_path / "silent", answers=False, count=5), harbours(tmp_path / "told", count=5)
    with pytest.raises(InvalidRequest, match="no question of silent has `answers`"):
        evaluated([silent], tmp_path, "repeat", "answers")
    with pytest.raises(InvalidRequest, match="no question of silent has `answers`"):
        evaluated([silent, told], tmp_path, "shift", "answers")
    _, sets = evaluated([told, silent], tmp_path, "shift", "answers")
    assert list(sets) == ["silent"]
    with pytest.raises(InvalidRequest, match="two sets or more"):
        evaluated([told], tmp_path, "shift", "answers")
    with pytest.raises(InvalidRequest, match=r"paraphrases\.jsonl\.gz"):
        evaluated([told], tmp_path, "paraphrase", "answers")


def test_few_labels_are_held_back_by_the_gate(tmp_path: Path) -> None:
    run, sets = evaluated([harbours(tmp_path / "set", count=15)], tmp_path, "labels", "served")
    curve = sets["set"]["curve"]
    assert [point["labels"] for point in curve] == [10, "all"]
    assert curve[1]["learned"] == sets["set"]["rankers"]["learned"]["r@5"]
    assert curve[1]["learned_minus_hybrid"] == sets["set"]["learned_minus_hybrid"]
    assert not any(verdict.passed for verdict in run.verdicts)


# --- paraphrases --------------------------------------------------------------------------------------


class Rewriter:
    """A generator that asks the question the other way round, and counts how often it is asked."""

    def __init__(self) -> None:
        self.jobs = 0

    async def generate(self, job: Job) -> Completion:
        self.jobs += 1
        question = next(s.text for s in reversed(job.prompt) if not s.control)
        text = "I know it." if "number3" in question else f"The light of {question.split()[-1][:-1]}: whose is it?"
        return Completion(text, 1.0, 1, 0, 1, "stop", "rewriter", "0")

    async def log_odds(self, choice: Choice) -> float:
        return 0.0

    async def close(self) -> None:
        return None


def test_a_second_run_makes_only_the_paraphrases_that_are_missing(tmp_path: Path) -> None:
    queries = load_sets([harbours(tmp_path / "set", count=6)]).queries
    file, rewriter = tmp_path / "made" / "set.jsonl.gz", Rewriter()

    def make(some: int) -> dict[str, Any]:
        work = make_paraphrases(
            queries[:some], file, Pool({"big": rewriter}), "big", chatml, seconds=60, time_budget_s=60
        )
        return asyncio.run(work)

    first = make(2)
    second = make(6)

    assert (first["made_now"], second["made_now"], second["paraphrased"], second["refused"]) == (2, 3, 5, 1)
    assert rewriter.jobs == 2 + 3 + 3  # the one that it would not rewrite was asked for three times
    assert paraphrases_in(file)["1"] == "The light of number1: whose is it?"
    assert second["overlap"] == pytest.approx(1 / 3, abs=1e-4)
    words = load_sets([tmp_path / "set"], paraphrased=file.parent).paraphrases
    assert set(words) == {f"set/{n}" for n in (0, 1, 2, 4, 5)}


def test_a_paraphrase_keeps_names_and_is_one_question() -> None:
    question = "When did Anna Lindqvist leave Ripon?"
    assert is_paraphrase(question, "In which year was Ripon left by Anna Lindqvist?")
    assert not is_paraphrase(question, "In which year did she leave Ripon?")
    assert not is_paraphrase(question, "When did anna lindqvist leave RIPON?")
    assert not is_paraphrase(question, "Anna Lindqvist left Ripon in 1892.")
    assert not is_paraphrase(question, "Anna Lindqvist?\nRipon?")
    assert overlap(question, question) == 1.0
    assert overlap(question, "Who trims lamps?") == 0.0
