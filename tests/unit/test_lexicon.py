"""The lexicon: names, titles and terms of passages, whatever the order they came in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruvllm.models.memory.lexicon import Lexicon, names_of, terms_of, wording

PASSAGES = {
    "a": ("Journal of Psychotherapy Integration", "It is published by the American Psychological Association."),
    "b": ("American Psychological Association", "Its first president was G. Stanley Hall, in 1892."),
    "c": ("Stanley Hall", "A psychologist who founded a laboratory in Baltimore in 1892."),
    "d": ("Baltimore (city)", "A city in Maryland."),
}


def lexicon_of(order: list[str]) -> Lexicon:
    lexicon = Lexicon()
    for node_id in order:
        lexicon.add(node_id, *PASSAGES[node_id])
    return lexicon


def test_names_are_capitalised_runs_and_years() -> None:
    assert list(names_of("The House of Commons met Anna Lindqvist in 1892, in the city.")) == [
        "house of commons",
        "anna lindqvist",
        "1892",
    ]


def test_terms_lose_plurals_and_stop_words() -> None:
    assert list(terms_of("What are the towers of the studies?")) == ["tower", "stud"]


def test_a_title_is_found_in_a_text_the_longest_first() -> None:
    lexicon = lexicon_of(list("abcd"))
    text = "Who led the American Psychological Association before Stanley Hall moved to Baltimore?"
    assert lexicon.titles_in(text) == {"american psychological association", "stanley hall", "baltimore"}
    assert lexicon.titled("baltimore") == {"d"}


def test_a_name_in_common_links_two_passages() -> None:
    lexicon = lexicon_of(list("abcd"))
    reached = lexicon.walk({"a": 1.0}, [])
    assert set(reached) == {"a", "b"}  # through the association's name
    assert reached["a"] > reached["b"] > 0
    assert lexicon.walk({"a": 1.0}, ["1892"]).keys() == {"a", "b", "c"}


def test_what_everybody_holds_links_nothing() -> None:
    lexicon = Lexicon()
    for number in range(40):
        lexicon.add(str(number), f"Passage {number}", "Seen in Paris.")
    assert lexicon.shared_weight("paris") == 0
    assert lexicon.walk({"0": 1.0}, ["paris"]) == {"0": 1.0}


def test_a_rarer_term_weighs_more() -> None:
    lexicon = lexicon_of(list("abcd"))
    assert lexicon.rarity("laboratory") > lexicon.rarity("1892") > 0
    assert lexicon.rarity("unheard") > lexicon.rarity("laboratory")


@given(st.permutations("abcd"), st.lists(st.sampled_from("abcd"), max_size=4))
def test_order_and_detours_do_not_matter(order: list[str], detour: list[str]) -> None:
    plain = lexicon_of(list("abcd"))
    other = lexicon_of(detour)
    for node_id in detour:
        other.remove(node_id)
    for node_id in order:
        other.add(node_id, *PASSAGES[node_id])
    text = " ".join(text for _, text in PASSAGES.values())
    assert other.titles_in(text) == plain.titles_in(text)
    assert other.walk({"b": 1.0}, ["baltimore"]) == pytest.approx(plain.walk({"b": 1.0}, ["baltimore"]))
    assert [other.rarity(t) for t in ("1892", "city")] == [plain.rarity(t) for t in ("1892", "city")]


def test_a_removed_passage_leaves_nothing() -> None:
    lexicon = lexicon_of(list("abcd"))
    for node_id in "abcd":
        lexicon.remove(node_id)
    assert len(lexicon) == 0
    assert lexicon.titles_in("Stanley Hall in Baltimore") == set()
    assert not lexicon._holders
    assert not lexicon._frequency


def test_a_bracket_at_a_titles_end_is_no_part_of_the_name() -> None:
    assert wording("Ripon_(ship)", "Sank in 1901.").title == "ripon"
