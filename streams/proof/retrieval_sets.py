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
    """A question of one set. `gold`: the passages that answer it; `answers`: accepted texts, empty if unknown.

    `query_id`, like the ids of passages, is <set>/<its own>: sets may have the same ids.
    """

    query_id: str
    of_set: str
    question: str
    gold: frozenset[str]
    answers: tuple[str, ...]

    @property
    def own_id(self) -> str:
        """Its id in the set's own files."""
        return self.query_id.partition("/")[2]


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
    for folder in folders:
        name = folder.resolve().name
        if name in pooled.sets():
            raise InvalidRequest(f"{folder}: a set named {name!r} is there already: folders need different names")
        passages = _passages(folder, name)
        queries, known = _queries(folder, name, {p.passage_id for p in passages})
        pooled.passages += passages
        pooled.queries += queries
        own = folder / "paraphrases.jsonl.gz"
        file = own if own.is_file() or paraphrased is None else paraphrased / f"{name}.jsonl.gz"
        pooled.paraphrases |= {known[i]: text for i, text in paraphrases_in(file).items() if i in known}
    return pooled


def _passages(folder: Path, name: str) -> list[Passage]:
    """With ids that are unique among sets: <set>/<id>."""
    passages: dict[str, Passage] = {}
    for line, row in _rows(folder / "corpus.jsonl.gz"):
        own = _text(row, "id", line)
        if own in passages:
            raise InvalidRequest(f"{line}: passage id {own!r} is there already: ids must be unique")
        title = _text(row, "title", line, empty=True) if row.get("title") is not None else ""
        passages[own] = Passage(f"{name}/{own}", title, _text(row, "text", line))
    return list(passages.values())


def _queries(folder: Path, name: str, known: set[str]) -> tuple[list[Query], dict[str, str]]:
    """The questions of a set, and by their own ids the ids that are unique among sets."""
    queries: dict[str, Query] = {}
    for line, row in _rows(folder / "queries.jsonl.gz"):
        own = _text(row, "id", line)
        if own in queries:
            raise InvalidRequest(f"{line}: question id {own!r} is there already: ids must be unique")
        gold = frozenset(f"{name}/{passage}" for passage in _texts(row, "gold", line))
        if not gold or not gold <= known:
            missing = sorted(passage.partition("/")[2] for passage in gold - known)[:3]
            raise InvalidRequest(f"{line}: `gold` must name passages of the corpus, found none or unknown {missing}")
        answers = tuple(_texts(row, "answers", line))
        queries[own] = Query(f"{name}/{own}", name, _text(row, "question", line), gold, answers)
    if not queries:
        raise InvalidRequest(f"{folder / 'queries.jsonl.gz'} has no questions")
    return list(queries.values()), {own: query.query_id for own, query in queries.items()}


def paraphrases_in(file: Path) -> dict[str, str]:
    """Question id -> the question in other words; none if the file is not there."""
    if not file.is_file():
        return {}
    return {_text(row, "id", line): _text(row, "question", line) for line, row in _rows(file)}


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) of each line. A plain .jsonl beside it is read too."""
    if not file.is_file() and file.with_suffix("").is_file():
        file = file.with_suffix("")
    if not file.is_file():
        raise InvalidRequest(
            f"{file} is not there",
            hint="A set is a folder with corpus.jsonl.gz and queries.jsonl.gz: docs/retrieval.md.",
        )
    content = file.read_bytes()
    try:
        lines = (gzip.decompress(content) if file.suffix == ".gz" else content).splitlines()
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{file}:{number}", _object(line, f"{file}:{number}")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidRequest(f"{file} cannot be read: {error}") from error


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{where}: no JSON: {error}") from error
    if not isinstance(row, dict):
        raise InvalidRequest(f"{where}: a JSON object is expected")
    return row


def _texts(row: dict[str, Any], name: str, line: str) -> list[str]:
    value = row.get(name) or []
    if not isinstance(value, list) or not all(isinstance(item, str | int) for item in value):
        raise InvalidRequest(f"{line}: field `{name}` must be a list of texts, got {value!r:.60}")
    return [str(item) for item in value]


def _text(row: dict[str, Any], name: str, line: str, *, empty: bool = False) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not (empty or value.strip()):
        raise InvalidRequest(f"{line}: field `{name}` must be a text, got {value!r:.60}")
    return value
