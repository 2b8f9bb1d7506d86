"""Retrieval sets that users bring: a folder with a corpus, questions, and which passages are right.

corpus.jsonl.gz       {"id", "title", "text"}
queries.jsonl.gz      {"id", "question", "gold": [passage ids], "answers": [text]}     answers may be missing
paraphrases.jsonl.gz  {"id", "question"}                                               optional
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from ruvllm.errors import InvalidRequest


@dataclass(frozen=True)
class Passage:
    passage_id: str
    title: str
    text: str


@dataclass(frozen=True)
class Query:
    """A question of one set. `gold`: the passages that answer it; `answers`: accepted texts, empty if unknown."""

    query_id: str
    of_set: str
    question: str
    gold: frozenset[str]
    answers: tuple[str, ...]


@dataclass
class Pooled:
    """Several sets as one corpus; results are kept by set."""

    passages: list[Passage] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    paraphrases: dict[str, str] = field(default_factory=dict)

    def sets(self) -> list[str]:
        return list(dict.fromkeys(query.of_set for query in self.queries))


def load_sets(folders: Sequence[Path], *, paraphrased: Path | None = None) -> Pooled:
    """Read folders; the folder's name is the set's. `paraphrased`: where <set>.jsonl.gz may lie instead.

    Raises InvalidRequest with file and line for what cannot be used.
    """
    pooled = Pooled()
    known: set[str] = set()
    for folder in folders:
        for line, row in _rows(folder / "corpus.jsonl.gz"):
            passage = Passage(_text(row, "id", line), _text(row, "title", line, empty=True), _text(row, "text", line))
            if passage.passage_id in known:
                raise InvalidRequest(f"{line}: passage id {passage.passage_id!r} is there already: ids must be unique")
            known.add(passage.passage_id)
            pooled.passages.append(passage)
        for line, row in _rows(folder / "queries.jsonl.gz"):
            gold = frozenset(map(str, row.get("gold") or ()))
            if not gold or not gold <= known:
                missing = sorted(gold - known)[:3]
                raise InvalidRequest(
                    f"{line}: `gold` must name passages of the corpus, found none or unknown {missing}"
                )
            answers = tuple(str(answer) for answer in row.get("answers") or ())
            pooled.queries.append(
                Query(_text(row, "id", line), folder.name, _text(row, "question", line), gold, answers)
            )
        pooled.paraphrases |= _paraphrases(folder, paraphrased)
    return pooled


def _paraphrases(folder: Path, elsewhere: Path | None) -> dict[str, str]:
    for file in (folder / "paraphrases.jsonl.gz", *([elsewhere / f"{folder.name}.jsonl.gz"] if elsewhere else [])):
        if file.is_file():
            return {_text(row, "id", line): _text(row, "question", line) for line, row in _rows(file)}
    return {}


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) of each line. A plain .jsonl beside it is read too."""
    if not file.is_file() and file.with_suffix("").is_file():
        file = file.with_suffix("")
    if not file.is_file():
        raise InvalidRequest(f"{file} is not there", hint="A set is a folder with corpus and queries, see docs.")
    content = file.read_bytes()
    try:
        lines = (gzip.decompress(content) if file.suffix == ".gz" else content).splitlines()
        for number, line in enumerate(lines, start=1):
            if line.strip():
                row = orjson.loads(line)
                if not isinstance(row, dict):
                    raise InvalidRequest(f"{file}:{number}: a JSON object is expected")
                yield f"{file}:{number}", row
    except (orjson.JSONDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidRequest(f"{file} cannot be read: {error}") from error


def _text(row: dict[str, Any], name: str, line: str, *, empty: bool = False) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not (empty or value.strip()):
        raise InvalidRequest(f"{line}: field `{name}` must be a text, got {value!r:.60}")
    return value
