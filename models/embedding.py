"""Text -> a unit vector whose direction says what the text is about.

Invariant: a text's vector depends on that text alone, never on its neighbours in a batch, so a fold,
a replay and a test agree bit for bit. A text in which nothing can be read (empty, blank, control
characters, only symbols that the vocabulary lacks) has the zero vector: it is similar to nothing, and
`memory.vector_index` neither stores it nor searches with it.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ruvllm.errors import ModelUnavailable

Float32s = NDArray[np.float32]


class Embedder(Protocol):
    """The port: what memory, documents and retrieval know of an embedding model."""

    @property
    def name(self) -> str:
        """Model and version. It travels in events: vectors of two names are never compared."""
        ...

    @property
    def dimension(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Float32s:
        """n texts -> (n, dimension) float32; each row has length 1, or 0 if nothing could be read."""
        ...


def readable(text: str) -> str:
    """The text without what no model reads: NUL, control and format characters, lone surrogates.

    Line ends and tabs stay. Surrogate pairs become the character that they stand for.
    """
    if text.isascii() and text.isprintable():
        return text
    paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return "".join(c for c in paired if c in "\t\n\r" or unicodedata.category(c)[0] != "C")


class MiniLm:
    """all-MiniLM-L6-v2 (Wang et al. 2020, MiniLM; sentence-transformers) as int8 ONNX, 384 dimensions.

    Mean of the last hidden states over the text's tokens, then L2 normalisation. Of a long text the
    first `max_tokens` tokens count, [CLS] and [SEP] among them; its tail is ignored. Texts go through
    the model one by one: padding would cost more than a batch saves on one thread, and a model whose
    activations are quantised dynamically would take its scale from the whole batch.
    """

    dimension = 384

    def __init__(
        self,
        model_file: Path,
        tokenizer_file: Path,
        *,
        threads: int = 1,
        max_tokens: int = 256,
        cached_texts: int = 1024,
    ) -> None:
        """Load both files (0.5 s). Raises ModelUnavailable if one is missing or not what it should be."""
        model, tokenizer = _read(model_file), _read(tokenizer_file)
        contents = hashlib.sha256(model)
        contents.update(tokenizer)
        self.name = f"all-minilm-l6-v2-int8-{contents.hexdigest()[:8]}"
        self._session = _session(model, threads, model_file)
        self._tokenizer = _tokenizer(tokenizer, max_tokens, tokenizer_file)
        special = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")
        self._unread = {self._tokenizer.token_to_id(token) for token in special}
        # Keyed by token ids, not by text: the key is bounded by max_tokens.
        self._vector = lru_cache(maxsize=cached_texts)(self._forward)

    def embed(self, texts: Sequence[str]) -> Float32s:
        """n texts -> (n, 384) float32, unit length or zero. Safe to call from several threads."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            tokens: list[int] = self._tokenizer.encode(readable(text)).ids
            if not self._unread.issuperset(tokens):
                vectors[row] = self._vector(tuple(tokens))
        return vectors

    def _forward(self, tokens: tuple[int, ...]) -> Float32s:
        ids = np.array([tokens], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run(None, feed)[0]  # (1, tokens, 384); no padding, so the mask is all ones
        return _unit(hidden[0].mean(axis=0, dtype=np.float64))


class HashingEmbedder:
    """Signed feature hashing (Weinberger et al. 2009) of words and character trigrams: no model file.

    A small real embedder for tests, benches and fault runs: texts that share words, or word stems, are
    similar; it knows no synonyms. Features weigh 1 + ln(count). Of a long text the first `max_words`
    words count.
    """

    def __init__(self, *, dimension: int = 384, max_words: int = 256) -> None:
        self.name = f"hashing-v1-{dimension}"
        self.dimension = dimension
        self._max_words = max_words

    def embed(self, texts: Sequence[str]) -> Float32s:
        """n texts -> (n, dimension) float32, unit length or zero."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._vector(text)
        return vectors

    def _vector(self, text: str) -> Float32s:
        normal = unicodedata.normalize("NFKC", readable(text)).lower()
        words = re.findall(r"\w+", normal)[: self._max_words]
        counts = Counter(chain.from_iterable(_features(word) for word in words))
        total = np.zeros(self.dimension)
        for feature, count in counts.items():
            slot, sign = _hashed(feature)
            total[slot % self.dimension] += sign * (1 + math.log(count))
        return _unit(total)


def _features(word: str) -> list[str]:
    edged = f"<{word}>"
    return [edged, *("#" + edged[i : i + 3] for i in range(len(edged) - 2))]


@lru_cache(maxsize=65536)
def _hashed(feature: str) -> tuple[int, int]:
    raw = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "big")
    return raw >> 1, 1 if raw & 1 else -1


def _unit(vector: NDArray[np.float64]) -> Float32s:
    norm = float(np.linalg.norm(vector))
    return (vector / norm if norm else vector).astype(np.float32)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ModelUnavailable(f"the embedding model's file {file} cannot be read: {error.strerror}") from error


def _session(model: bytes, threads: int, file: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other models share the cores
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise ModelUnavailable(f"{file} is not an ONNX model that can be run: {error}") from error
    width = session.get_outputs()[0].shape[-1]
    if width != MiniLm.dimension:
        raise ModelUnavailable(f"{file} gives vectors of {width}, all-MiniLM-L6-v2 gives {MiniLm.dimension}")
    return session


def _tokenizer(raw: bytes, max_tokens: int, file: Path) -> Any:
    try:
        tokenizer = Tokenizer.from_buffer(raw)
    except Exception as error:  # tokenizers raises plain Exception
        raise ModelUnavailable(f"{file} is not a tokenizer.json: {error}") from error
    tokenizer.no_padding()  # the file asks for 128 tokens, padded
    tokenizer.enable_truncation(max_tokens)
    return tokenizer
