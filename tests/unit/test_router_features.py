"""The router's 128 features: one table, finite and in range for any text, the same every time."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.errors import InvalidConfiguration, MissingRequirement
from ruvllm.models.router import features as table
from ruvllm.models.router.features import (
    FEATURES,
    FEATURES_VERSION,
    INDEX,
    PROJECTED,
    features_markdown,
    request_features,
    with_past,
)
from ruvllm.models.router.past_outcomes import Outlook
from ruvllm.models.router.signals import Hit, MemorySignals, PreviousTurn
from ruvllm.models.router.surface import READ_CHARACTERS

LOW = np.array([f.range[0] for f in FEATURES], dtype=np.float32)
HIGH = np.array([f.range[1] for f in FEATURES], dtype=np.float32)
TIERS = ("small", "middle", "large")


def unit_vector(seed):
    vector = np.random.default_rng(seed).standard_normal(384)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def seen(question, **more):
    """Feature name -> value of one request."""
    given = {"query_vector": unit_vector(0), "signals": MemorySignals(), "tiers": TIERS} | more
    vector = request_features(question, **given)
    return {f.name: float(v) for f, v in zip(FEATURES, vector, strict=True)}


def hit(similarity, kind="document", by_graph=False, age_s=60.0, characters=100):
    return Hit(similarity, kind, by_graph, age_s, characters)


def test_the_table_names_each_of_128_places_once():
    assert FEATURES_VERSION == 2
    assert len(FEATURES) == len(INDEX) == 128
    assert [INDEX[f.name] for f in FEATURES] == list(range(128))
    assert sum(f.group == "projection" for f in FEATURES) == PROJECTED
    assert {f.group for f in FEATURES[PROJECTED:]} == {"surface", "memory", "session", "past"}
    assert all(f.meaning for f in FEATURES)


def test_the_markdown_table_documents_every_feature():
    lines = features_markdown().splitlines()

    assert f"version {FEATURES_VERSION}" in lines[0]
    for feature in FEATURES[PROJECTED:]:
        assert any(f"| {INDEX[feature.name]} | `{feature.name}` |" in line for line in lines)
    assert len(lines) == 4 + 1 + 128 - PROJECTED  # title and head, one line for the projection, the others


def finite(low, high):
    return st.floats(low, high, allow_nan=False, width=32)


@settings(max_examples=200, deadline=None)
@given(
    question=st.text(st.characters(codec=None), max_size=300),
    seed=st.integers(0, 5),
    hits=st.lists(
        st.builds(
            Hit,
            similarity=finite(-2, 2) | st.sampled_from([math.nan, math.inf]),
            kind=st.sampled_from(["document", "question", "answer", "concept", "unheard of"]),
            by_graph=st.booleans(),
            age_s=finite(-1e6, 1e10) | st.just(math.nan),
            characters=st.integers(0, 10**7),
        ),
        max_size=12,
    ),
    previous=st.none()
    | st.builds(PreviousTurn, finite(-1, 2) | st.just(math.nan), st.sampled_from([*TIERS, "gone"]), st.text()),
    slack=st.none() | finite(-1e4, 1e9),
    max_tokens=st.none() | st.integers(1, 10**6),
)
def test_features_are_finite_and_in_range_for_any_text(question, seed, hits, previous, slack, max_tokens):
    signals = MemorySignals.of(hits)

    vector = request_features(
        question,
        query_vector=unit_vector(seed),
        signals=signals,
        previous=previous,
        tiers=TIERS,
        deadline_slack_s=slack,
        max_tokens=max_tokens,
    )

    assert vector.shape == (128,)
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()
    assert (vector >= LOW).all()
    assert (vector <= HIGH).all()


@pytest.mark.parametrize("question", ["", " ", "\n\n", "\x00", "\ud800", "🧵" * 50, "e\u0301", "。", "a" * 10**6])
def test_odd_texts_have_the_same_features_every_time(question):
    first = seen(question)
    assert first == seen(question)
    assert first["bias"] == 1.0


def test_without_a_past_its_places_are_zero():
    values = seen("What is kept in the mill?", signals=MemorySignals.of([hit(0.9)]))
    assert not any(v for name, v in values.items() if name.startswith("past_"))


def test_the_past_takes_its_places_and_no_others():
    # given the features of a request, and two tiers with a past of which the second has none
    plain = request_features("x", query_vector=unit_vector(0), signals=MemorySignals())
    outlook = Outlook(np.array([0.75, np.nan, 0.0], np.float32), similarity=0.5, evidence=512.0)

    # when the past is added
    after = with_past(plain, outlook)

    # then a quality q stands as 2 q - 1, none as 0, and nothing else has moved
    changed = {FEATURES[i].name: float(after[i]) for i in np.flatnonzero(after != plain)}
    assert changed == {"past_quality_0": 0.5, "past_quality_2": -1.0, "past_similarity": 0.5, "past_evidence": 1.0}
    assert with_past(plain, None) is plain


def test_the_vector_cannot_be_changed_afterwards():
    vector = request_features("x", query_vector=unit_vector(0), signals=MemorySignals())
    with pytest.raises(ValueError, match="read-only"):
        vector[0] = 1


# --- the projection -------------------------------------------------------------------------------


def project(vector):
    return request_features("x", query_vector=vector, signals=MemorySignals())[:PROJECTED]


def test_unit_vectors_get_about_unit_variance():
    projected = np.stack([project(unit_vector(seed)) for seed in range(300)])
    assert projected.mean() == pytest.approx(0.0, abs=0.05)
    assert projected.var() == pytest.approx(1.0, abs=0.05)


def test_the_projection_keeps_distances():
    for seed in range(100):
        a, b = unit_vector(seed), unit_vector(seed + 1000)
        kept = np.linalg.norm(project(a) - project(b)) / math.sqrt(PROJECTED) / np.linalg.norm(a - b)
        assert 0.6 < kept < 1.4  # a relative error of 1 / sqrt(2 * 55) = 0.095, here 4 sigma


def test_a_text_without_content_projects_to_zero():
    assert not project(np.zeros(384, dtype=np.float32)).any()


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(768, dtype=np.float32),
        np.full(384, 1.0, dtype=np.float32),
        np.full(384, np.nan, dtype=np.float32),
        np.full(384, np.inf, dtype=np.float32),
        np.zeros((1, 384), dtype=np.float32),
    ],
    ids=["other width", "not of unit length", "nan", "infinite", "matrix"],
)
def test_a_vector_of_another_embedder_is_refused(vector):
    with pytest.raises(InvalidConfiguration, match="query vector"):
        request_features("x", query_vector=vector, signals=MemorySignals())


def test_another_projection_than_the_version_means_is_refused(monkeypatch):
    # Given a numpy whose generator draws other numbers, as a new release may
    monkeypatch.setattr(table, "PROJECTION_SEED", table.PROJECTION_SEED + 1)
    table._projection.cache_clear()

    with pytest.raises(MissingRequirement, match="features version 2"):
        project(unit_vector(0))

    monkeypatch.undo()
    table._projection.cache_clear()
    project(unit_vector(0))


# --- the form of the question ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "feature"),
    [
        ("Who keeps the lamp?", "asks_who"),
        ("Whose lamp is it?", "asks_who"),
        ("What's the toll?", "asks_what"),
        ("In which year was it built?", "asks_which"),
        ("And how did it end?", "asks_how"),
        ("Is the bridge open?", "asks_yes_no"),
        ("Can't we cross?", "asks_yes_no"),
        ("List the ferries.", "wants_list"),
        ("Could you please list the ferries?", "wants_list"),
        ("Explain the rule.", "wants_explanation"),
        ("compare both mills", "wants_comparison"),
        ("Write a letter.", "wants_text"),
        ("Summarise the charter", "wants_summary"),
        ("SUMMARIZE IT", "wants_summary"),
    ],
)
def test_the_kind_of_question_is_seen(question, feature):
    values = seen(question)
    kinds = {name for name, v in values.items() if name.startswith(("asks_", "wants_")) and v}
    assert kinds == {feature}


@pytest.mark.parametrize(
    ("less", "more", "feature"),
    [
        ("a b", "a b c", "words"),
        ("One. Two.", "One. Two. Three!", "sentences"),
        ("in 1999", "in 1999 and 2,001.5", "numbers"),
        ("it is", "it isn't", "negations"),
        ("it isn't", "it isn’t and never was", "negations"),
        ("old", "older than", "comparisons"),
        ("a", "a and b", "conjunctions"),
        ("the lamp", 'the "lamp"', "quotations"),
        ("a", "a\nb", "line_breaks"),
        ("a\nb", "- a\n- b", "list_lines"),
        ("a\nb", "1. a\n2) b", "list_lines"),
        ("who met anna", "who met Anna", "names"),
        ("print x", "`print(x)`;", "code_marks"),
        ("select all from it", "SELECT all FROM it", "code_marks"),
        ("the first class", "class First:", "code_marks"),
        ("resume", "résumé", "non_ascii"),
        ("room", "room 5", "digits"),
        ("yes", "YES", "upper_case"),
        ("yes", "yes?!", "punctuation"),
        ("a bee", "a butterfly", "word_length"),
    ],
)
def test_the_form_of_the_text_is_counted(less, more, feature):
    assert seen(more)[feature] > seen(less)[feature]


def test_counts_read_a_bounded_part_and_the_length_all_of_it():
    start = "word " * (READ_CHARACTERS // 5 + 1)
    short, long = seen(start), seen(start + "1 " * 1000)
    assert long["numbers"] == short["numbers"] == 0
    assert long["characters"] > short["characters"]


def test_logarithms_reach_one_where_the_table_says():
    assert seen("a" * 32_768)["characters"] == pytest.approx(1.0)
    assert seen("a" * 100)["characters"] == pytest.approx(math.log1p(100) / math.log1p(32_768))


# --- memory and session ---------------------------------------------------------------------------


def test_memory_signals_say_what_was_found():
    # Given four passages of three kinds, one of them reached by an edge
    hits = [
        hit(0.2, "document", characters=10),
        hit(0.8, "question"),
        hit(0.6, "answer", by_graph=True),
        hit(0.4, "document"),
    ]

    values = seen("Who?", signals=MemorySignals.of(hits))

    assert values["best_similarity"] == pytest.approx(0.8)
    assert values["second_similarity"] == pytest.approx(0.6)
    assert values["similarity_gap"] == pytest.approx(0.2)
    assert values["mean_similarity"] == pytest.approx(0.5)
    assert values["similarity_spread"] == pytest.approx(np.std([0.2, 0.8, 0.6, 0.4]))
    for over, count in (("30", 3), ("50", 2), ("70", 1)):
        assert values[f"hits_over_{over}"] == pytest.approx(math.log1p(count) / math.log1p(32))
    assert (values["documents"], values["questions"], values["answers"]) == (0.5, 0.25, 0.25)
    assert (values["concepts"], values["by_graph"]) == (0.0, 0.25)
    assert values["mean_age"] == pytest.approx(math.log1p(60) / math.log1p(365 * 86_400))
    assert values["context_characters"] == pytest.approx(math.log1p(310) / math.log1p(32_768))


def test_the_order_of_passages_does_not_matter():
    hits = [hit(1 / n, age_s=n / 7) for n in range(1, 11)]
    assert MemorySignals.of(hits) == MemorySignals.of(hits[::-1])


def test_a_passage_from_the_future_is_new():
    # Given a clock that is behind the one that wrote the passage
    assert MemorySignals.of([hit(0.5, age_s=-60), hit(0.5, age_s=60)]).mean_age == 30


def test_an_empty_memory_is_all_zero():
    values = seen("Who?", signals=MemorySignals.of([]))
    assert not any(values[f.name] for f in FEATURES if f.group == "memory")


def test_the_turn_before_is_seen():
    values = seen("And then?", previous=PreviousTurn(0.25, "middle", "length"), history_turns=3)

    assert values["previous_confidence"] == 0.25
    assert values["previous_tier"] == pytest.approx(2 / 3)
    assert (values["previous_cut"], values["previous_stopped"]) == (1.0, 0.0)
    assert values["turns"] == pytest.approx(math.log1p(3) / math.log1p(64))


@pytest.mark.parametrize(
    ("reason", "feature"),
    [
        ("stop", "previous_stopped"),
        ("length", "previous_cut"),
        ("abstained", "previous_abstained"),
        ("error", "previous_failed"),
        ("deadline", "previous_failed"),
    ],
)
def test_each_finish_reason_has_its_place(reason, feature):
    values = seen("And then?", previous=PreviousTurn(1.0, "large", reason))
    flags = ("previous_stopped", "previous_cut", "previous_abstained", "previous_failed")
    assert [name for name in flags if values[name]] == [feature]
    assert values["previous_tier"] == 1.0


def test_constraints_are_seen():
    values = seen("Who?", deadline_slack_s=59, max_tokens=4096, minimum_quality=0.5, grounding="open")

    assert values["deadline_slack"] == pytest.approx(math.log1p(59) / math.log1p(3600))
    assert values["max_tokens"] == pytest.approx(1.0)
    assert values["minimum_quality"] == 0.5
    assert (values["grounding_memory"], values["grounding_open"], values["grounding_none"]) == (0, 1, 0)
    assert seen("Who?", deadline_slack_s=-5)["deadline_slack"] == 0.0
    assert seen("Who?", deadline_slack_s=None)["deadline_slack"] == 1.0
