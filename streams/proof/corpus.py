"""The packaged corpus: passages about a place that no model can know, with questions and answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import orjson

from ruvllm.errors import InvalidDocument


@dataclass(frozen=True)
class Question:
    """A question, other wordings of it, and every string that counts as its answer."""

    id: str
    question: str
    paraphrases: tuple[str, ...]
    answers: tuple[str, ...]
    hops: int


def demo_folder() -> Path:
    """Where the packaged corpus lies."""
    return Path(str(files("ruvllm"))) / "data" / "demo"


def load_questions(folder: Path) -> list[Question]:
    """The answerable questions of a folder. Raises InvalidDocument naming file and line."""
    file = folder / "questions.jsonl"
    found = []
    for number, line in enumerate(_lines(file), 1):
        try:
            entry = orjson.loads(line)
            found.append(
                Question(
                    id=str(entry["id"]),
                    question=entry["question"],
                    paraphrases=tuple(entry.get("paraphrases", ())),
                    answers=tuple(entry["answers"]),
                    hops=int(entry.get("hops", 1)),
                )
            )
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise InvalidDocument(
                f"{file}, line {number}: {error!r}", hint="See ruvllm/data/demo/README.md."
            ) from error
    return found


def load_unanswerable(folder: Path) -> list[str]:
    """Questions that the corpus does not answer; none if there is no such file."""
    file = folder / "unanswerable.jsonl"
    return [orjson.loads(line)["question"] for line in _lines(file)] if file.exists() else []


def _lines(file: Path) -> list[bytes]:
    try:
        return [line for line in file.read_bytes().splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise InvalidDocument(f"{file} does not exist") from error


def is_right(text: str, answers: tuple[str, ...]) -> bool:
    """The string rule: one of the answers stands in the text as whole words.

    Case, accents left as they are, punctuation and articles aside; `7` is not in `17` nor in `70`.
    """
    said = f" {_plain(text)} "
    return any(f" {_plain(answer)} " in said for answer in answers if _plain(answer))


def _plain(text: str) -> str:
    words = re.findall(r"\w+", text.casefold())
    return " ".join(w for w in words if w not in {"a", "an", "the"})
