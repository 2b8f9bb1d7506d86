"""The full-text index follows memory, passage by passage."""

from __future__ import annotations

from ruvllm.models.memory.keywords import KeywordIndex


def filled() -> KeywordIndex:
    index = KeywordIndex()
    index.add("a", "Lighthouse", "The lamp of the lighthouse burns whale oil.")
    index.add("b", "Harbour", "Ships enter the harbour by the northern channel.")
    index.add("c", "Keeper", "The keeper of the lighthouse is Hesper Quil, who trims the lamp.")
    return index


def test_a_rarer_word_counts_more() -> None:
    assert [node for node, _ in filled().search("Who is the keeper of the lighthouse?", 5)] == ["c", "a"]


def test_a_replaced_passage_is_found_by_its_new_words_only() -> None:
    index = filled()
    index.add("b", "Harbour", "The harbour froze.")
    assert index.search("northern channel", 5) == []
    assert [node for node, _ in index.search("frozen freezing froze harbours", 5)] == ["b"]
    assert len(index) == 3


def test_a_removed_passage_is_not_found() -> None:
    index = filled()
    index.remove("c")
    index.remove("never there")
    assert [node for node, _ in index.search("keeper lighthouse", 5)] == ["a"]


def test_words_that_say_nothing_find_nothing() -> None:
    index = filled()
    assert index.search("", 5) == []
    assert index.search("the of and", 5) == []
    assert index.search('"( OR AND NOT *:* ^', 5) == []
    assert KeywordIndex().search("anything", 5) == []
