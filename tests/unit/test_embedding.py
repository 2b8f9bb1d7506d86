"""Embedders: one contract, run over the real model and over the small one that needs no files."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvllm.errors import ModelUnavailable
from ruvllm.models.embedding import HashingEmbedder, MiniLm, readable
from ruvllm.models.memory.vector_index import VectorIndex
from tests.real_models import minilm

SENTENCES = [
    "The keeper lights the lamp at dusk.",
    "Bread.",
    "A long and winding sentence about fog nets, cisterns, goats and the people who look after them, "
    "written so that the batch holds texts of very different lengths.",
    "Où est la citerne ? Dans la vallée.",
]


@pytest.fixture(scope="module", params=[pytest.param("minilm", marks=pytest.mark.model), "hashing"])
def embedder(request):
    if request.param == "hashing":
        return HashingEmbedder()
    return minilm()


def cosine(embedder, a, b):
    one, other = embedder.embed([a, b])
    return float(one @ other)


def test_embedding_dimension_matches_config(embedder):
    # given an embedder that says its dimension; when it embeds n texts
    vectors = embedder.embed(SENTENCES)
    # then there are n rows of that dimension, of unit length, and none for no texts
    assert vectors.shape == (len(SENTENCES), embedder.dimension) == (4, 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert embedder.embed([]).shape == (0, 384)


def test_similar_texts_have_similar_embeddings(embedder):
    # given two wordings of one matter; when compared; then they are near
    one = "The goat chewed a hole in the net behind the school."
    other = "A hole in the net behind the school was chewed by a goat."
    assert cosine(embedder, one, other) > 0.8
    assert cosine(embedder, one, one) == pytest.approx(1, abs=1e-6)


def test_different_texts_have_different_embeddings(embedder):
    # given texts on different matters; when compared
    goat = "The goat chewed a hole in the net behind the school."
    tax = "Quarterly interest on municipal bonds rose sharply."
    # then they are far apart, farther than two wordings of one
    assert cosine(embedder, goat, tax) < 0.35
    assert cosine(embedder, goat, tax) < cosine(embedder, goat, "A goat ate the school's net.") - 0.2


def test_long_text_truncation(embedder):
    # given a text far above the limit, and one that differs from it only in its tail
    long = "fog net " * 2000
    # when both are embedded, beside a text that differs at its start
    vectors = embedder.embed([long, long + "bonds and interest", "bonds and interest " + long])
    # then the tail is ignored, the start is not
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.allclose(vectors[0], vectors[2], atol=1e-3)
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-6)


def test_batch_embedding_matches_individual(embedder):
    # given texts of very different lengths, a long one, an empty one and a repeated one
    texts = [*SENTENCES, "word " * 400, "", SENTENCES[0]]
    # when embedded together, in another order, and one by one
    together = embedder.embed(texts)
    reversed_order = embedder.embed(texts[::-1])[::-1]
    single = np.vstack([embedder.embed([text]) for text in texts])
    # then neighbours do not matter
    assert np.abs(together - single).max() <= 1e-5
    assert np.abs(together - reversed_order).max() <= 1e-5


@pytest.mark.parametrize("text", ["", " ", "\n\t \r\n", "\x00", "\x01\x02\x7f", "\u200b\u202e", "\ud800"])
def test_empty_string_handling(embedder, text):
    # given a text in which nothing can be read, and a memory of some that can
    index = VectorIndex(embedder.dimension)
    index.add_many([str(i) for i in range(4)], embedder.embed(SENTENCES))
    # when it is embedded, searched with, and kept
    (vector,) = embedder.embed([text])
    index.add("blank", vector)
    # then it is the zero vector, finds nothing and is found by nothing
    assert not vector.any()
    assert index.search(vector, 5) == []
    assert len(index.search(embedder.embed([SENTENCES[0]])[0], 10)) == 4


def test_symbols_outside_the_vocabulary_are_like_nothing(embedder):
    # given two texts of nothing but emoji; when embedded; then they are not taken for each other
    assert not embedder.embed(["😀😀", "🛰️"]).any()


@pytest.mark.parametrize(
    ("odd", "plain"),
    [
        ("fog\x00 net", "fog net"),
        ("f\x00og\x07 n\u200bet\x1b", "fog net"),
        ("fog\ud83d net", "fog\ufffd net"),  # half of a surrogate pair
        ("\u202efog net\u202c", "fog net"),  # right-to-left override
        ("\ufefffog\u200b net", "fog net"),
    ],
)
def test_characters_that_nobody_sees_change_nothing(embedder, odd, plain):
    one, other = embedder.embed([odd, plain])
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-6)
    assert one @ other == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("text", ["שלום עולם", "霧の網", "Ελλάδα", "naïve café", "x" * 20_000])
def test_any_script_gives_a_unit_vector_or_nothing(embedder, text):
    (vector,) = embedder.embed([text])
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6) or not vector.any()


def test_a_second_embedder_of_the_same_model_agrees(embedder):
    # given another instance of the same model; when both embed
    other = minilm(cached_texts=0) if isinstance(embedder, MiniLm) else HashingEmbedder()
    # then names and vectors are the same, to the bit
    assert other.name == embedder.name
    assert np.array_equal(other.embed(SENTENCES), embedder.embed(SENTENCES))


def test_what_is_returned_may_be_changed_without_harm(embedder):
    # given vectors that the caller overwrites; when the text is embedded again; then it is as before
    first = embedder.embed(SENTENCES)
    kept = first.copy()
    first[:] = 7
    assert np.array_equal(embedder.embed(SENTENCES), kept)


def test_a_surrogate_pair_is_the_character_that_it_stands_for():
    assert readable("\ud835\udc53 \ud835") == "\U0001d453 \ufffd"
    assert readable("a\tb\r\nc\x0b\x00") == "a\tb\r\nc"


@given(st.text(st.characters(), max_size=80))
@settings(derandomize=True, deadline=None)
def test_any_text_at_all_can_be_embedded(text):
    # given any string, lone surrogates among them; when read; then it is valid Unicode
    readable(text).encode("utf-8")
    norm = np.linalg.norm(HashingEmbedder().embed([text]))
    assert norm == pytest.approx(1, abs=1e-6) or norm == 0


def test_a_missing_model_file_is_named(tmp_path):
    with pytest.raises(ModelUnavailable, match=r"nowhere\.onnx"):
        MiniLm(tmp_path / "nowhere.onnx", tmp_path / "tokenizer.json")


def test_a_file_that_is_no_model_is_named(tmp_path):
    model, tokenizer = tmp_path / "broken.onnx", tmp_path / "tokenizer.json"
    model.write_bytes(b"half a download")
    tokenizer.write_bytes(b"{}")
    with pytest.raises(ModelUnavailable, match=r"broken\.onnx"):
        MiniLm(model, tokenizer)
