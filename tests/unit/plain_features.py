"""The router's measured features, said as plainly as they can be: what the quick ones must equal.

One line a feature, no matter what it costs, each from the meaning that the table gives it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from ruvllm.models.router.features import FEATURES, Float32s
from ruvllm.models.router.signals import Hit, PreviousTurn
from ruvllm.models.router.surface import READ_CHARACTERS


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
CODE = re.compile(r"`|\{|\}|;|==|=>|\(\)|def \w+\(|class \w+[(:{]")
ASKS = {"who": "who", "whom": "who", "whose": "who"} | {w: w for w in ("what", "when", "where", "why", "how", "which")}
WANTS = {
    **dict.fromkeys(("list", "name", "enumerate", "give"), "list"),
    **dict.fromkeys(("explain", "describe", "clarify", "elaborate"), "explanation"),
    **dict.fromkeys(("compare", "contrast", "rank"), "comparison"),
    **dict.fromkeys(("write", "draft", "compose", "create", "generate", "implement"), "text"),
    **dict.fromkeys(("summarise", "summarize", "outline", "condense"), "summary"),
}
SQL = words_of("SELECT INSERT UPDATE DELETE JOIN WHERE")
AUXILIARIES = words_of(
    "am is are was were do does did can ca could shall should will wo would may might must has have had"
)
POLITE = words_of("please kindly can could will would you")
NEGATIONS = words_of("not no never none nothing nobody neither nor without cannot")
COMPARISONS = words_of(
    "more less than better worse best worst most least larger smaller bigger higher lower faster slower "
    "older newer versus vs between difference differences differ similar same both"
)


def measured(
    question: str, hits: Sequence[Hit], previous: PreviousTurn | None, tiers: Sequence[str], **session: float
) -> dict[str, float]:
    """Feature name -> raw value, of those that are not projected or of the past."""
    return _of_text(question) | _of_memory(hits) | _of_turn(previous, tiers) | session | {"bias": 1.0}


def scaled(values: dict[str, float]) -> Float32s:
    """The measured places in the table's order: logarithms, then clipping; what is not a number is 0."""
    table = [f for f in FEATURES if f.group not in ("projection", "past")]
    assert {f.name for f in table} == values.keys()
    raw = np.array([values[f.name] for f in table], np.float32)
    for i, feature in enumerate(table):
        if feature.log_full is not None:
            raw[i] = np.log1p(np.maximum(raw[i], np.float32(0))) * np.float32(1 / math.log1p(feature.log_full))
    low, high = (np.array([f.range[side] for f in table], np.float32) for side in (0, 1))
    return np.nan_to_num(np.clip(raw, low, high), nan=0.0)


def _of_text(question: str) -> dict[str, float]:
    text = question[:READ_CHARACTERS].replace("’", "'")
    length = max(len(text), 1)
    words = WORD.findall(text)
    lower = [word.lower() for word in words]
    plain = [word.removesuffix("n't").split("'")[0] for word in lower]
    asked = [ASKS[word] for word in plain if word in ASKS][:1]
    wanted = [WANTS.get(word) for word in plain if word not in POLITE][:1]

    def count(holds: Callable[[str], object], of: Sequence[str] = text) -> int:
        return sum(1 for each in of if holds(each))

    return {
        "characters": len(question),
        "words": len(words),
        "sentences": max(len(re.findall(r"[.!?]+(?=\s|$)|[。！？]", text)), 1 if words else 0),
        "word_length": sum(len(word) for word in words) / max(len(words), 1),
        "digits": count(str.isdigit) / length,
        "upper_case": count(str.isupper) / length,
        "punctuation": count(lambda c: re.fullmatch(r"[^\w\s]", c)) / length,
        "non_ascii": 1 - count(str.isascii) / length if text else 0.0,
        "code_marks": len(CODE.findall(text)) + count(SQL.__contains__, words),
        "numbers": len(re.findall(r"\d+(?:[.,]\d+)*", text)),
        **{f"asks_{kind}": kind in asked for kind in ASKS.values()},
        "asks_yes_no": wanted in ([], [None]) and plain[:1] != [] and plain[0] in AUXILIARIES,
        **{f"wants_{kind}": kind in wanted for kind in WANTS.values()},
        "negations": count(NEGATIONS.__contains__, lower) + text.count("n't"),
        "comparisons": count(COMPARISONS.__contains__, plain),
        "conjunctions": plain.count("and"),
        "quotations": count('"“”„«»'.__contains__),
        "line_breaks": text.count("\n"),
        "list_lines": len(re.findall(r"(?m)^[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t]", text)) / (text.count("\n") + 1),
        "names": count(lambda word: len(word) > 1 and word[0].isupper(), words[1:]),
    }


def _of_memory(hits: Sequence[Hit]) -> dict[str, float]:
    n = max(len(hits), 1)
    cosines = sorted((h.similarity if math.isfinite(h.similarity) else 0.0 for h in hits), reverse=True)
    best, second, *_ = (*cosines, 0.0, 0.0)
    mean = math.fsum(cosines) / n
    return {
        "hits": len(hits),
        "best_similarity": best,
        "second_similarity": second,
        "mean_similarity": mean,
        "similarity_spread": math.sqrt(math.fsum((c - mean) ** 2 for c in cosines) / n),
        "similarity_gap": best - second,
        **{f"hits_over_{over}": sum(c > over / 100 for c in cosines) for over in (30, 50, 70)},
        **{f"{kind}s": sum(h.kind == kind for h in hits) / n for kind in ("document", "question", "answer", "concept")},
        "by_graph": sum(h.by_graph for h in hits) / n,
        "mean_age": math.fsum(max(0.0, h.age_s) for h in hits) / n,
        "context_characters": sum(h.characters for h in hits),
    }


def _of_turn(previous: PreviousTurn | None, tiers: Sequence[str]) -> dict[str, float]:
    confidence, tier, reason = previous or (0.0, None, None)
    return {
        "previous_confidence": confidence,
        "previous_tier": (tiers.index(tier) + 1) / len(tiers) if tier in tiers else 0.0,
        "previous_stopped": reason == "stop",
        "previous_cut": reason == "length",
        "previous_abstained": reason == "abstained",
        "previous_failed": reason in ("error", "deadline"),
    }
