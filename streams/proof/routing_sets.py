"""Routing sets that users bring: questions, and what each model made of them at which cost.

{"id", "domain", "prompt", "outcomes": {model: {"quality": 0..1, "cost": number}}}      one JSON object a line

Invariant: every model answered every question, and models stand in the order of their mean cost, so that the
columns of all arrays are tiers, small to large. `domain` may be missing; costs are in any one unit.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ruvllm.errors import InvalidRequest
from ruvllm.models.embedding import Embedder
from ruvllm.models.router.features import request_features
from ruvllm.models.router.learner import Questions
from ruvllm.models.router.signals import MemorySignals
from ruvllm.streams.proof.embedded import embedded

Float32s = NDArray[np.float32]
Rows = NDArray[np.int64]
FORM = 'Each line is {"id", "domain", "prompt", "outcomes": {model: {"quality": 0..1, "cost": number}}}.'
NO_DOMAIN = "all"


@dataclass(frozen=True, eq=False)
class RoutingSet:
    """n questions, each answered by all T models. `qualities` and `costs`: (n, T); `models`: cheapest first."""

    models: tuple[str, ...]
    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    domains: tuple[str, ...]
    qualities: Float32s
    costs: Float32s

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Answered:
    """Questions as routers see them, with the outcome of every route: `qualities`, `costs` (n, T)."""

    questions: Questions
    qualities: Float32s
    costs: Float32s

    def __len__(self) -> int:
        return len(self.questions)

    def rows(self, index: Rows | slice) -> Answered:
        """Some of them, in that order."""
        return Answered(self.questions.rows(index), self.qualities[index], self.costs[index])


def answered(routing: RoutingSet, embedder: Embedder, cache: Path) -> Answered:
    """The set as routers see it: features with nothing from memory and no history, each row its own session."""
    vectors = embedded(embedder, routing.prompts, cache)
    features = np.stack(
        [
            request_features(prompt, query_vector=vector, signals=MemorySignals())
            for prompt, vector in zip(routing.prompts, vectors, strict=True)
        ]
    )
    questions = Questions(features, vectors, np.array(routing.domains), np.arange(len(routing), dtype=np.int64))
    return Answered(questions, routing.qualities, routing.costs)


def load_routing(file: Path, *, models: Sequence[str] | None = None) -> RoutingSet:
    """Read a .jsonl or .jsonl.gz file. `models`: those of another file, whose order is then taken.

    Raises InvalidRequest with file and line for what cannot be used.
    """
    ids: dict[str, str] = {}
    prompts, domains, qualities, costs = [], [], [], []
    names: list[str] = list(models or ())
    for line, row in _objects(file):
        own = _text(row, "id", line)
        if own in ids:
            raise InvalidRequest(f"{line}: id {own!r} is there already", hint="Give each question its own id.")
        outcomes = _outcomes(row, line)
        names = names or list(outcomes)
        if set(names) != set(outcomes):
            raise InvalidRequest(
                f"{line}: outcomes of {sorted(outcomes)}, before of {sorted(names)}",
                hint="Every question needs an outcome of every model; leave out lines or models that lack some.",
            )
        ids[own] = line
        prompts.append(_text(row, "prompt", line))
        domains.append(_text(row, "domain", line) if row.get("domain") is not None else NO_DOMAIN)
        qualities.append([outcomes[name][0] for name in names])
        costs.append([outcomes[name][1] for name in names])
    if not ids:
        raise InvalidRequest(f"{file} has no lines", hint=FORM)
    quality, cost = np.array(qualities, np.float32), np.array(costs, np.float32)
    order = np.arange(len(names)) if models else np.argsort(cost.mean(axis=0), kind="stable")
    return RoutingSet(
        tuple(names[i] for i in order),
        tuple(ids),
        tuple(prompts),
        tuple(domains),
        np.ascontiguousarray(quality[:, order]),
        np.ascontiguousarray(cost[:, order]),
    )


def _outcomes(row: dict[str, Any], line: str) -> dict[str, tuple[float, float]]:
    """Model -> quality, cost."""
    outcomes = row.get("outcomes")
    if not isinstance(outcomes, dict) or len(outcomes) < 2:
        raise InvalidRequest(f"{line}: field `outcomes` must name two models or more, got {outcomes!r:.60}", hint=FORM)
    found = {}
    for model, outcome in outcomes.items():
        if not isinstance(outcome, dict):
            raise InvalidRequest(f"{line}: the outcome of {model!r} must be an object, got {outcome!r:.60}", hint=FORM)
        quality, cost = _number(outcome, "quality", model, line), _number(outcome, "cost", model, line)
        if not 0.0 <= quality <= 1.0:
            raise InvalidRequest(
                f"{line}: quality {quality:g} of {model!r} is outside 0 to 1", hint="Scale qualities to 0..1."
            )
        if cost < 0.0:
            raise InvalidRequest(
                f"{line}: cost {cost:g} of {model!r} is negative", hint="Give costs of 0 or more, in any one unit."
            )
        found[model] = quality, cost
    return found


def _number(outcome: dict[str, Any], name: str, model: str, line: str) -> float:
    value = outcome.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidRequest(f"{line}: `{name}` of {model!r} must be a number, got {value!r:.60}", hint=FORM)
    return float(value)


def _text(row: dict[str, Any], name: str, line: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{line}: field `{name}` must be a text, got {value!r:.60}", hint=FORM)
    return value


def _objects(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) of each line that is not blank."""
    try:
        content = file.read_bytes()
        lines = (gzip.decompress(content) if file.suffix == ".gz" else content).split(b"\n")
    except (OSError, EOFError, zlib.error) as error:  # gzip's own errors are OSErrors
        raise InvalidRequest(f"{file} cannot be read: {error}", hint="Name a .jsonl or .jsonl.gz file.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{file}:{number}"
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise InvalidRequest(f"{where}: no JSON: {error}", hint=FORM) from error
            if not isinstance(row, dict):
                raise InvalidRequest(f"{where}: a JSON object is expected, got {row!r:.60}", hint=FORM)
            yield where, row
