"""What the router sees of one request: 128 numbers, documented by one table.

Invariant: `FEATURES` is the whole truth. Its order is the vector's order, its ranges and logarithms
are applied from it, and a change of either is a new `FEATURES_VERSION`, because checkpoints and
logged decisions mean nothing without it. Every value is finite and inside its range for any text.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ruvllm.errors import InvalidConfiguration, MissingRequirement
from ruvllm.models.router.past_outcomes import Outlook
from ruvllm.models.router.signals import MemorySignals, PreviousTurn, previous_turn
from ruvllm.models.router.surface import surface

Float32s = NDArray[np.float32]

FEATURES_VERSION: Final = 2
QUERY_DIMENSIONS: Final = 384
LONGEST_SQUARED: Final = 1.01
"""Of a query vector: unit length, or none, and what rounding adds."""
PROJECTED: Final = 55
PAST_TIERS: Final = 10
"""Tiers whose past is seen; of a profile with more, the first ones."""
PROJECTION_SEED: Final = 20181202
PROJECTION_DIGEST: Final = "1a9823b0d4ebaed9"


@dataclass(frozen=True, slots=True)
class Feature:
    """One place of the vector. With `log_full` the value is log1p(raw) / log1p(log_full)."""

    name: str
    group: str
    meaning: str
    range: tuple[float, float] = (0.0, 1.0)
    log_full: float | None = None


def _surface(name: str, meaning: str, log_full: float | None = None) -> Feature:
    return Feature(name, "surface", meaning, log_full=log_full)


def _memory(name: str, meaning: str, log_full: float | None = None) -> Feature:
    return Feature(name, "memory", meaning, log_full=log_full)


def _cosine(name: str, meaning: str) -> Feature:
    return Feature(name, "memory", meaning, (-1.0, 1.0))


def _session(name: str, meaning: str, log_full: float | None = None) -> Feature:
    return Feature(name, "session", meaning, log_full=log_full)


FEATURES: Final[tuple[Feature, ...]] = (
    *(
        Feature(f"projection_{i:02d}", "projection", "seeded Gaussian projection of the question", (-4.0, 4.0))
        for i in range(PROJECTED)
    ),
    _surface("characters", "length in characters", 32_768),
    _surface("words", "words", 4096),
    _surface("sentences", "ends of sentences, at least one where there is text", 64),
    _surface("word_length", "mean length of a word in characters", 20),
    _surface("digits", "share of digits among the characters"),
    _surface("upper_case", "share of upper case letters"),
    _surface("punctuation", "share of marks that are neither letters, digits nor spaces"),
    _surface("non_ascii", "share of characters outside ASCII"),
    _surface("code_marks", "backticks, braces, semicolons, definitions, SQL words", 32),
    _surface("numbers", "numbers (1,000.5 is one)", 32),
    _surface("asks_who", "the first question word is who, whom or whose"),
    _surface("asks_what", "the first question word is what"),
    _surface("asks_when", "the first question word is when"),
    _surface("asks_where", "the first question word is where"),
    _surface("asks_why", "the first question word is why"),
    _surface("asks_how", "the first question word is how"),
    _surface("asks_which", "the first question word is which"),
    _surface("asks_yes_no", "starts with an auxiliary verb, and is no polite request"),
    _surface("wants_list", "starts with list, name, enumerate or give"),
    _surface("wants_explanation", "starts with explain, describe, clarify or elaborate"),
    _surface("wants_comparison", "starts with compare, contrast or rank"),
    _surface("wants_text", "starts with write, draft, compose, create, generate or implement"),
    _surface("wants_summary", "starts with summarise, summarize, outline or condense"),
    _surface("negations", "not, no, never, without, ...n't", 8),
    _surface("comparisons", "more, less, than, better, between, difference, ...", 8),
    _surface("conjunctions", "and", 8),
    _surface("quotations", "quotation marks", 16),
    _surface("line_breaks", "line breaks", 64),
    _surface("list_lines", "share of lines that start with a bullet or a number"),
    _surface("names", "capitalised words after the first", 16),
    _memory("hits", "passages retrieved", 32),
    _cosine("best_similarity", "cosine of the best passage"),
    _cosine("second_similarity", "cosine of the second best"),
    _cosine("mean_similarity", "mean cosine of the passages"),
    _memory("similarity_spread", "standard deviation of the cosines"),
    _memory("similarity_gap", "best less second"),
    _memory("hits_over_30", "passages with a cosine above 0.3", 32),
    _memory("hits_over_50", "passages with a cosine above 0.5", 32),
    _memory("hits_over_70", "passages with a cosine above 0.7", 32),
    _memory("documents", "share of passages that are documents"),
    _memory("questions", "share of passages that are past questions"),
    _memory("answers", "share of passages that are past answers"),
    _memory("concepts", "share of passages that are concepts"),
    _memory("by_graph", "share of passages that edges led to"),
    _memory("mean_age", "mean age in seconds", 31_536_000),
    _memory("context_characters", "characters of all passages together", 32_768),
    _session("turns", "earlier turns of the session", 64),
    _session("history_characters", "characters of those turns that go along", 32_768),
    _session("previous_confidence", "confidence of the turn before"),
    _session("previous_tier", "its tier's place over the number of tiers: the largest is 1, none 0"),
    _session("previous_stopped", "it came to its end by itself"),
    _session("previous_cut", "it was cut by its token limit"),
    _session("previous_abstained", "it said that it does not know"),
    _session("previous_failed", "it ended in an error or at its deadline"),
    _session("deadline_slack", "seconds left; 1 without a deadline", 3600),
    _session("max_tokens", "tokens asked for, 0 when left open", 4096),
    _session("minimum_quality", "quality asked for, 0 when left open"),
    _session("grounding_memory", "answer from memory only"),
    _session("grounding_open", "memory helps, the model may go on without"),
    _session("grounding_none", "memory is not asked"),
    Feature("bias", "session", "always 1", (1.0, 1.0)),
    *(
        Feature(
            f"past_quality_{i}", "past", f"2 q - 1: what tier {i} made of past questions like it; 0: none", (-1.0, 1.0)
        )
        for i in range(PAST_TIERS)
    ),
    Feature("past_similarity", "past", "likeness of the past question most like it, in meaning and form"),
    Feature("past_evidence", "past", "sum of likeness over the past", log_full=512),
)
INDEX: Final = {feature.name: i for i, feature in enumerate(FEATURES)}
"""Name -> place in the vector."""

_MEASURED = tuple(f.name for f in FEATURES if f.group not in ("projection", "past"))
_MEASURED_AT = slice(PROJECTED, PROJECTED + len(_MEASURED))
FORM: Final = slice(INDEX["characters"], INDEX["names"] + 1)
"""The places of the surface features: the form of a question."""
PAST: Final = slice(INDEX["past_quality_0"], INDEX["past_quality_0"] + PAST_TIERS)
"""The places of what each tier made of past questions; likeness and evidence come after them."""
_PER_EVIDENCE = 1 / math.log1p(512)
_LOW = np.array([f.range[0] for f in FEATURES], dtype=np.float32)
_HIGH = np.array([f.range[1] for f in FEATURES], dtype=np.float32)
_LOG_AT = np.array([i for i, f in enumerate(FEATURES) if f.log_full is not None])
_LOG_SCALE = np.array([1 / math.log1p(f.log_full) for f in FEATURES if f.log_full is not None], np.float32)


def request_features(
    question: str,
    *,
    query_vector: Float32s,
    signals: MemorySignals,
    history_turns: int = 0,
    history_characters: int = 0,
    previous: PreviousTurn | None = None,
    tiers: Sequence[str] = (),
    deadline_slack_s: float | None = None,
    max_tokens: int | None = None,
    minimum_quality: float | None = None,
    grounding: str = "memory",
) -> Float32s:
    """One request -> (128,) float32, read-only, in the order of `FEATURES`; of the past nothing (`with_past`).

    `query_vector` is (384,) float32 of unit length, or zero for a text without content; anything
    else raises InvalidConfiguration. `tiers` are the profile's, small to large.
    """
    session = {
        "turns": history_turns,
        "history_characters": history_characters,
        **previous_turn(previous, tiers),
        "deadline_slack": math.inf if deadline_slack_s is None else deadline_slack_s,
        "max_tokens": max_tokens or 0,
        "minimum_quality": minimum_quality or 0.0,
        "grounding_memory": grounding == "memory",
        "grounding_open": grounding == "open",
        "grounding_none": grounding == "none",
        "bias": 1.0,
    }
    return _scaled(_project(query_vector), (*surface(question).values(), *signals, *session.values()))


def form_of(question: str) -> Float32s:
    """(30,): the surface features of a text, as they stand among all of them."""
    raw = np.fromiter(surface(question).values(), np.float32, FORM.stop - FORM.start)
    out = np.zeros(len(FEATURES), np.float32)
    out[FORM] = raw
    return _bounded(out)[FORM]


def with_past(features: Float32s, outlook: Outlook | None) -> Float32s:
    """The features of a request, (128,), or of many, (n, 128), and what the past says of them.

    Without a past they are as they were.
    """
    if outlook is None:
        return features
    out = features.copy()
    centred = 2.0 * outlook.quality[..., :PAST_TIERS] - 1.0
    centred[np.isnan(centred)] = 0.0  # no past
    out[..., PAST.start : PAST.start + centred.shape[-1]] = centred
    out[..., PAST.stop] = outlook.similarity
    out[..., PAST.stop + 1] = np.log1p(outlook.evidence) * _PER_EVIDENCE
    out.setflags(write=False)
    return out


def features_markdown() -> str:
    """The table as Markdown, for the generated reference."""
    lines = [
        f"Features of the router, version {FEATURES_VERSION}: {len(FEATURES)} places.",
        "",
        "| place | name | group | meaning | range |",
        "|---|---|---|---|---|",
    ]
    for i, feature in enumerate(FEATURES):
        if 0 < i < PROJECTED:
            continue  # one line stands for the projection
        place, name = str(i), f"`{feature.name}`"
        if i == 0:
            place, name = f"0-{PROJECTED - 1}", f"`{feature.name}` to `{FEATURES[PROJECTED - 1].name}`"
        log = f"; log, full at {feature.log_full:,.0f}" if feature.log_full else ""
        low, high = feature.range
        lines.append(f"| {place} | {name} | {feature.group} | {feature.meaning}{log} | {low:g} to {high:g} |")
    return "\n".join(lines) + "\n"


def _scaled(projected: Float32s, measured: Sequence[float]) -> Float32s:
    """All in their places and scales, read-only."""
    out = np.zeros(len(FEATURES), dtype=np.float32)
    out[:PROJECTED] = projected
    out[_MEASURED_AT] = np.fromiter(measured, np.float32, len(_MEASURED))
    _bounded(out).setflags(write=False)
    return out


def _bounded(out: Float32s) -> Float32s:
    """Logarithms, then clipping to the table's ranges, in place; what is not a number becomes 0."""
    np.maximum(out, _LOW, out=out)  # and np.minimum: np.clip takes twice the time of both
    out[_LOG_AT] = np.log1p(out[_LOG_AT]) * _LOG_SCALE
    np.minimum(out, _HIGH, out=out)
    if math.isnan(out.dot(out)):
        out[np.isnan(out)] = 0.0
    return out


def _project(query_vector: Float32s) -> Float32s:
    """(384,) -> (55,): Johnson and Lindenstrauss 1984; a unit vector gets unit variance per place.

    Norms and distances are kept: E |R x|^2 / 55 = |x|^2 for R of independent N(0, 1).
    """
    squared = float(query_vector.dot(query_vector)) if query_vector.shape == (QUERY_DIMENSIONS,) else math.nan
    if not squared <= LONGEST_SQUARED:  # true for NaN as well
        raise InvalidConfiguration(
            f"the query vector has shape {query_vector.shape} and squared length {squared:g}; "
            f"the router's features need ({QUERY_DIMENSIONS},) of unit length",
            hint="Serve with the embedder that the profile names.",
        )
    projected: Float32s = _projection().dot(query_vector)
    return projected


@cache
def _projection() -> Float32s:
    """(55, 384) float32 from the seed alone; refuses a numpy whose generator draws another one."""
    generator = np.random.Generator(np.random.PCG64(PROJECTION_SEED))
    matrix = generator.standard_normal((PROJECTED, QUERY_DIMENSIONS)).astype(np.float32)
    digest = hashlib.blake2b(np.rint(matrix * 256).astype("<i2").tobytes(), digest_size=8).hexdigest()
    if digest != PROJECTION_DIGEST:  # NEP 19 lets streams change between releases
        raise MissingRequirement(
            f"numpy {np.__version__} draws projection {digest}, features version {FEATURES_VERSION} "
            f"means {PROJECTION_DIGEST}",
            hint="Install the numpy of the lock file: `make setup`.",
        )
    return matrix
