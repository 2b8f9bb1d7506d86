"""Documents become passages: by structure, within limits, and without losing a word."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.errors import InvalidConfiguration, InvalidDocument
from ruvllm.models.chunks import chunk_document

CORPUS = Path(__file__).parents[2] / "ruvllm/data/demo/corpus"
always = settings(derandomize=True, deadline=None, max_examples=150)


def markdown(content, **options):
    return chunk_document(content, "text/markdown", **{"title": None, **options})


def plain(content, **options):
    return chunk_document(content, "text/plain", **{"title": None, **options})


def jsonl(content, **options):
    return chunk_document(content, "application/jsonl", **{"title": None, **options})


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.md")), ids=lambda path: path.stem)
def test_each_section_of_the_demo_corpus_is_one_chunk(path):
    # given a document of short sections
    content = path.read_text(encoding="utf-8")
    head, *sections = re.split(r"^## ", content, flags=re.M)
    # when it is split
    chunks = markdown(content)
    # then every section is one chunk, titled by its path, with the text as it was written
    title = head.removeprefix("# ").strip()
    parted = [section.split("\n", 1) for section in sections]
    assert [(c.title, c.text) for c in chunks] == [(f"{title} > {h.strip()}", t.strip()) for h, t in parted]
    assert [c.position for c in chunks] == list(range(len(sections)))


def test_titles_are_the_path_of_headings():
    # given nested headings, one of them set with an underline, with markup in them
    content = (
        "Before.\n\n# The *big* `net`\n\nTop.\n\n### Deep\n\nDeep text.\n\nHut\n---\n\nHut text.\n\n# Other\n\nEnd.\n"
    )
    # when split; then each passage stands under its own path
    assert [(c.title, c.text) for c in markdown(content)] == [
        ("", "Before."),
        ("The big net", "Top."),
        ("The big net > Deep", "Deep text."),
        ("The big net > Hut", "Hut text."),
        ("Other", "End."),
    ]


def test_a_given_title_leads_the_path_and_is_not_said_twice():
    content = "# Nets\n\nOne.\n\n## Repair\n\nTwo.\n"
    assert [c.title for c in markdown(content, title="Guide")] == ["Guide > Nets", "Guide > Nets > Repair"]
    assert [c.title for c in markdown(content, title="Nets")] == ["Nets", "Nets > Repair"]


def test_headings_without_text_comments_breaks_and_front_matter_give_nothing():
    content = "---\ntitle: x\ntags:\n- a\n---\n# Empty\n\n## Also empty\n\n<!-- todo -->\n\n---\n"
    assert markdown(content) == []
    assert markdown("") == markdown(" \n\n") == plain("\n \n") == jsonl("\n\n") == []


def test_front_matter_may_end_with_dots():
    assert [c.text for c in markdown("---\ntitle: x\n...\nText.")] == ["Text."]


def test_line_ends_and_blank_lines_of_any_kind_are_seen():
    # given paragraphs parted by lines of white space, with the line ends of three systems
    for end in ("\n", "\r\n", "\r"):
        content = f"One. More of it.  {end} \t{end}Two. More{end}of it.{end}{end}{end}Three."
        # when split; then paragraphs part where they do, and no line end but one is left
        texts = [c.text for c in plain(content, max_chars=17, min_chars=0)]
        assert texts == ["One. More of it.", "Two. More\nof it.", "Three."]


def test_text_that_only_starts_like_front_matter_is_kept():
    # given a thematic break, prose and a second break; when split; then the prose is there
    assert [c.text for c in markdown("---\n\nNot: at all.\nBut prose here.\n\n---\n\nEnd.")] == [
        "Not: at all.\nBut prose here.\n\nEnd."
    ]


@pytest.mark.parametrize(
    "block",
    [
        "- one\n- two\n  - three\n\n  more of two",
        "```python\n# not a heading\n\nx = 1\n```",
        "> said one\n> # said two",
        "| a | b |\n| - | - |\n| 1 | 2 |",
        "    # indented code\n\n    y = 2",
    ],
    ids=["list", "fence", "quote", "table", "code"],
)
def test_blocks_stay_whole_where_they_fit(block):
    # given a block between two paragraphs, with room for it but not for it and either paragraph
    content = f"# T\n\n{'Before it. ' * 8}\n\n{block}\n\n{'After it. ' * 8}\n"
    # when split; then it is a chunk of its own, unbroken
    assert block.strip() in [c.text for c in markdown(content, max_chars=95, min_chars=0)]


def test_a_long_paragraph_is_cut_between_sentences():
    # given a paragraph of short sentences above the limit
    sentences = [f"Sentence number {i} says “enough”." for i in range(40)]
    # when split; then every piece ends where a sentence does, and nothing is lost
    texts = [c.text for c in plain(" ".join(sentences), max_chars=200, min_chars=50)]
    assert len(texts) > 5
    assert " ".join(texts) == " ".join(sentences)
    assert all(text.endswith("”.") for text in texts)


def test_a_long_list_and_a_long_fence_are_cut_between_lines():
    items = [f"- item {i}. It has two sentences" for i in range(40)]
    code = ["```", *(f"call({i})  # why. not" for i in range(40)), "```"]
    for lines in (items, code):
        texts = [c.text for c in markdown("\n".join(lines), max_chars=150, min_chars=0)]
        assert len(texts) > 5
        assert [line for text in texts for line in text.split("\n")] == lines


def test_a_sentence_and_a_word_that_are_too_long_are_cut_too():
    texts = [c.text for c in plain("a few words in one sentence " + "x" * 50, max_chars=20, min_chars=0)]
    assert texts == ["a few words in one", "sentence", "x" * 20, "x" * 20, "x" * 10]


def test_small_neighbours_of_one_section_share_a_chunk_and_sections_never_do():
    # given small paragraphs in two sections; when split; then each section is one chunk
    content = "# A\n\nOne.\n\nTwo.\n\nThree.\n\n# B\n\nFour.\n"
    assert [c.text for c in markdown(content)] == ["One.\n\nTwo.\n\nThree.", "Four."]


def test_a_tiny_rest_takes_from_the_chunk_before():
    # given four paragraphs of 40 and a tiny one; when chunks may hold 170 and should have 60
    paragraphs = [c * 40 for c in "abcd"] + ["tiny"]
    texts = [c.text for c in plain("\n\n".join(paragraphs), max_chars=168, min_chars=60)]
    # then the rest is not alone: it took paragraphs until it was large enough
    assert texts == ["\n\n".join(paragraphs[:2]), "\n\n".join(paragraphs[2:])]


def test_json_lines_carry_titles_and_metadata():
    # given lines with and without title, one with a field that is no string, one blank
    content = (
        '{"text": "Fog is water.", "title": "Fog", "id": "f1", "source": "a.txt", "year": 2020}\n\n'
        '{"text": "Nets catch it.\\u2028Often."}\r\n{"text": "  "}'
    )
    # when split; then each is a passage, other strings are metadata, the document's title stands in
    fog, nets = jsonl(content, title="Book")
    assert (fog.title, fog.text, fog.metadata) == ("Fog", "Fog is water.", {"id": "f1", "source": "a.txt"})
    assert (nets.title, nets.text, nets.position, nets.metadata) == (
        "Book",
        "Nets catch it.\u2028Often.",
        1,
        {},
    )


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{broken", "not JSON"),
        ("[1]", "list, not an object"),
        ('{"title": "t"}', "no `text`"),
        ('{"text": 7}', "`text` must be a string, got 7"),
        ('{"text": "t", "id": 7}', "`id` must be a string, got 7"),
        ('{"text": "t", "title": null}', "`title` must be a string, got None"),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong(line, what):
    with pytest.raises(InvalidDocument, match=f"line 3.*{re.escape(what)}"):
        jsonl('{"text": "good"}\n\n' + line)


def test_an_unknown_type_and_impossible_limits_are_refused():
    with pytest.raises(InvalidDocument, match="application/pdf"):
        chunk_document("x", "application/pdf", title=None)
    with pytest.raises(InvalidConfiguration, match="300 to 200"):
        plain("x", max_chars=200, min_chars=300)


def test_what_is_embedded_starts_with_the_title():
    titled, untitled = markdown("# T\n\nx")[0], plain("x")[0]
    assert (titled.embedding_text, untitled.embedding_text) == ("T\nx", "x")


words = st.text(
    st.characters(exclude_categories=["Cs", "Z", "Cc"], exclude_characters="。！？"), min_size=1, max_size=30
)
gaps = st.sampled_from([" ", "  ", "\n", "\n\n", "\n \n\n\n", ". ", ".\n", "\r\n\r\n", "\t"])
texts = st.lists(st.tuples(words, gaps), max_size=60).map(lambda pairs: "".join(w + g for w, g in pairs))
limits = st.integers(31, 120).flatmap(lambda top: st.tuples(st.just(top), st.integers(0, top)))


@given(texts, limits)
@always
def test_no_word_of_plain_text_is_lost(text, limit):
    # given any text of words shorter than the limit; when split
    chunks = plain(text, max_chars=limit[0], min_chars=limit[1])
    # then its words are all there, in order and unbroken
    assert [word for c in chunks for word in c.text.split()] == text.removeprefix("\ufeff").split()


markup = st.sampled_from(["# ", "## ", "- ", "> ", "```\n", "| a | b |\n| - | - |\n", "    ", "---\n", "1. ", "<b>"])
documents = st.lists(st.one_of(markup, words, gaps), max_size=60).map("".join)


@given(st.one_of(texts, documents, st.text(max_size=400)), st.sampled_from([markdown, plain]), st.integers(1, 60))
@always
def test_every_chunk_is_within_the_limit_and_has_text(text, split, limit):
    # given any content at all; when split with a small limit
    chunks = split(text, max_chars=limit, min_chars=limit // 3)
    # then no chunk is empty, padded or too long, positions count up, and a second run agrees
    assert all(1 <= len(c.text) <= limit and c.text == c.text.strip() for c in chunks)
    assert [c.position for c in chunks] == list(range(len(chunks)))
    assert split(text, max_chars=limit, min_chars=limit // 3) == chunks


@given(st.text(max_size=400), st.integers(1, 60))
@always
def test_no_character_of_plain_text_is_lost(text, limit):
    # given any text, words above the limit too; when split; then only white space is gone
    chunks = plain(text, max_chars=limit, min_chars=0)
    assert "".join("".join(c.text.split()) for c in chunks) == "".join(text.removeprefix("\ufeff").split())
