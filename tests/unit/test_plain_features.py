"""The quick features are the plain ones, to the last bit, for any text, memory and session."""

import math

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ruvllm.models.router.features import PROJECTED, request_features
from ruvllm.models.router.signals import Hit, MemorySignals, PreviousTurn
from tests.unit.plain_features import measured, scaled

TIERS = ("small", "middle", "large")
VECTOR = np.eye(1, 384, dtype=np.float32)[0]
PIECES = """Who WHOM who's what Which can't won't isn’t is Could you please List name compare Write and not never
more than between SELECT Select JOIN Anna ANNA a b_c _ 1 1,000.5 2.5.1 ² ٣ Ⅷ ① Ⓐ İstanbul ΟΔΟΣ ß ϒ 𝐀 é 。 ！ ...
?! . ! ? ' '' " “ ” „ « » ` { } ; == => () def f( class A: - * • 1. 12) 1234)"""
QUESTIONS = st.lists(
    st.sampled_from([*PIECES.split(), " ", "\n", "\t", "\x1c", "\u2028", "\ud800"]) | st.characters(codec=None),
    max_size=60,
).map("".join)
HITS = st.lists(
    st.builds(
        Hit,
        similarity=st.floats(-2, 2) | st.sampled_from([0.3, 0.5, 0.7, math.nan, math.inf, -math.inf]),
        kind=st.sampled_from(["document", "question", "answer", "concept", "unheard of"]),
        by_graph=st.booleans(),
        age_s=st.floats(-1e6, 1e10) | st.sampled_from([math.nan, math.inf]),
        characters=st.integers(0, 10**7),
    ),
    max_size=12,
)
REASONS = st.sampled_from(["stop", "length", "abstained", "error", "deadline"])
TURNS = st.none() | st.builds(
    PreviousTurn, st.floats(0, 1) | st.just(math.nan), st.sampled_from([*TIERS, "x"]), REASONS
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    question=QUESTIONS,
    hits=HITS,
    previous=TURNS,
    slack=st.none() | st.floats(-10, 1e6),
    grounding=st.sampled_from(["memory", "open", "none"]),
    counts=st.tuples(*(st.integers(0, 10**5) for _ in range(3))),
)
@example("- a\n1. b\n\n * c" * 400, [], None, None, "open", (0, 0, 0))
@example("Ⓐ“x” isn't 1,5. \nNo。", [], None, 0.0, "none", (1, 1, 1))
def test_the_features_are_what_the_plain_ones_say(question, hits, previous, slack, grounding, counts):
    # given any request; when its features are made
    turns, characters, max_tokens = counts
    features = request_features(
        question,
        query_vector=VECTOR,
        signals=MemorySignals.of(iter(hits)),
        history_turns=turns,
        history_characters=characters,
        previous=previous,
        tiers=TIERS,
        deadline_slack_s=slack,
        max_tokens=max_tokens,
        minimum_quality=0.25,
        grounding=grounding,
    )
    # then each is at its place, and what its meaning says
    session = {
        "turns": turns,
        "history_characters": characters,
        "deadline_slack": math.inf if slack is None else slack,
        "max_tokens": max_tokens,
        "minimum_quality": 0.25,
        **{f"grounding_{name}": name == grounding for name in ("memory", "open", "none")},
    }
    plain = scaled(measured(question, hits, previous, TIERS, **session))
    assert features[PROJECTED : PROJECTED + len(plain)].tolist() == plain.tolist()
